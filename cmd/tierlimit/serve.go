package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/replica"
	"github.com/tierlimit/tierlimit/tiers"
)

func serveCommand(s streams) *cobra.Command {
	var set settings
	return set.serve().command(s, "serve", "Serve decisions from Redis, with tiers from Postgres", func(ctx context.Context) error {
		return serve(ctx, &set, newLogger(&set, s.err))
	})
}

// warnOfScopes logs the scopes in routes that no tier has a limit for, and the limits with a cost of
// their own that no tier has. Requests with such a scope are charged only under limits of the scope
// "".
func warnOfScopes(routes *httplimit.Routes, list []tiers.Tier, log *slog.Logger) {
	scopes, limits := make(map[string]bool), make(map[string]bool)
	for i := range list {
		for name, limit := range list[i].Limits {
			scopes[limit.Scope], limits[name] = true, true
		}
	}
	for _, scope := range routes.Scopes() {
		if !scopes[scope] {
			log.Warn("a route names a scope that no tier has a limit for", "scope", scope)
		}
	}
	for _, route := range routes.All() {
		for _, name := range slices.Sorted(maps.Keys(route.Costs)) {
			if !limits[name] {
				log.Warn("a route has a cost for a limit that no tier has", "pattern", route.Pattern, "limit", name)
			}
		}
	}
}

// serve opens a replica and its listeners, and serves until ctx ends.
func serve(ctx context.Context, set *settings, log *slog.Logger) error {
	if err := set.validate(); err != nil {
		return usage(err)
	}
	cfg, err := set.replica(log)
	if err != nil {
		return usage(err)
	}
	slog.SetDefault(log)
	m := newMetrics(log)
	spans, err := newTracing(set, log)
	if err != nil {
		return err
	}
	defer spans.close()
	cfg.Observer, cfg.Denials, cfg.Trace, cfg.Database.Tracer = m.decisions, m.denials, spans.decisions(), spans.queries()
	r, err := replica.Open(ctx, cfg)
	if ctx.Err() != nil {
		return nil // told to stop while it waited
	}
	if err != nil {
		return inSettings(err)
	}
	defer r.Close()
	go retainEvents(ctx, r.Catalogue, set.auditRetention, log)
	// Listen last, so that a client is refused rather than left to wait on a listener that nobody
	// serves.
	l, err := set.listen(ctx, log)
	if err != nil {
		return err
	}
	defer l.close()
	warnOfScopes(set.routes, r.Cache.Tiers(), log)
	m.addReplica(r)
	return serveUntil(ctx, set, l, m, spans, api.Config{
		Limiter: r.Limiter, Catalogue: r.Catalogue, Keyring: r.Cache, Load: r.Load, CatchUp: r.Cache.CatchUp,
		Health:  api.Health{Checks: r.Checks(), Advice: advice, Notes: map[string]func() string{"catalogue": r.Cache.Following}},
		Denials: r.Denials, Tokens: watchTokens(ctx, set, log),
		Who: set.who, Routes: set.routes, Logger: log,
	})
}

// advice says what a failing check of /readyz?verbose means and what to do.
var advice = map[string]string{
	"redis": "Usage is not counted in Redis; the on_store_error of each tier decides (local: this replica counts its share). " +
		"Check that Redis runs and that this machine reaches it; tierlimit goes on by itself when Redis answers.",
	"postgres": "Decisions go on with the tiers and subjects that are known; changes do not arrive, and new customers are on the default tier. " +
		"Check that Postgres runs and that this machine reaches it.",
}

// replica returns the configuration of the replica that set describes.
func (s *settings) replica(log *slog.Logger) (replica.Config, error) {
	if err := checkTokens(s.adminTokens, s.serviceTokens); err != nil {
		return replica.Config{}, err
	}
	authorities, err := readAuthorities("TIERLIMIT_REDIS_CA", s.redisCA)
	if err != nil {
		return replica.Config{}, err
	}
	certificates, err := readCertificates(s.redisCert, s.redisKey)
	if err != nil {
		return replica.Config{}, err
	}
	return replica.Config{
		Redis:    replica.Redis{URL: s.redisURL, Mode: replica.Mode(s.redisMode), Authorities: authorities, Certificates: certificates},
		Database: replica.Database{URL: s.databaseURL, Renew: s.databaseOption.renew(), Migrate: replica.Migrate(s.migrate), Wait: s.startTimeout, History: s.historyRetention},
		Budget:   s.budget, LoadMode: s.loadMode, LoadSources: s.loadSources, Meter: s.loadMeter, Webhooks: &s.webhooks, Logger: log,
	}, nil
}

// validate returns an error for what serve would refuse without connecting to anything.
func (s *settings) validate() error {
	log := slog.New(slog.DiscardHandler)
	if err := s.requests(); err != nil {
		return err
	}
	for _, files := range []*tlsFiles{&s.tls, &s.adminTLS} {
		if _, err := files.config(log); err != nil {
			return err
		}
	}
	if _, err := readAuthorities("TIERLIMIT_GRPC_CLIENT_CA", s.grpcClientCA); err != nil {
		return err
	}
	cfg, err := s.replica(log)
	if err != nil {
		return err
	}
	return inSettings(cfg.Validate())
}

// readAuthorities reads the certificates of authorities from the file of a setting.
func readAuthorities(setting, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		return nil, &tierlimit.FieldError{Field: setting, Value: file, Want: "a file of certificates in PEM that can be read"}
	}
	return pool, nil
}

// readCertificates reads the certificate to show to Redis.
func readCertificates(certificate, key string) ([]tls.Certificate, error) {
	if certificate == "" && key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, &tierlimit.FieldError{
			Field: "TIERLIMIT_REDIS_CERT and TIERLIMIT_REDIS_KEY", Value: certificate + " and " + key,
			Want: "files that can be read, of a certificate in PEM and of its key",
		}
	}
	return []tls.Certificate{pair}, nil
}

// inSettings returns an error of package replica with the name of the setting in the place of the
// field.
func inSettings(err error) error {
	var field *tierlimit.FieldError
	if !errors.As(err, &field) {
		return err
	}
	setting := map[string]string{"Redis.URL": "TIERLIMIT_REDIS_URL", "Database.URL": "TIERLIMIT_DATABASE_URL"}[field.Field]
	if setting == "" {
		return err
	}
	named := *field
	named.Field = setting
	return usage(&named)
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
		old := tiers.Erasure{Before: time.Now().Add(-retention)}
		n, err := catalogue.Erase(ctx, actor, old, true)
		if n > 0 && err == nil { // else there would be an event each hour that says nothing
			n, err = catalogue.Erase(ctx, actor, old, false)
		}
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
