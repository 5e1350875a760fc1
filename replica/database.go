package replica

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// Database says where the Postgres is that holds tiers and subjects.
type Database struct {
	URL string // required: postgres:// and an address
	// Renew returns the URL again for each new connection, so that a password may change. nil:
	// URL stays.
	Renew   func() (string, error)
	Migrate Migrate
	History time.Duration   // how long ended windows are kept; default pgtiers.DefaultHistory
	Tracer  pgx.QueryTracer // is told of statements; default nobody
	// Wait is how long Open waits for a Postgres that cannot be reached. 0: Open returns an error
	// at once.
	Wait time.Duration
}

// Migrate says what Open does about the database schema.
type Migrate string

// The zero Migrate is MigrateAuto.
const (
	MigrateAuto  Migrate = "auto"  // bring an older schema to this release
	MigrateCheck Migrate = "check" // return an error for an older schema
	MigrateOff   Migrate = "off"   // do not look
)

// validate returns a *tierlimit.FieldError for what cannot be opened.
func (db *Database) validate() error {
	switch db.Migrate {
	case "", MigrateAuto, MigrateCheck, MigrateOff:
	default:
		return &tierlimit.FieldError{Field: "Database.Migrate", Value: string(db.Migrate), Want: "auto, check or off"}
	}
	if db.URL == "" {
		return &tierlimit.FieldError{Field: "Database.URL", Want: "given: postgres:// and an address"}
	}
	if _, err := pgxpool.ParseConfig(db.URL); err != nil {
		return &tierlimit.FieldError{Field: "Database.URL", Value: "(hidden)", Want: "a URL that Postgres clients know, with valid parameters such as sslmode=require"}
	}
	return nil
}

// migrateTimeout bounds a migration, the time that other replicas take for it included.
const migrateTimeout = 30 * time.Second

// retryEvery is the interval at which a Postgres that cannot be reached is tried again.
const retryEvery = 500 * time.Millisecond

// open waits for the database, then checks or migrates its schema.
func (db *Database) open(ctx context.Context, log *slog.Logger) (*pgtiers.Catalogue, error) {
	catalogue, err := db.await(ctx, log)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, log); err != nil {
		catalogue.Close()
		return nil, err
	}
	return catalogue, nil
}

// await opens the database once it answers. It does not wait if the database refuses, for example
// a password.
func (db *Database) await(ctx context.Context, log *slog.Logger) (*pgtiers.Catalogue, error) {
	over := time.After(db.Wait)
	for told := false; ; told = true {
		catalogue, err := pgtiers.OpenWith(ctx, pgtiers.Config{URL: db.URL, Renew: db.Renew, Tracer: db.Tracer, History: db.History})
		if !errors.Is(err, tiers.ErrUnavailable) {
			return catalogue, err
		}
		if !told && db.Wait > 0 {
			log.Warn("postgres cannot be reached; waiting for it", "timeout", db.Wait.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-over:
			return nil, err
		case <-time.After(retryEvery):
		}
	}
}

// migrate migrates or checks the schema. The schema of a later release is accepted: during a
// rolling update old replicas start beside new ones.
func (db *Database) migrate(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	switch db.Migrate {
	case MigrateOff:
		return nil
	case MigrateCheck:
		return migrations.Check(ctx, db.URL)
	}
	steps, err := migrations.Up(ctx, db.URL)
	for _, step := range steps {
		log.Info("migrated the database", "migration", step.Name)
	}
	if errors.Is(err, migrations.ErrNewer) {
		log.Warn("the database is of a later release: it is served as far as this release knows it", "error", err)
		return nil
	}
	return err
}
