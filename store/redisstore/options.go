package redisstore

import (
	"fmt"
	neturl "net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tierlimit/tierlimit"
)

// Options parses a redis://, rediss:// or unix:// URL into client options that suit a
// decision budget. The client sends no command twice. Reads and writes time out after
// twice the budget, dialling after one second or the budget, whichever is longer, so that
// a connection that was too slow for one decision can serve the next. Change the other
// options as needed, then pass
// redis.NewClient(opts) to [New]. A budget of 0 is tierlimit.DefaultBudget.
//
// The client logs failed connections to standard error; redis.SetLogger changes that.
func Options(url string, budget time.Duration) (*redis.Options, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	b := budgetOr(budget)
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1 // -1 is none; 0 would be three
	opts.DialerRetries = 1
	opts.DialTimeout = dialTimeout(b)
	opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = 2*b, 2*b, b
	opts.MinIdleConns = maxCalls // a burst need not wait for dials
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts, nil
}

// SentinelOptions is [Options] for a master that Sentinels name. The URL is that of the
// Sentinels; what concerns the master is given as parameters:
//
//	redis://[:sentinel password@]host:26379/db?master_name=mymaster&addr=host2:26379&username=...&password=...
//
// Hand redis.NewFailoverClient(opts) to [New].
func SentinelOptions(url string, budget time.Duration) (*redis.FailoverOptions, error) {
	opts, err := redis.ParseFailoverURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	if opts.MasterName == "" {
		return nil, &tierlimit.FieldError{Field: "master_name", Want: "given: the name under which the Sentinels know the master"}
	}
	if opts.TLSConfig != nil {
		opts.TLSConfig.ServerName = "" // each server shows its own name
	}
	b := budgetOr(budget)
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1
	opts.DialerRetries = 1
	opts.DialTimeout = dialTimeout(b)
	opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = 2*b, 2*b, b
	opts.MinIdleConns = maxCalls
	opts.DisableIdentity = true
	return opts, nil
}

// ClusterOptions is [Options] for a Redis Cluster. The URL names one of its servers,
// and others as parameters, for when that one is away:
//
//	redis://user:password@host:6379?addr=host2:6379&addr=host3:6379
//
// Hand redis.NewClusterClient(opts) to [NewCluster].
func ClusterOptions(url string, budget time.Duration) (*redis.ClusterOptions, error) {
	opts, err := redis.ParseClusterURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	switch at, _ := neturl.Parse(url); {
	case strings.Trim(at.Path, "/") != "" && strings.Trim(at.Path, "/") != "0":
		return nil, &tierlimit.FieldError{Field: "database", Value: at.Path, Want: "0 or none: a Cluster has no other"}
	case opts.ReadOnly || opts.RouteByLatency || opts.RouteRandomly:
		return nil, &tierlimit.FieldError{Field: "read_only, route_by_latency, route_randomly", Value: "true", Want: "false: replicas do not count"}
	}
	if opts.TLSConfig != nil {
		opts.TLSConfig.ServerName = ""
	}
	b := budgetOr(budget)
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1
	// Where it is sent on to it goes at once: what was redirected has not run.
	opts.MaxRedirects, opts.MinRetryBackoff, opts.MaxRetryBackoff = 3, -1, -1
	opts.DialerRetries = 1
	opts.DialTimeout = dialTimeout(b)
	opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = 2*b, 2*b, b
	opts.MinIdleConns = maxCalls
	opts.PipelinePoolSize = -1 // pipelines are all there is: a pool of their own would begin cold
	opts.DisableIdentity = true
	// They want the server's table of commands, and the right to ask for it.
	opts.DisableRoutingPolicies = true
	// A master that died tells nobody who has its slots now: whoever asks it would wait
	// until this is over.
	opts.ClusterStateReloadInterval = time.Second
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts, nil
}

func budgetOr(budget time.Duration) time.Duration {
	if budget <= 0 {
		return tierlimit.DefaultBudget
	}
	return budget
}

// dialTimeout returns how long a dial may take. It is longer than a budget: a dial goes on
// for the next decision when the one that needed it has given up, and TLS over a distance
// takes longer than a budget.
func dialTimeout(budget time.Duration) time.Duration { return max(budget, time.Second) }
