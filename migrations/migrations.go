// Package migrations holds the database's schema and brings a database to it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// table is where goose notes what it applied. It stands outside the schema
// tierlimit because the first migration creates that, and names its own schema
// because a user called tierlimit would find another one first from then on.
const table = "public.tierlimit_migrations"

const connectTimeout = 5 * time.Second

// A Step is one migration and whether the database has it.
type Step struct {
	Version   int64
	Name      string
	Applied   bool
	AppliedAt time.Time // zero unless applied
}

// Up applies what the database lacks and returns that. Replicas that start at
// once wait for each other on a session lock.
func Up(ctx context.Context, url string) ([]Step, error) {
	var steps []Step
	err := with(ctx, url, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			steps = append(steps, Step{Version: r.Source.Version, Name: r.Source.Path, Applied: r.Error == nil})
		}
		return err
	})
	return steps, err
}

// Status returns all migrations, the oldest first.
func Status(ctx context.Context, url string) ([]Step, error) {
	var steps []Step
	err := with(ctx, url, func(p *goose.Provider) error {
		list, err := p.Status(ctx)
		for _, s := range list {
			steps = append(steps, Step{
				Version: s.Source.Version, Name: s.Source.Path,
				Applied: s.State == goose.StateApplied, AppliedAt: s.AppliedAt,
			})
		}
		return err
	})
	return steps, err
}

// Grant gives a role what serve needs of a database that is up to date, and no
// more: it reads and writes all but the audit log, which it can only add to. Who
// owns the tables could still change that; so let serve use another role.
func Grant(ctx context.Context, url, role string) error {
	db, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	name := pgx.Identifier{role}.Sanitize()
	for _, sql := range []string{
		"GRANT USAGE ON SCHEMA tierlimit TO ",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tierlimit TO ",
		"REVOKE UPDATE, DELETE, TRUNCATE ON tierlimit.audit FROM ",
		"GRANT SELECT ON " + table + " TO ",
	} {
		if _, err := db.ExecContext(ctx, sql+name); err != nil {
			return fmt.Errorf("grant to %s: %w", name, err)
		}
	}
	return nil
}

func open(ctx context.Context, url string) (*sql.DB, error) {
	cfg, err := pgxpool.ParseConfig(url) // the URL may size the pool of serve
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	db := stdlib.OpenDB(*cfg.ConnConfig)
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("reach database: %w", err)
	}
	return db, nil
}

func with(ctx context.Context, url string, do func(*goose.Provider) error) error {
	db, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(table), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := do(p); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
