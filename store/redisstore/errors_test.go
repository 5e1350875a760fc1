package redisstore

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// reply is an error reply as go-redis hands it out.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

var _ redis.Error = reply("")

// What the failure policy may answer for, and what it must not.
func TestWhichErrorsPass(t *testing.T) {
	for text, passes := range map[string]bool{
		"LOADING Redis is loading the dataset in memory":                          true,
		"READONLY You can't write against a read only replica.":                   true,
		"OOM command not allowed when used memory > 'maxmemory'.":                 true,
		"NOREPLICAS Not enough good replicas to write.":                           true,
		"ERR max number of clients reached":                                       true,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set": true,
		"CLUSTERDOWN The cluster is down":                                         true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                 true,
		"BUSY Redis is busy running a script.":                                    true,
		"MISCONF Redis is configured to save RDB snapshots":                       true,
		"@user_script: 41: -OOM command not allowed when used memory":             true, // Redis 6
		"ERR @user_script: 41: -READONLY You can't write against a read only":     true,
		"@user_script:41: -NOREPLICAS Not enough good replicas to write.":         true,
		"WRONGTYPE Operation against a key holding the wrong kind of value":       false,
		"@user_script: 41: WRONGTYPE Operation against a key holding the wrong":   false,
		"NOPERM this user has no permissions to run the 'evalsha' command":        false,
		"NOAUTH Authentication required.":                                         false,
		"CROSSSLOT Keys in request don't hash to the same slot":                   false,
		"TIERLIMIT tl:{OOM} does not hold counters":                               false,
		"ERR Error running script: user_script:3: attempt to index a nil value":   false,
	} {
		if got := errors.Is(classify(reply(text)), tierlimit.ErrStoreUnavailable); got != passes {
			t.Errorf("%s: passes %v, want %v", text, got, passes)
		}
	}
	if !errors.Is(classify(errors.New("EOF")), tierlimit.ErrStoreUnavailable) {
		t.Error("a lost connection does not pass")
	}
}
