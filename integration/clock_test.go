package integration

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// The clock of a Redis cannot be set. A setClock lets the scripts on a real one
// look at another: each is sent with this ahead of it, in which TIME is what a
// key holds. Keys do not expire then, as their server's clock is still its own;
// that they do expire is shown without it.
const clockShim = `
local server = redis
local redis = { error_reply = server.error_reply, status_reply = server.status_reply }
local function answer(ask, command, ...)
  if command == 'TIME' then
    local ms = tonumber(server.call('GET', '%s'))
    return { math.floor(ms / 1000), (ms %% 1000) * 1000 }
  elseif command == 'SET' then
    local key, value, _, _, condition = ...
    if condition then
      return ask(command, key, value, condition)
    end
    return ask(command, key, value)
  elseif command == 'PTTL' then
    return server.call('EXISTS', (...)) == 1 and 1000 or -2
  elseif command == 'PEXPIREAT' then
    return 1
  end
  return ask(command, ...)
end
redis.call = function(...) return answer(server.call, ...) end
redis.pcall = function(...) return answer(server.pcall, ...) end
`

type setClock struct {
	sources map[string]string // by the SHA of the script as it is
	shas    map[string]string
}

func newSetClock(key string) *setClock {
	c := &setClock{sources: map[string]string{}, shas: map[string]string{}}
	for _, s := range []scripts.Script{scripts.Take, scripts.Reset, scripts.Hold, scripts.Settle, scripts.Renew, scripts.Open} {
		source := fmt.Sprintf(clockShim, key) + s.Source
		sum := sha1.Sum([]byte(source))
		c.sources[s.Source], c.shas[s.SHA] = source, hex.EncodeToString(sum[:])
	}
	return c
}

func (c *setClock) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *setClock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			c.replace(cmd)
		}
		return next(ctx, cmds)
	}
}

func (c *setClock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.replace(cmd)
		return next(ctx, cmd)
	}
}

// replace changes a command to call the variant of its script that reads another clock.
func (c *setClock) replace(cmd redis.Cmder) {
	switch args := cmd.Args(); args[0] {
	case "evalsha":
		args[1] = c.shas[args[1].(string)]
	case "eval":
		args[1] = c.sources[args[1].(string)]
	}
}

func TestRedisScriptsClock(t *testing.T) {
	admin := newClient(t, redisServer.URL, testBudget)
	storetest.RunClock(t, func(t *testing.T) storetest.Harness {
		key := fmt.Sprintf("clock-%d", time.Now().UnixNano())
		var now time.Time
		set := func(to time.Time) {
			now = to
			if err := admin.Set(t.Context(), key, to.UnixMilli(), time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
		}
		set(time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC))
		client := newClient(t, redisServer.URL, testBudget)
		client.AddHook(newSetClock(key))
		return storetest.Harness{
			Store:   newStore(t, client),
			Now:     func() time.Time { return now },
			SetNow:  set,
			Advance: func(d time.Duration) { set(now.Add(d)) },
		}
	})
}
