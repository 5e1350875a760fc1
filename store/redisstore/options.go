package redisstore

import (
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tierlimit/tierlimit"
)

// Options reads a redis://, rediss:// or unix:// URL into client options that
// keep to a decision budget: no step waits longer, and nothing is sent twice.
// Change what else you need, then hand redis.NewClient(opts) to [New]. A budget
// of 0 is tierlimit.DefaultBudget.
func Options(url string, budget time.Duration) (*redis.Options, error) {
	if budget <= 0 {
		budget = tierlimit.DefaultBudget
	}
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1 // -1 is none; 0 would be three
	opts.DialerRetries = 1
	// A dial goes on behind a decision that has given up on it, for the next
	// one: a budget would never let TLS over a distance come about.
	opts.DialTimeout = max(budget, time.Second)
	opts.ReadTimeout = budget
	opts.WriteTimeout = budget
	opts.PoolTimeout = budget
	opts.MinIdleConns = maxCalls // a burst need not wait for dials
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts, nil
}
