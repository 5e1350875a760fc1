package pgtiers

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

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

// eraseMost is the most events that one transaction erases.
const eraseMost = 10_000

// erasePatience bounds one transaction of an erasure: no index has the actors' ids.
const erasePatience = time.Minute

// Erase implements tiers.Eraser.
func (c *Catalogue) Erase(ctx context.Context, a tiers.Actor, e tiers.Erasure, dryRun bool) (n int, err error) {
	if err := e.Validate(time.Now()); err != nil {
		return 0, err
	}
	what, value := "subject", e.Subject
	switch {
	case e.ActorID != "":
		what, value = "actor", e.ActorID
	case !e.Before.IsZero():
		what, value = "events", e.Before.UTC().Format(time.RFC3339Nano)
	}
	if dryRun {
		err = c.in(ctx, c.admin, snapshot, erasePatience, func(ctx context.Context, tx pgx.Tx) error {
			// Erasing nothing is refused to whoever may not erase.
			if _, err := tx.Exec(ctx, `SELECT tierlimit.erase_events('subject', '', 0, '', '') WHERE false`); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `SELECT count(*) FROM tierlimit.events_to_erase($1, $2, $3)`, what, value, math.MaxInt64).Scan(&n)
		})
		return n, eraseError(err)
	}
	for {
		var part int
		err := c.in(ctx, c.admin, latest, erasePatience, func(ctx context.Context, tx pgx.Tx) error {
			if e.Subject != "" {
				if err := eraseMessages(ctx, tx, e.Subject); err != nil {
					return err
				}
			}
			return tx.QueryRow(ctx, `SELECT tierlimit.erase_events($1, $2, $3, $4, $5)`,
				what, value, eraseMost, cmp.Or(a.Name, "unknown"), a.ID).Scan(&part)
		})
		if err != nil {
			return n, eraseError(err)
		}
		if n += part; part < eraseMost {
			return n, nil
		}
	}
}

func eraseError(err error) error {
	if err == nil {
		return nil
	}
	if code, _ := codeOf(err); code == rightState {
		err = fmt.Errorf("%w (run `tierlimit migrate grant` for the role of serve)", err)
	}
	return fmt.Errorf("erase from the audit log: %w", err)
}
