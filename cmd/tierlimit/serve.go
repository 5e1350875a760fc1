package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

func serveCommand(s streams) *cobra.Command {
	var set settings
	return set.serve().command(s, "serve", "Serve decisions from Redis, with tiers from Postgres", func(ctx context.Context) error {
		return serve(ctx, &set, newLogger(&set, s.err))
	})
}

// warnOfScopes logs the scopes in routes that no tier has a limit for. Requests with such a scope
// are charged only under limits of the scope "".
func warnOfScopes(routes *httplimit.Routes, list []tiers.Tier, log *slog.Logger) {
	known := make(map[string]bool)
	for i := range list {
		for _, limit := range list[i].Limits {
			known[limit.Scope] = true
		}
	}
	for _, scope := range routes.Scopes() {
		if !known[scope] {
			log.Warn("a route names a scope that no tier has a limit for", "scope", scope)
		}
	}
}

// migrateTimeout bounds the schema's way to what it should be, others' turns included.
const migrateTimeout = 30 * time.Second

// startPause is between two looks whether Postgres is there.
const startPause = 500 * time.Millisecond

// serve builds everything from the outside in and takes it down in reverse.
func serve(ctx context.Context, set *settings, log *slog.Logger) error {
	if err := checkTokens(set.adminTokens, set.serviceTokens); err != nil {
		return usage(err)
	}
	if err := set.requests(); err != nil {
		return usage(err)
	}
	slog.SetDefault(log)
	redis.SetLogger(clientLog{log})
	redisStore, client, err := openRedis(set)
	if err != nil {
		return err
	}
	defer client.Close()
	catalogue, err := openCatalogue(ctx, set, log)
	if ctx.Err() != nil {
		return nil // told to stop while it waited
	}
	if err != nil {
		return err
	}
	defer catalogue.Close()
	plans, err := cache.New(ctx, catalogue, cache.Config{Logger: log})
	if err != nil {
		return err
	}
	defer plans.Close()
	defer closeRedis(redisStore, log)
	durableStore := durable.New(redisStore, catalogue, durable.Config{Known: plans.Known, Logger: log})
	defer writeUsage(durableStore, log)
	store := &watchedStore{Store: durableStore, log: log}
	if err := checkRedis(ctx, redisStore, store, log); err != nil {
		return err
	}
	cpu, err := load.New(load.Config{Tiers: plans.Tiers, Control: plans.LoadControl, Meter: set.loadMeter, Mode: set.loadMode, Logger: log})
	if err != nil {
		return err
	}
	defer cpu.Close()
	go retainEvents(ctx, catalogue, set.auditRetention, log)
	alive := countReplicas(ctx, catalogue, log)
	defer alive.close()
	lim, err := tierlimit.New(tierlimit.Config{
		Store: store, Tiers: plans, Load: cpu, Budget: set.budget,
		Local: memstore.New(memstore.Config{}), Replicas: alive.count,
	})
	if err != nil {
		return err
	}
	// Not before everything is there: a client is refused rather than left to
	// wait on a listener that nobody serves.
	l, err := listen(ctx, set)
	if err != nil {
		return err
	}
	defer l.close()
	cfg := api.Config{
		Limiter: lim, Catalogue: catalogue, Keyring: plans, Load: cpu, CatchUp: plans.CatchUp,
		Health: api.Health{
			Checks: map[string]func(context.Context) error{"redis": redisStore.Ping, "postgres": catalogue.Ping},
			Notes:  map[string]func() string{"catalogue": plans.Following},
		},

		Tokens: watchTokens(ctx, set, log),
		Who:    set.who, Routes: set.routes, Logger: log,
	}
	forward, err := newForward(set, lim, &cfg)
	if err != nil {
		return err
	}
	warnOfScopes(set.routes, plans.Tiers(), log)
	addresses := []any{"version", version(), "public", l.public.Addr().String(), "admin", l.admin.Addr().String()}
	if l.proxy != nil {
		addresses = append(addresses, "proxy", l.proxy.Addr().String(), "upstream", set.upstream.String())
	}
	log.Info("serving", addresses...)
	return serveUntil(ctx, l, cfg, forward, set.drain)
}

// tokensEvery is the interval at which token files are read again.
const tokensEvery = 2 * time.Second

