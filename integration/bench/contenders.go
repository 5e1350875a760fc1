package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	throttledredis "github.com/throttled/throttled/v2/store/goredisstore.v9"
	ululelimiter "github.com/ulule/limiter/v3"
	uluredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A decide asks whether a subject may go on.
type decide func(ctx context.Context, subject string) (allowed bool, err error)

// A contender decides in its own way. open is called for each measurement with
// the max of each of the workload's windows.
type contender struct {
	name string
	open func(addr string, windows []window) (decide, func(), error)
}

type window struct {
	name   string
	max    int64
	length time.Duration
}

// The names of those that others are compared with.
const (
	ours      = "tierlimit"
	reference = "redis_rate v10"
)

var contenders = []contender{
	{ours, openOurs},
	{reference, openRedisRate},
	{"ulule/limiter v3", openUlule},
	{"throttled v2", openThrottled},
	{"INCR, EXPIRE", openIncr},
	{"AutoPipeline", openAutoPipeline},
}

// newClient has a connection for each caller, up to what go-redis would open by
// itself on a larger machine: its default of 20 on two cores costs the peers a
// tenth.
func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, PoolSize: 64, ReadTimeout: 10 * time.Second, PoolTimeout: 30 * time.Second})
}

func openOurs(addr string, windows []window) (decide, func(), error) {
	lim, stop, err := newLimiter(addr, windows)
	if err != nil {
		return nil, nil, err
	}
	return deciding(lim), stop, nil
}

func deciding(lim *tierlimit.Limiter) decide {
	return func(ctx context.Context, subject string) (bool, error) {
		d, err := lim.Take(ctx, tierlimit.Request{Subject: subject, Cost: 1})
		return d.Allowed, err
	}
}

// The benchmark with holds charges an estimate of 3, and settles at a cost of 4. redis_rate
// cannot settle; it charges 1 more.
const estimate, costs = 3, 4

var correcting = []contender{{ours, openOursHeld}, {reference, openRedisRateTwice}}

func openOursHeld(addr string, windows []window) (decide, func(), error) {
	return openHolds(addr, windows, func(ctx context.Context, lim *tierlimit.Limiter, id string) error {
		_, err := lim.Settle(ctx, id, costs, nil)
		return err
	})
}

// openOursHolding is openOurs with a hold for each charge.
func openOursHolding(addr string, windows []window) (decide, func(), error) {
	return openHolds(addr, windows, func(context.Context, *tierlimit.Limiter, string) error { return nil })
}

func openHolds(addr string, windows []window, then func(context.Context, *tierlimit.Limiter, string) error) (decide, func(), error) {
	lim, stop, err := newLimiter(addr, windows)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, subject string) (bool, error) {
		d, err := lim.Take(ctx, tierlimit.Request{Subject: subject, Cost: estimate, Hold: time.Hour})
		if err != nil || !d.Allowed {
			return false, err
		}
		return true, then(ctx, lim, d.ID)
	}, stop, nil
}

func openRedisRateTwice(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	lim := redis_rate.NewLimiter(client)
	w := windows[0]
	limit := redis_rate.Limit{Rate: int(w.max), Burst: int(w.max), Period: w.length}
	return func(ctx context.Context, subject string) (bool, error) {
		res, err := lim.AllowN(ctx, subject, limit, estimate)
		if err != nil || res.Allowed == 0 {
			return false, err
		}
		_, err = lim.AllowN(ctx, subject, limit, costs-estimate)
		return true, err
	}, func() { client.Close() }, nil
}

// onCluster are those who are measured on a Cluster.
var onCluster = []contender{{ours, openOursOnCluster}, {reference, openRedisRateOnCluster}}

// budget is twenty times the default: what is measured is speed, and on two cores shared
// with Redis and the load a thousand callers can wait long.
const budget = time.Second

func openOursOnCluster(addr string, windows []window) (decide, func(), error) {
	opts, err := redisstore.ClusterOptions("redis://"+addr, budget)
	if err != nil {
		return nil, nil, err
	}
	client := redis.NewClusterClient(opts)
	store, err := redisstore.NewCluster(client, redisstore.Config{Budget: budget})
	if err != nil {
		return nil, nil, err
	}
	lim, err := limiterOn(store, windows)
	if err != nil {
		return nil, nil, err
	}
	return deciding(lim), func() { store.Close(context.Background()); client.Close() }, nil
}

// newLimiter is what a user of the package makes, with everybody on one tier.
func newLimiter(addr string, windows []window) (*tierlimit.Limiter, func(), error) {
	opts, err := redisstore.Options("redis://"+addr, budget)
	if err != nil {
		return nil, nil, err
	}
	client := redis.NewClient(opts)
	store, err := redisstore.New(client, redisstore.Config{Budget: budget})
	if err != nil {
		return nil, nil, err
	}
	lim, err := limiterOn(store, windows)
	return lim, func() { store.Close(context.Background()); client.Close() }, err
}

