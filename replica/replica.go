// Package replica opens what `tierlimit serve` has, for programs that decide in their own process:
// counts in Redis behind a circuit breaker, tiers and customers from Postgres, the usage of long
// windows kept in Postgres, failure policies that know how many replicas share a max, and limits
// that bend with the load of the fleet. A program and any number of `serve` processes on one Redis and one
// Postgres are one fleet: they share every count and every change of a plan.
package replica

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/events"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/observe/denials"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// Config is what a Replica is made of. Redis.URL and Database.URL are required.
type Config struct {
	Redis    Redis
	Database Database
	Budget   time.Duration // longest a decision may take; default tierlimit.DefaultBudget
	LoadMode load.Mode     // what load does to adaptive limits; default load.Enforce
	// LoadSources are the readings that count as load; default load.AllSources: the CPU of this
	// process' container or machine, and what services report.
	LoadSources load.Sources
	Meter       load.Meter // measures the CPU; default load.CPU
	// Observer is told of every decision; default nobody. See package observe.
	Observer tierlimit.Observer
	Trace    tierlimit.TraceFunc // makes spans of decisions; default none
	// Denials is shared with the other replicas; default nil: it is not. Its Denied must be told
	// of denials, as observe.Config.Denied is.
	Denials *denials.Log
	// Webhooks makes this replica send messages to webhooks. Default nil: it only writes them, and a
	// replica of `tierlimit serve` sends them.
	Webhooks *events.Delivery
	Logger   *slog.Logger // default slog.Default
}

// Validate returns an error for what Open would refuse without connecting to anything: a
// *tierlimit.FieldError that names the field.
func (cfg *Config) Validate() error {
	if cfg.Budget != 0 && (cfg.Budget < time.Millisecond || cfg.Budget > 10*time.Second) {
		return &tierlimit.FieldError{Field: "Budget", Value: cfg.Budget.String(), Want: "a duration from 1ms to 10s"}
	}
	switch cfg.LoadMode {
	case "", load.Off, load.Observe, load.Enforce:
	default:
		return &tierlimit.FieldError{Field: "LoadMode", Value: string(cfg.LoadMode), Want: "off, observe or enforce"}
	}
	if _, err := cfg.Redis.options(cfg.Budget); err != nil {
		return err
	}
	return cfg.Database.validate()
}

// A Replica decides. Its fields may be used until Close, from many goroutines.
type Replica struct {
	Limiter   *tierlimit.Limiter
	Catalogue *pgtiers.Catalogue // changes tiers and subjects
	Cache     *cache.Cache       // tiers, subjects and credentials as this replica has them
	Load      *load.Controller

	// Denials are those of all replicas; nil without Config.Denials.
	Denials *denials.Fleet
	Events  *events.Service // writes messages to webhooks

	redis    *redisstore.Store
	alive    *census
	breakers breakers
	closers  []func() // in the order of opening
}

// Open connects to Postgres and returns a Replica. It directs the lines of all clients of go-redis
// in the process to cfg.Logger, at debug level. Redis may be away: the tiers' failure policies
// decide until it answers. ctx bounds Open alone; call Close when the Replica is no longer needed.
//
// A *tierlimit.FieldError names a wrong field of cfg. Any other error means that Postgres cannot
// be reached or refuses, that its schema is not of this release, or that Redis refuses, for
// example a password.
func Open(ctx context.Context, cfg Config) (*Replica, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := new(Replica)
	if err := r.open(ctx, cfg, cfg.Logger); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Replica) open(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	redis.SetLogger(clientLog{log})
	store, client, err := cfg.Redis.open(cfg.Budget, r.breakers.changed)
	if err != nil {
		return err
	}
	r.redis = store
	r.closeWith(func() {
		closeRedis(store, log)
		_ = client.Close() // nothing uses the client any more
	})
	if r.Catalogue, err = cfg.Database.open(ctx, log); err != nil {
		return err
	}
	r.closeWith(r.Catalogue.Close)
	if r.Cache, err = cache.New(ctx, r.Catalogue, cache.Config{Logger: log}); err != nil {
		return err
	}
	r.closeWith(r.Cache.Close)
	durableStore := durable.New(store, r.Catalogue, durable.Config{Known: r.Cache.Known, Logger: log})
	r.closeWith(func() { writeUsage(durableStore, log) })
	watched := &watchedStore{Store: durableStore, log: log}
	if err := checkRedis(ctx, store, watched, log); err != nil {
		return err
	}
	r.closeWith(watched.probe(ctx, store.Ping))
	if r.Load, err = load.New(load.Config{
		Tiers: r.Cache.Tiers, Control: r.Cache.LoadControl, Meter: cfg.Meter, Mode: cfg.LoadMode,
		Sources: cfg.LoadSources, Board: loadBoard{store}, Logger: log,
	}); err != nil {
		return err
	}
	r.closeWith(r.Load.Close)
	if cfg.Denials != nil {
		r.Denials = denials.Share(cfg.Denials, store)
		r.closeWith(r.Denials.Close)
	}
	r.alive = newCensus(ctx, r.Catalogue, log)
	r.closeWith(r.alive.close)
	if r.Events, err = events.New(events.Config{Outbox: r.Catalogue, Delivery: cfg.Webhooks, Logger: log}); err != nil {
		return err
	}
	r.Limiter, err = tierlimit.New(tierlimit.Config{
		Store: watched, Tiers: r.Cache, Load: r.Load, Budget: cfg.Budget,
		Local: memstore.New(memstore.Config{}), Replicas: r.alive.count,
		Observer: cfg.Observer, Trace: cfg.Trace, Crossed: r.Events.Crossed,
	})
	if err != nil {
		return err
	}
	r.Events.Start(r.Limiter.Usage)
	r.closeWith(r.Events.Close)
	return nil
}

func (r *Replica) closeWith(f func()) { r.closers = append(r.closers, f) }

// Close writes what was used of long windows to Postgres and closes all connections. It takes at
// most a few seconds. Call Close when no request is served any more.
func (r *Replica) Close() {
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
	r.closers = nil
}

// Middleware returns a middleware for net/http that holds clients to their plans. Without
// cfg.Subject, API keys are those of the catalogue.
func (r *Replica) Middleware(cfg httplimit.Config) (func(http.Handler) http.Handler, error) {
	if cfg.Who.Keys == nil {
		cfg.Who.Keys = tiers.SubjectOf(r.Cache)
	}
	return httplimit.New(r.Limiter, cfg)
}

// Checks returns functions that report whether "redis" and "postgres" answer, for a readiness
// probe.
func (r *Replica) Checks() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"redis": r.redis.Ping, "postgres": r.Catalogue.Ping}
}

// Alive returns the number of replicas that are alive, this one included.
func (r *Replica) Alive() int { return r.alive.count() }

// BreakersOpen reports for each Redis server whether its circuit breaker is open: decisions do not
// call the server. The name of a server is its address in a Cluster, else "".
func (r *Replica) BreakersOpen() map[string]bool { return r.breakers.all() }

// writeUsage writes what was used of long windows since the last time.
func writeUsage(store *durable.Store, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := store.Close(ctx); err != nil {
		log.Warn("the last usage of long windows was not written: it is lost if Redis loses it too", "error", err)
	}
}

// clientLog logs the Redis client's lines, one for each failed dial, at debug level.
type clientLog struct{ log *slog.Logger }

func (c clientLog) Printf(_ context.Context, format string, v ...any) {
	c.log.Debug("redis client: " + fmt.Sprintf(format, v...))
}
