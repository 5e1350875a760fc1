// Package pgtiers keeps the catalogue of tiers and subjects in Postgres.
//
// It holds the only SQL of the project beside the migrations, which must have
// been applied. A [Catalogue] is what an administrator changes and what a
// tiers.Cache follows; it does not answer decisions itself.
package pgtiers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierlimit/tierlimit/tiers"
)

// queryTimeout bounds every statement and connection, whatever the caller's
// deadline: pgx has no bound of its own.
const queryTimeout = 5 * time.Second

// A Catalogue is tiers and subjects in Postgres. It is safe for concurrent use.
type Catalogue struct {
	pool *pgxpool.Pool
}

var (
	_ tiers.Catalogue = (*Catalogue)(nil)
	_ tiers.Source    = (*Catalogue)(nil)
)

// Open returns the catalogue in the database at url, once that answers. Close
// it when done.
func Open(ctx context.Context, url string) (*Catalogue, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.ConnConfig.ConnectTimeout = queryTimeout
	cfg.PingTimeout = queryTimeout
	cfg.MaxConnLifetime = time.Hour
	cfg.MaxConnLifetimeJitter = 10 * time.Minute
	cfg.ConnConfig.RuntimeParams["application_name"] = "tierlimit"
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = strconv.FormatInt(queryTimeout.Milliseconds(), 10)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	c := &Catalogue{pool: pool}
	if err := c.Ping(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return c, nil
}

// Ping reports whether the database answers.
func (c *Catalogue) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := c.pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", unavailable(err))
	}
	return nil
}

// Close closes the connections. A Listen must have ended.
func (c *Catalogue) Close() { c.pool.Close() }

// read runs do in one snapshot of the database.
func (c *Catalogue) read(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return unavailable(pgx.BeginTxFunc(ctx, c.pool, opts, func(tx pgx.Tx) error { return do(ctx, tx) }))
}

// write runs do in a transaction that holds the version row from the start:
// writers queue there instead of meeting in a deadlock further on.
func (c *Catalogue) write(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM tierlimit.catalogue FOR UPDATE`); err != nil {
			return err
		}
		if err := attempted(ctx, tx); err != nil {
			return err
		}
		return do(ctx, tx)
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return unavailable(err)
}

// unavailable wraps tiers.ErrUnavailable around what says that the database is
// not there now: no connection, no answer in time, a server that stops or
// starts. What it refuses, and what this package refuses, is passed on.
func unavailable(err error) error {
	var refused *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		class := refused.Code[:min(2, len(refused.Code))]
		const connection, resources, intervention = "08", "53", "57"
		if class != connection && class != resources && class != intervention {
			return err
		}
	case !errors.As(err, &connect) && !errors.As(err, &network) && !pgconn.Timeout(err) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return fmt.Errorf("%w: %w", tiers.ErrUnavailable, err)
}