func limiterOn(store tierlimit.Store, windows []window) (*tierlimit.Limiter, error) {
	tier := tiers.Tier{Key: "bench", Name: "Bench", Default: true, OnStoreError: tierlimit.Closed, Limits: map[string]tiers.Limit{}}
	for _, w := range windows {
		tier.Limits[w.name] = tiers.Limit{Max: w.max, Window: tierlimit.Window{Length: w.length}}
	}
	resolver, err := tiers.Static([]tiers.Tier{tier}, func(string) string { return "bench" })
	if err != nil {
		return nil, err
	}
	return tierlimit.New(tierlimit.Config{Store: store, Tiers: resolver, Budget: budget})
}

func openRedisRate(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	return redisRate(redis_rate.NewLimiter(client), windows), func() { client.Close() }, nil
}

func openRedisRateOnCluster(addr string, windows []window) (decide, func(), error) {
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{addr}, PoolSize: 64, ReadTimeout: 10 * time.Second, PoolTimeout: 30 * time.Second,
	})
	return redisRate(redis_rate.NewLimiter(client), windows), func() { client.Close() }, nil
}

// redisRate asks once for each window, as its users do.
func redisRate(lim *redis_rate.Limiter, windows []window) decide {
	return func(ctx context.Context, subject string) (bool, error) {
		for _, w := range windows {
			key := subject
			if len(windows) > 1 {
				key = w.name + ":" + subject
			}
			res, err := lim.Allow(ctx, key, redis_rate.Limit{Rate: int(w.max), Burst: int(w.max), Period: w.length})
			if err != nil || res.Allowed == 0 {
				return false, err
			}
		}
		return true, nil
	}
}

var errOneWindow = errors.New("this contender is measured with one window")

func openUlule(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	store, err := uluredis.NewStore(client)
	if err != nil || len(windows) != 1 {
		return nil, nil, errors.Join(err, errOneWindow)
	}
	lim := ululelimiter.New(store, ululelimiter.Rate{Period: windows[0].length, Limit: windows[0].max})
	return func(ctx context.Context, subject string) (bool, error) {
		c, err := lim.Get(ctx, subject)
		return !c.Reached, err
	}, func() { client.Close() }, nil
}

func openThrottled(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	store, err := throttledredis.NewCtx(client, "throttled:")
	if err != nil || len(windows) != 1 {
		return nil, nil, errors.Join(err, errOneWindow)
	}
	w := windows[0]
	rate := throttled.PerDuration(int(w.max), w.length)
	lim, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: rate, MaxBurst: int(w.max) - 1})
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, subject string) (bool, error) {
		limited, _, err := lim.RateLimitCtx(ctx, subject, 1)
		return !limited, err
	}, func() { client.Close() }, nil
}

// openIncr is the demo this project began with: two trips.
func openIncr(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	w := windows[0]
	return func(ctx context.Context, subject string) (bool, error) {
		key := "rate:" + subject
		n, err := client.Incr(ctx, key).Result()
		if err != nil {
			return false, err
		}
		return n <= w.max, client.Expire(ctx, key, w.length).Err()
	}, func() { client.Close() }, nil
}

const incrScript = `local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {n, redis.call('PTTL', KEYS[1])}`

// openAutoPipeline is a plain script, through what go-redis has to put commands
// together.
func openAutoPipeline(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	ap, err := client.AutoPipeline()
	if err != nil {
		return nil, nil, err
	}
	sha, err := client.ScriptLoad(context.Background(), incrScript).Result()
	if err != nil {
		return nil, nil, err
	}
	w := windows[0]
	return func(ctx context.Context, subject string) (bool, error) {
		res, err := ap.EvalSha(ctx, sha, []string{"ap:" + subject}, w.length.Milliseconds()).Int64Slice()
		if err != nil {
			return false, err
		}
		if len(res) != 2 {
			return false, fmt.Errorf("answered %v", res)
		}
		return res[0] <= w.max, nil
	}, func() { client.Close() }, nil
}

// openScript is the same script by itself: what a lone caller's latency is held
// against.
func openScript(addr string, windows []window) (decide, func(), error) {
	client := newClient(addr)
	script := redis.NewScript(incrScript)
	w := windows[0]
	return func(ctx context.Context, subject string) (bool, error) {
		res, err := script.Run(ctx, client, []string{"plain:" + subject}, w.length.Milliseconds()).Int64Slice()
		return err == nil && res[0] <= w.max, err
	}, func() { client.Close() }, nil
}
