package pgtiers

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// audit writes the event of a change into its transaction.
func audit(ctx context.Context, tx pgx.Tx, kind, object, detail string, before, after any) error {
	e, err := tiers.NewEvent(ctx, kind, object, detail, before, after)
	if err != nil {
		return err
	}
	return insertEvent(ctx, tx, &e)
}

func insertEvent(ctx context.Context, tx pgx.Tx, e *tiers.Event) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO tierlimit.audit (actor, action, kind, object, detail, before, after) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.Actor, e.Action, e.Kind, e.Object, e.Detail, e.Before, e.After)
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
		SELECT id, at, actor, action, kind, object, detail, before, after FROM tierlimit.audit
		WHERE $1 IN ('', kind) AND $2 IN ('', object) AND $3 IN ('', actor) AND ($4 = 0 OR id < $4)
		ORDER BY id DESC LIMIT $5`, f.Kind, f.Object, f.Actor, f.Before, f.Most)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (tiers.Event, error) {
		e, err := pgx.RowToStructByName[tiers.Event](row)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", unavailable(err))
	}
	return list, nil
}
