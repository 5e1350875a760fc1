package integration

import (
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

const (
	toldOfLoss = `"msg":"redis cannot be reached`
	backAgain  = `"msg":"redis answers again"`
)

var redisFaults = []fault{
	{
		name: "Redis is slow, within the budget", promise: "every decision is made in Redis, none degraded", steady: true,
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Replies(delayed(30 * time.Millisecond)) }, func() { f.RedisWire.Replies(nil) }).
				answered().undisturbed().accounted().bounded(1)
		},
	},
	{
		name: "Redis is slower than the budget", promise: "the policy answers within the budget; each charge is counted at most once; under `local` at most the max once more",
		run: func(f *field) {
			f.through(2*time.Second, func() { f.RedisWire.Replies(delayed(400 * time.Millisecond)) }, func() { f.RedisWire.Replies(nil) }).
				answered().disturbed().accounted().bounded(2).closedHolds().said(toldOfLoss, 2)
		},
	},
	{
		name: "Redis is frozen", promise: "the policy answers within the budget; each charge is counted at most once; under `local` at most the max once more",
		run: func(f *field) {
			f.through(2*time.Second, func() { f.must(f.Redis.Freeze()) }, func() { f.must(f.Redis.Thaw()) }).
				answered().disturbed().accounted().bounded(2).closedHolds().said(toldOfLoss, 2).said(backAgain, 2)
		},
	},
	{
		name: "Redis is down when the service starts", promise: "it starts, the policy answers, and Redis counts once it is there", config: rig.Config{Down: true},
		run: func(f *field) {
			f.through(time.Second, func() {}, func() { f.must(f.Redis.Start()) }).
				answered().disturbed().accounted().bounded(2).closedHolds().said(toldOfLoss, 2)
		},
	},
	{
		name: "Redis is killed and started again, empty", promise: "the policy answers within the budget; at most the max once more under `local`, and once more for what Redis forgot",
		run: func(f *field) {
			f.through(time.Second, func() { f.must(f.Redis.Kill()) }, func() { f.must(f.Redis.Start()) }).
				answered().disturbed().bounded(3).forgot(2)
		},
	},
	{
		name: "SCRIPT FLUSH in a loop", promise: "nobody notices", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			stop := f.again(5*time.Millisecond, func() error { return f.Client.ScriptFlush(f.Context()).Err() })
			f.through(time.Second, func() {}, stop).answered().undisturbed().accounted().bounded(1)
		},
	},
	{
		name: "FLUSHALL, three times", promise: "no request fails; each time at most the max of a short window once more", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			f.through(1500*time.Millisecond, func() {
				for range 3 {
					f.must(f.Client.FlushAll(f.Context()).Err())
					time.Sleep(300 * time.Millisecond)
				}
			}, func() {}).answered().undisturbed().bounded(4).forgot(4)
		},
	},
	{
		name: "failover to a replica that lags", promise: "at most the max once more for what the replica had not heard, and once more under `local`; counted again by itself",
		run: func(f *field) {
			replica, link := f.replica()
			// From here on the replica hears nothing, and clients are told yes.
			f.must(link.ReplicaOf(f.Context(), "127.0.0.1", "1").Err())
			f.through(time.Second, func() { f.must(f.Redis.Kill()) }, func() {
				f.must(link.ReplicaOf(f.Context(), "no", "one").Err())
				f.RedisWire.Upstream(replica.Addr)
			}).answered().disturbed().bounded(3).forgot(2)
		},
	},
	{
		name: "Redis is out of memory", promise: "the policy answers; counted again once there is room",
		run: func(f *field) {
			f.through(time.Second, func() { f.must(f.Client.ConfigSet(f.Context(), "maxmemory", "1").Err()) },
				func() { f.must(f.Client.ConfigSet(f.Context(), "maxmemory", "0").Err()) }).
				answered().disturbed().accounted().bounded(2).closedHolds()
		},
	},
	{
		name: "Redis is read-only", promise: "the policy answers; counted again once it can be written to",
		run: func(f *field) {
			f.through(time.Second, func() { f.must(f.Client.ReplicaOf(f.Context(), "127.0.0.1", "1").Err()) },
				func() { f.must(f.Client.ReplicaOf(f.Context(), "no", "one").Err()) }).
				answered().disturbed().accounted().bounded(2).closedHolds()
		},
	},
	{
		name: "replies are lost after the charge", promise: "each charge is counted at most once",
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Replies(f.now(20, proxy.Fate{Lost: true})) }, func() { f.RedisWire.Replies(nil) }).
				answered().disturbed().accounted().bounded(2).closedHolds()
		},
	},
	{
		name: "connections are cut in the middle of a reply", promise: "each charge is counted at most once",
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Replies(f.now(10, proxy.Fate{Torn: true})) }, func() { f.RedisWire.Replies(nil) }).
				answered().disturbed().accounted().bounded(2).closedHolds()
		},
	},
	{
		name: "connections to Redis are refused", promise: "the policy answers within the budget, and Redis counts again by itself",
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Refuse(true) }, func() { f.RedisWire.Refuse(false) }).
				answered().disturbed().accounted().bounded(2).closedHolds().said(toldOfLoss, 2)
		},
	},
	{
		name: "Redis is a black hole", promise: "the policy answers within the budget, and Redis counts again by itself",
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Hole(true) }, func() { f.RedisWire.Hole(false) }).
				answered().disturbed().accounted().bounded(2).closedHolds().said(toldOfLoss, 2)
		},
	},
	{
		name: "the clock of Redis is stepped", promise: "forward, a window ends early; back, no window lasts longer than its length", alone: true, run: aSteppedClock,
	},
	{
		name: "one connection to Redis, and it is slow", promise: "who cannot be sent within the budget is answered by the policy", config: rig.Config{RedisURL: "?pool_size=1"},
		run: func(f *field) {
			f.through(time.Second, func() { f.RedisWire.Replies(delayed(70 * time.Millisecond)) }, func() { f.RedisWire.Replies(nil) }).
				answered().accounted().bounded(2).closedHolds()
		},
	},
}

