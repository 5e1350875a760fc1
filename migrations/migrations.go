// Package migrations holds the database's schema and brings a database to it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// table is the table in which goose records applied migrations. It is in the service's own
// schema, because many databases do not allow writes to the schema public.
const (
	schema   = "tierlimit"
	table    = schema + ".migrations"
	oldTable = "tierlimit_migrations" // the table's name when it was in the schema public
)

const connectTimeout = 5 * time.Second

// ErrNewer is returned if the database has migrations of a later release.
var ErrNewer = errors.New("the database is of a later release")

// A Step is one migration and whether the database has it.
type Step struct {
	Version   int64
	Name      string
	Applied   bool
	AppliedAt time.Time // zero unless applied
}

// Up applies the missing migrations and returns them. Only one replica migrates at a time; the
// others wait. For a database of a later release Up changes nothing and returns ErrNewer.
func Up(ctx context.Context, url string) ([]Step, error) {
	var steps []Step
	err := with(ctx, url, func(p *goose.Provider) error {
		if err := checkNewer(ctx, p); err != nil {
			return err
		}
		for try := 1; ; try++ {
			results, err := p.Up(ctx)
			for _, r := range results {
				steps = append(steps, Step{Version: r.Source.Version, Name: r.Source.Path, Applied: r.Error == nil})
			}
			if try == lockTries || !isLocked(err) {
				return err
			}
		}
	})
	return steps, err
}

// lockTries is how often a migration is tried if it cannot get a lock. Each migration sets a
// lock_timeout, because readers queue behind a migration that waits for a lock.
const lockTries = 5

// isLocked reports whether a migration failed because it could not get a lock in time.
func isLocked(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "55P03"
}

// checkNewer returns ErrNewer if the database has migrations unknown to this release.
func checkNewer(ctx context.Context, p *goose.Provider) error {
	has, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if known := sources[len(sources)-1].Version; has > known {
		return fmt.Errorf("%w: it has migration %d, and this release knows %d", ErrNewer, has, known)
	}
	return nil
}

// Check returns an error that names the first missing migration, if any. A database of a later
// release has all of them.
func Check(ctx context.Context, url string) error {
	steps, err := Status(ctx, url)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if !s.Applied {
			return fmt.Errorf("the database lacks the migration %s: run `tierlimit migrate up`", s.Name)
		}
	}
	return nil
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

// Grant gives a role the rights that serve needs in an up-to-date database: to read and write
// all tables, except that the role can only append to the audit log and erase from it with an
// event. The owner of the tables
// keeps all rights, so serve should use another role.
func Grant(ctx context.Context, url, role string) error {
	db, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, revokeTriggers); err != nil { // a dump without rights has restored PUBLIC's
		return fmt.Errorf("revoke from public: %w%s", err, hint(err))
	}
	name := pgx.Identifier{role}.Sanitize()
	for _, sql := range []string{
		"GRANT USAGE ON SCHEMA tierlimit TO ",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tierlimit TO ",
		"REVOKE UPDATE, DELETE, TRUNCATE ON tierlimit.audit FROM ",
		"REVOKE INSERT, UPDATE, DELETE ON " + table + " FROM ",
		"REVOKE ALL ON FUNCTION tierlimit.erase_events FROM PUBLIC; GRANT EXECUTE ON FUNCTION tierlimit.erase_events TO ", // a dump without rights has restored PUBLIC's
	} {
		if _, err := db.ExecContext(ctx, sql+name); err != nil {
			return fmt.Errorf("grant to %s: %w%s", name, err, hint(err))
		}
	}
	var granted bool // Postgres only warns whoever may not grant
	err = db.QueryRowContext(ctx, `SELECT has_schema_privilege($1, 'tierlimit', 'USAGE')
		AND has_table_privilege($1, 'tierlimit.subjects', 'SELECT') AND has_table_privilege($1, 'tierlimit.audit', 'INSERT')`, role).Scan(&granted)
	if err != nil {
		return fmt.Errorf("grant to %s: %w", name, err)
	}
	if !granted {
		return fmt.Errorf("grant to %s: nothing was granted: run it as the owner of the schema tierlimit", name)
	}
	return nil
}

// revokeTriggers revokes functions of triggers that run with the rights of their owner: who may
// execute one could have it fire on a table of his own.
const revokeTriggers = `DO $$
DECLARE f regprocedure;
BEGIN
	FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tierlimit'::regnamespace AND prosecdef AND prorettype = 'trigger'::regtype LOOP
		EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
	END LOOP;
END $$`

// hint returns advice for an error of Postgres, or "".
func hint(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return ""
	}
	switch refused.Code {
	case "3F000", "42P01": // no such schema, no such table
		return ": run `tierlimit migrate up` first"
	case "42501":
		return ": run `tierlimit migrate up`, and `tierlimit migrate grant` for the role of serve, as the owner"
	}
	return ""
}

func open(ctx context.Context, url string) (*sql.DB, error) {
	cfg, err := pgxpool.ParseConfig(url) // the URL may size the pool of serve
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler would mix up prepared statements
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
	if err := makeRoom(ctx, db); err != nil {
		return fmt.Errorf("migrate: %w%s", err, hint(err))
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(table), goose.WithSessionLocker(&turn{db: db}), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := do(p); err != nil {
		return fmt.Errorf("migrate: %w%s", err, hint(err))
	}
	return nil
}

// makeRoom creates the schema and moves goose's table into it, if necessary.
func makeRoom(ctx context.Context, db *sql.DB) error {
	var has, moved bool
	const look = `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '` + schema + `'),
		NOT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename = '` + oldTable + `')`
	if err := db.QueryRowContext(ctx, look).Scan(&has, &moved); err != nil || has && moved {
		return err
	}
	t := &turn{db: db}
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer func() { _ = t.tx.Rollback() }() // after the commit it does nothing
	if err := t.tx.QueryRowContext(ctx, look).Scan(&has, &moved); err != nil {
		return err
	}
	var steps []string
	if !has {
		steps = append(steps, `CREATE SCHEMA `+schema)
	}
	if !moved {
		steps = append(steps, `ALTER TABLE public.`+oldTable+` SET SCHEMA `+schema, `ALTER TABLE `+schema+`.`+oldTable+` RENAME TO migrations`)
	}
	for _, sql := range steps {
		if _, err := t.tx.ExecContext(ctx, sql); err != nil {
			return err
		}
	}
	return t.tx.Commit()
}

// A turn is a lock that lets one process migrate at a time. The lock belongs to a transaction,
// not to a session: behind a pooler a session, and with it the lock, passes to other clients.
type turn struct {
	db *sql.DB
	tx *sql.Tx
}

var _ lock.SessionLocker = (*turn)(nil)

// begin starts a transaction and waits until it has the lock.
func (t *turn) begin(ctx context.Context) (err error) {
	if t.tx, err = t.db.BeginTx(context.WithoutCancel(ctx), nil); err != nil {
		return err
	}
	const key = 0x7469_6572_6c69_6d69 // "tierlimi"
	for _, sql := range []string{
		`SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`,
		fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, int64(key)),
	} {
		if _, err := t.tx.ExecContext(ctx, sql); err != nil {
			return errors.Join(fmt.Errorf("wait for other replicas to migrate: %w", err), t.tx.Rollback())
		}
	}
	return nil
}

// SessionLock implements lock.SessionLocker.
func (t *turn) SessionLock(ctx context.Context, _ *sql.Conn) error { return t.begin(ctx) }

// SessionUnlock implements lock.SessionLocker.
func (t *turn) SessionUnlock(context.Context, *sql.Conn) error { return t.tx.Rollback() }
