package pgtiers

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// errDryRun rolls a change back that is only to be tried.
var errDryRun = errors.New("dry run")

// audit writes the event of a change into its transaction, or ends that where the
// change is only to be tried.
func audit(ctx context.Context, tx pgx.Tx, kind, object, detail string, before, after any) error {
	e, err := tiers.NewEvent(ctx, kind, object, detail, before, after)
	if err != nil {
		return err
	}
	if dry := tiers.DryRunOf(ctx); dry != nil {
		*dry = e
		return errDryRun
	}
	return insertEvent(ctx, tx, &e)
}

func insertEvent(ctx context.Context, tx pgx.Tx, e *tiers.Event) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO tierlimit.audit (actor, action, kind, object, detail, before, after, attempt_key, attempt_fingerprint)
		VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), nullif($9, ''))`,
		e.Actor, e.Action, e.Kind, e.Object, e.Detail, e.Before, e.After, e.Attempt.Key, e.Attempt.Fingerprint)
	return err
}

// attempted reports whether there is an event of the attempt that ctx is for. The
// caller holds the version row: nobody else makes it meanwhile.
func attempted(ctx context.Context, tx pgx.Tx) error {
	attempt := tiers.AttemptOf(ctx)
	if attempt.Key == "" {
		return nil
	}
	var made bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tierlimit.audit WHERE attempt_key = $1)`, attempt.Key).Scan(&made)
	if err == nil && made {
		err = tiers.ErrRepeated
	}
	return err
}

// Record implements tiers.Catalogue.
func (c *Catalogue) Record(ctx context.Context, e tiers.Event) error {
	e.Actor = tiers.ActorOf(ctx)
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error { return insertEvent(ctx, tx, &e) })
}

// Events implements tiers.Catalogue.
func (c *Catalogue) Events(ctx context.Context, f tiers.EventFilter) ([]tiers.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, _ := c.pool.Query(ctx, `
		SELECT id, at, actor, action, kind, object, detail, before, after,
			coalesce(attempt_key, '') AS attempt_key, coalesce(attempt_fingerprint, '') AS attempt_fingerprint
		FROM tierlimit.audit
		WHERE $1 IN ('', kind) AND $2 IN ('', object) AND $3 IN ('', actor) AND ($4 = '' OR attempt_key = $4) AND ($5 = 0 OR id < $5)
		ORDER BY id DESC LIMIT $6`, f.Kind, f.Object, f.Actor, f.Attempt, f.Before, f.Most)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (tiers.Event, error) {
		var e tiers.Event
		err := row.Scan(&e.ID, &e.At, &e.Actor, &e.Action, &e.Kind, &e.Object, &e.Detail, &e.Before, &e.After,
			&e.Attempt.Key, &e.Attempt.Fingerprint)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", unavailable(err))
	}
	return list, nil
}