// replica starts a replica of Redis, waits until it is in sync, and returns it with a client.
func (f *field) replica() (*servers.Process, *redis.Client) {
	f.Helper()
	replica, err := f.Machine.Redis("--replicaof", "127.0.0.1", f.Redis.Port, "--repl-diskless-sync-delay", "0")
	f.must(err)
	client := newClient(f.T, "redis://"+replica.Addr, time.Second)
	f.must(f.Await(10*time.Second, "the replica follows", func() bool {
		return strings.Contains(client.Info(f.Context(), "replication").Val(), "master_link_status:up")
	}))
	return replica, client
}

// now is a fate that befalls one in so many replies to scripts.
func (f *field) now(oneIn int, fate proxy.Fate) func(proxy.Reply) proxy.Fate {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(f.random.Uint64(), 0))
	return func(r proxy.Reply) proxy.Fate {
		mu.Lock()
		defer mu.Unlock()
		if r.Script && random.IntN(oneIn) == 0 {
			return fate
		}
		return proxy.Fate{}
	}
}

// again does something over and over, until stop returns.
func (f *field) again(every time.Duration, do func() error) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if err := do(); err != nil {
				f.Error(err)
				return
			}
			select {
			case <-over:
				return
			case <-time.After(every):
			}
		}
	}()
	return func() { close(over); <-done }
}

func aSteppedClock(f *field) {
	t := f.T
	client, set := clockClient(t)
	s, subject := newStore(t, client), newSubject(t)
	ask := func(at time.Time) tierlimit.Outcome {
		set(at)
		o, err := s.Take(t.Context(), charge(subject, 1, perMinute(3)))
		f.must(err)
		return o
	}
	noon := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for range 3 {
		f.hold(ask(noon).Allowed, "not allowed")
	}
	back := ask(noon.Add(-time.Hour))
	f.hold(!back.Allowed && back.Counts[0].Reset <= time.Minute.Milliseconds(), "an hour back: %+v", back)
	f.hold(ask(noon.Add(-time.Hour+time.Minute)).Allowed, "a minute later it is not allowed again")
	forth := ask(noon.Add(24 * time.Hour))
	f.hold(forth.Allowed && forth.Counts[0].Used == 1, "a day forward: %+v", forth)
	f.tell("an hour back: denied for %d s and no longer; a day forward: a new window", int(back.Counts[0].Reset/1000))
}
