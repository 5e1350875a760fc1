package redisstore

import (
	"errors"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A connection may take longer to come about than a decision, nothing is sent twice, and a
// reply is waited for beyond the budget, for whoever comes next.
func TestOptionsSuitABudget(t *testing.T) {
	const budget = 50 * time.Millisecond
	single, err := Options("redis://127.0.0.1:6379", budget)
	if err != nil {
		t.Fatal(err)
	}
	sentinel, err := SentinelOptions("redis://127.0.0.1:26379?master_name=m", budget)
	if err != nil {
		t.Fatal(err)
	}
	many, err := ClusterOptions("redis://127.0.0.1:6379", budget)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct {
		dial, read, write, pool time.Duration
		retries                 int
		deadlines               bool
	}{
		"single":   {single.DialTimeout, single.ReadTimeout, single.WriteTimeout, single.PoolTimeout, single.MaxRetries, single.ContextTimeoutEnabled},
		"sentinel": {sentinel.DialTimeout, sentinel.ReadTimeout, sentinel.WriteTimeout, sentinel.PoolTimeout, sentinel.MaxRetries, sentinel.ContextTimeoutEnabled},
		"cluster":  {many.DialTimeout, many.ReadTimeout, many.WriteTimeout, many.PoolTimeout, many.MaxRetries, many.ContextTimeoutEnabled},
	} {
		if o.dial != time.Second || o.read != 2*budget || o.write != 2*budget || o.pool != budget || o.retries != -1 || !o.deadlines {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestReplicasOfAClusterAreNotAskedToCount(t *testing.T) {
	for _, option := range []string{"read_only=true", "route_by_latency=true", "route_randomly=true"} {
		var wrong *tierlimit.FieldError
		if _, err := ClusterOptions("redis://127.0.0.1:6379?"+option, 0); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", option, err)
		}
	}
}
