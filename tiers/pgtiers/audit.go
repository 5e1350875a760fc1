package pgtiers

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// Events implements tiers.Catalogue.
func (c *Catalogue) Events(ctx context.Context, f tiers.EventFilter) ([]tiers.Event, error) {
	var list []tiers.Event
	err := c.query(ctx, c.admin, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, eventOf)
		return err
	}, `
		SELECT id, at, actor, actor_id, action, kind, object, detail, before, after,
			coalesce(attempt_key, '') AS attempt_key, coalesce(attempt_fingerprint, '') AS attempt_fingerprint
		FROM tierlimit.audit
		WHERE $1 IN ('', kind) AND ($2 IN ('', object) OR kind = 'key' AND detail = $2) AND $3 IN ('', actor) AND ($4 = '' OR attempt_key = $4) AND ($5 = 0 OR id < $5)
			AND ($7::timestamptz IS NULL OR at >= $7) AND ($8::timestamptz IS NULL OR at < $8)
		ORDER BY id DESC LIMIT $6`, f.Kind, f.Object, f.Actor, f.Attempt, f.Before, f.Most, timeOrNull(f.Since), timeOrNull(f.Until))
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return list, nil
}

func eventOf(row pgx.CollectableRow) (e tiers.Event, err error) {
	err = row.Scan(&e.ID, &e.At, &e.Actor, &e.ActorID, &e.Action, &e.Kind, &e.Object, &e.Detail, &e.Before, &e.After,
		&e.Attempt.Key, &e.Attempt.Fingerprint)
	e.At = e.At.UTC()
	return e, err
}