// watchTokens returns the tokens of the configuration. Token files are read again every
// tokensEvery until ctx ends. A file that is unreadable or invalid changes nothing.
func watchTokens(ctx context.Context, set *settings, log *slog.Logger) *api.Tokens {
	known := api.NewTokens(set.adminTokens, set.serviceTokens)
	renewOwners, renewServices := set.adminOption.renew(), set.serviceOption.renew()
	if renewOwners == nil && renewServices == nil {
		return known
	}
	again := func(renew func() (string, error), into *[]string) error {
		if renew == nil {
			return nil
		}
		text, err := renew()
		if err != nil {
			return err
		}
		return tokens(into)(text)
	}
	go func() {
		owners, services, failing := set.adminTokens, set.serviceTokens, false
		tick := time.NewTicker(tokensEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			nextOwners, nextServices := owners, services
			err := errors.Join(again(renewOwners, &nextOwners), again(renewServices, &nextServices))
			if err == nil {
				err = checkTokens(nextOwners, nextServices)
			}
			if err != nil {
				if !failing {
					log.Warn("tokens cannot be read again: those from before stay valid", "error", err)
				}
				failing = true
				continue
			}
			failing = false
			if !slices.Equal(owners, nextOwners) || !slices.Equal(services, nextServices) {
				owners, services = nextOwners, nextServices
				known.Set(owners, services)
				log.Info("tokens were read again", "owners", len(owners), "services", len(services))
			}
		}
	}()
	return known
}

// retentionEvery is the interval at which old events are deleted from the audit log.
const retentionEvery = time.Hour

// retainEvents deletes events that are older than retention from the audit log, until ctx ends.
func retainEvents(ctx context.Context, catalogue tiers.Eraser, retention time.Duration, log *slog.Logger) {
	if retention == 0 {
		return
	}
	tick := time.NewTicker(retentionEvery)
	defer tick.Stop()
	for {
		actor := tiers.Actor{ID: "retention", Name: "retention"}
		n, err := catalogue.Erase(ctx, actor, tiers.Erasure{Before: time.Now().Add(-retention)}, false)
		if n > 0 {
			log.Info("old events were deleted from the audit log", "events", n, "retention", retention.String())
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("old events were not deleted from the audit log", "retention", retention.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// writeUsage writes what was used of long windows, once nobody is served any more.
func writeUsage(store *durable.Store, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := store.Close(ctx); err != nil {
		log.Warn("the last usage of long windows was not written: it is lost if Redis loses it too", "error", err)
	}
}

// awaitCatalogue opens the database once it answers, or gives up when its time is over.
// What it refuses, such as a password, is no reason to wait.
func awaitCatalogue(ctx context.Context, set *settings, log *slog.Logger) (*pgtiers.Catalogue, error) {
	over := time.After(set.startTimeout)
	for told := false; ; told = true {
		catalogue, err := pgtiers.OpenWith(ctx, pgtiers.Config{URL: set.databaseURL, Renew: set.databaseOption.renew()})
		if !errors.Is(err, tiers.ErrUnavailable) {
			return catalogue, err
		}
		if !told && set.startTimeout > 0 {
			log.Warn("postgres cannot be reached; waiting for it", "timeout", set.startTimeout.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-over:
			return nil, err
		case <-time.After(startPause):
		}
	}
}

// openCatalogue waits for the database, then checks or migrates its schema.
func openCatalogue(ctx context.Context, set *settings, log *slog.Logger) (*pgtiers.Catalogue, error) {
	catalogue, err := awaitCatalogue(ctx, set, log)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, set, log); err != nil {
		catalogue.Close()
		return nil, err
	}
	return catalogue, nil
}

// migrate migrates or checks the schema, as set.migrate says. The schema of a later release is
// accepted: during a rolling update old replicas start beside new ones.
func migrate(ctx context.Context, set *settings, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	switch set.migrate {
	case migrateOff:
		return nil
	case migrateCheck:
		return migrations.Check(ctx, set.databaseURL)
	}
	steps, err := migrations.Up(ctx, set.databaseURL)
	for _, step := range steps {
		log.Info("migrated the database", "migration", step.Name)
	}
	if errors.Is(err, migrations.ErrNewer) {
		log.Warn("the database is of a later release: it is served as far as this release knows it", "error", err)
		return nil
	}
	return err
}
