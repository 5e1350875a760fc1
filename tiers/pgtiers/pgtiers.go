// Package pgtiers keeps the catalogue of tiers and subjects in Postgres.
//
// The package has all SQL of the project except the migrations, which must have been applied.
// Administrators change a [Catalogue], and package cache follows it. A Catalogue is not a
// resolver.
package pgtiers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierlimit/tierlimit/tiers"
)

// queryTimeout bounds every transaction and connection, whatever the caller's deadline: pgx
// has no bound of its own.
const queryTimeout = 5 * time.Second

// A Catalogue is tiers and subjects in Postgres. It is safe for concurrent use.
//
// Look-ups, administration and background work use separate connections: administrators who
// wait for a lock do not delay the look-up of a subject that is not cached.
type Catalogue struct {
	cfg        Config
	lookups    *pgxpool.Pool // LookupSubjects, LookupCredentials and Changes
	admin      *pgxpool.Pool // administration
	background *pgxpool.Pool // the ledger of usage, replicas, uses of credentials

	// A semaphore for the one writer. The database admits one writer at a time, and each
	// writer that waits there would occupy a connection.
	writing chan struct{}

	changes changesPage
}

var (
	_ tiers.Catalogue = (*Catalogue)(nil)
	_ tiers.Source    = (*Catalogue)(nil)
)

// The maximum number of connections of each pool. Listen uses one more.
const (
	lookupConns     = 3
	adminConns      = 4 // default if the URL lacks pool_max_conns
	backgroundConns = 2
)

// Config says where the database is.
type Config struct {
	URL string // required: postgres://…
	// Renew returns the current URL. It is called for each new connection, so that a new
	// password takes effect with the next connection. nil if the URL does not change.
	Renew  func() (string, error)
	Tracer pgx.QueryTracer // is told of statements; default nobody
	// History is how long windows are kept after their end; default DefaultHistory.
	History time.Duration
}

// DefaultHistory is the default of Config.History.
const DefaultHistory = 90 * 24 * time.Hour

// Open connects to the database at url and returns its catalogue. The caller must call Close.
func Open(ctx context.Context, url string) (*Catalogue, error) {
	return OpenWith(ctx, Config{URL: url})
}

// OpenWith is Open with a Config. An error wraps tiers.ErrUnavailable if a retry may succeed,
// but not if the database refuses the user, the password or the database name.
func OpenWith(ctx context.Context, cfg Config) (*Catalogue, error) {
	c := &Catalogue{cfg: cfg, writing: make(chan struct{}, 1)}
	for _, pool := range []struct {
		at   **pgxpool.Pool
		most int32
	}{{&c.lookups, lookupConns}, {&c.admin, adminConns}, {&c.background, backgroundConns}} {
		poolConfig, err := cfg.pool(pool.most, pool.at == &c.admin)
		if err == nil {
			*pool.at, err = pgxpool.NewWithConfig(ctx, poolConfig)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("database URL: %w", err)
		}
	}
	if err := c.Ping(ctx); err != nil {
		c.Close()
		if isRefusal(err) {
			return nil, fmt.Errorf("the database refuses: %v", err) //nolint:errorlint // to wait does not help
		}
		return nil, err
	}
	return c, nil
}

// Ping reports whether the database answers.
func (c *Catalogue) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := c.background.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", unavailable(err))
	}
	return nil
}

// PoolStats returns statistics of the connections to Postgres, by what they are used for.
func (c *Catalogue) PoolStats() map[string]*pgxpool.Stat {
	return map[string]*pgxpool.Stat{"lookups": c.lookups.Stat(), "admin": c.admin.Stat(), "background": c.background.Stat()}
}

func (c *Catalogue) pools() []*pgxpool.Pool {
	return []*pgxpool.Pool{c.lookups, c.admin, c.background}
}

// Close closes the connections. A Listen must have ended.
func (c *Catalogue) Close() {
	for _, pool := range c.pools() {
		if pool != nil {
			pool.Close()
		}
	}
}

// redial closes all idle connections, and all others when they are returned to their pool.
func (c *Catalogue) redial() {
	for _, pool := range c.pools() {
		pool.Reset()
	}
}

// in runs do in a transaction on a connection of pool. It sets all parameters that the role,
// the database or a pooler could have changed for the session.
func (c *Catalogue) in(ctx context.Context, pool *pgxpool.Pool, opts pgx.TxOptions, within time.Duration, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := pgx.BeginTxFunc(ctx, pool, opts, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, session, within.Milliseconds()); err != nil {
			return err
		}
		return do(ctx, tx)
	})
	if isReadOnly(err) {
		c.redial() // another server is the primary by now
	}
	return unavailable(err)
}

// read runs do in one snapshot of the database.
func (c *Catalogue) read(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	return c.in(ctx, c.admin, snapshot, queryTimeout, do)
}

var (
	snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	latest   = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
)

// query runs one statement in a transaction and calls collect with its rows.
func (c *Catalogue) query(ctx context.Context, pool *pgxpool.Pool, collect func(pgx.Rows) error, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return unavailable(again(func() error {
		batch := &pgx.Batch{} // a batch is a transaction in one round trip
		batch.Queue(session, queryTimeout.Milliseconds())
		batch.Queue(sql, args...).Query(collect)
		return pool.SendBatch(ctx, batch).Close()
	}))
}

// again runs a transaction, and again after a conflict with a concurrent one: the role or the
// database may have another default isolation level than read committed, which a transaction in one
// round trip cannot set.
func again(transact func() error) error {
	const tries = 5
	for try := 1; ; try++ {
		if err := transact(); try == tries || !isConflict(err) {
			return err
		}
	}
}

// exec runs statements in the background, in one transaction and one round trip.
func (c *Catalogue) exec(ctx context.Context, batch *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := again(func() error {
		all := &pgx.Batch{}
		all.Queue(session, queryTimeout.Milliseconds())
		all.QueuedQueries = append(all.QueuedQueries, batch.QueuedQueries...)
		return c.background.SendBatch(ctx, all).Close()
	})
	if isReadOnly(err) {
		c.redial()
	}
	return unavailable(err)
}

// one returns a batch of one statement.
func one(sql string, args ...any) *pgx.Batch {
	batch := &pgx.Batch{}
	batch.Queue(sql, args...)
	return batch
}

// write runs do in a transaction that first locks the version row: writers of several
// replicas queue for this lock, which prevents deadlocks.
func (c *Catalogue) write(ctx context.Context, within time.Duration, do func(context.Context, pgx.Tx) error) error {
	queue, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-queue.Done():
		return fmt.Errorf("%w: other changes are made: %w", tiers.ErrUnavailable, queue.Err())
	}
	const tries = 3
	for try := 1; ; try++ {
		err := c.in(ctx, c.admin, latest, within, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT FROM tierlimit.catalogue FOR UPDATE`); err != nil {
				return err
			}
			return do(ctx, tx)
		})
		if try == tries || !isConflict(err) {
			return err
		}
	}
}

// errReadOnly is returned if the server is read-only.
var errReadOnly = errors.New("the server is read-only: another one has taken over, or it was set so")
