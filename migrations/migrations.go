// Package migrations holds the database's schema and brings a database to it.
package migrations

import (
	"context"
	"embed"
	"fmt"
	"time"

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

func with(ctx context.Context, url string, do func(*goose.Provider) error) error {
	cfg, err := pgxpool.ParseConfig(url) // the URL may size the pool of serve
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	db := stdlib.OpenDB(*cfg.ConnConfig)
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
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
