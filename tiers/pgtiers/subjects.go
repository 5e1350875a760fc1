package pgtiers

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Subjects implements tiers.Catalogue.
func (c *Catalogue) Subjects(ctx context.Context, after string, most int) ([]tiers.Subject, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, _ := c.pool.Query(ctx, `
		SELECT id, tier, version FROM tierlimit.subjects WHERE id > $1 ORDER BY id LIMIT $2`, after, most)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[tiers.Subject])
	if err != nil {
		return nil, fmt.Errorf("read subjects: %w", unavailable(err))
	}
	return list, nil
}

// Subject implements tiers.Catalogue.
func (c *Catalogue) Subject(ctx context.Context, id string) (tiers.Subject, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	s, err := selectSubject(ctx, c.pool, id)
	return s, unavailable(err)
}

// A querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// selectSubject does not ask for what Postgres could not even hold.
func selectSubject(ctx context.Context, q querier, id string) (tiers.Subject, error) {
	if !tierlimit.ValidSubject(id) {
		return tiers.Subject{}, tiers.SubjectError(id, tiers.ErrNotFound)
	}
	return one(id, tiers.ErrNotFound)(q.Query(ctx, `
		SELECT id, tier, version FROM tierlimit.subjects WHERE id = $1`, id))
}

// CreateSubject implements tiers.Catalogue.
func (c *Catalogue) CreateSubject(ctx context.Context, s tiers.Subject) (created tiers.Subject, err error) {
	if err := s.Validate(); err != nil {
		return tiers.Subject{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		created, err = one(s.ID, tiers.ErrExists)(tx.Query(ctx, `
			INSERT INTO tierlimit.subjects (id, tier) VALUES ($1, $2)
			ON CONFLICT DO NOTHING RETURNING id, tier, version`, s.ID, s.Tier))
		return err
	})
	return created, tierMissing(err, s.Tier)
}

// ReplaceSubject implements tiers.Catalogue.
func (c *Catalogue) ReplaceSubject(ctx context.Context, s tiers.Subject, version int64) (replaced tiers.Subject, err error) {
	if err := s.Validate(); err != nil {
		return tiers.Subject{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := subjectAt(ctx, tx, s.ID, version); err != nil {
			return err
		}
		replaced, err = one(s.ID, tiers.ErrStale)(tx.Query(ctx, `
			UPDATE tierlimit.subjects SET tier = $2 WHERE id = $1 RETURNING id, tier, version`, s.ID, s.Tier))
		return err
	})
	return replaced, tierMissing(err, s.Tier)
}

// DeleteSubject implements tiers.Catalogue.
func (c *Catalogue) DeleteSubject(ctx context.Context, id string, version int64) error {
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := subjectAt(ctx, tx, id, version); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM tierlimit.subjects WHERE id = $1`, id)
		return err
	})
}

func subjectAt(ctx context.Context, tx pgx.Tx, id string, version int64) error {
	s, err := selectSubject(ctx, tx, id)
	if err == nil && s.Version != version {
		err = tiers.SubjectError(id, tiers.ErrStale)
	}
	return err
}

// one reads the one subject a query answers, or says that there was none.
func one(id string, none error) func(pgx.Rows, error) (tiers.Subject, error) {
	return func(rows pgx.Rows, _ error) (tiers.Subject, error) {
		s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[tiers.Subject])
		if errors.Is(err, pgx.ErrNoRows) {
			err = tiers.SubjectError(id, none)
		}
		return s, err
	}
}

// tierMissing names the field when a subject was put on a tier that is not
// there.
func tierMissing(err error, tier string) error {
	const foreignKeyViolation = "23503"
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == foreignKeyViolation {
		return tiers.UnknownTierError(tier)
	}
	return err
}
