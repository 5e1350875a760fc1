package pgtiers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Claim implements tiers.Outbox.
func (c *Catalogue) Claim(ctx context.Context, lease time.Duration, most int, busy map[string]int) (list []tiers.Delivery, err error) {
	ids, running := make([]string, 0, len(busy)), make([]int, 0, len(busy))
	for id, n := range busy {
		ids, running = append(ids, id), append(running, n)
	}
	err = c.query(ctx, c.background, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d tiers.Delivery, err error) {
			err = row.Scan(append(webhookFields(&d.Webhook), &d.Message.ID, &d.Message.Type, &d.Message.At, &d.Message.Data, &d.Attempt)...)
			d.Webhook.Normalize()
			d.Message.At = d.Message.At.UTC()
			return d, err
		})
		return err
	}, `
		WITH places AS (
			SELECT w.id, $2 - coalesce(b.running, 0) AS free FROM tierlimit.webhooks w
			LEFT JOIN unnest($3::text[], $4::integer[]) AS b (id, running) ON b.id = w.id WHERE NOT w.paused),
		due AS (
			SELECT d.* FROM places p CROSS JOIN LATERAL (
				SELECT webhook, message FROM tierlimit.deliveries
				WHERE webhook = p.id AND state = 'pending' AND due_at <= now()
				ORDER BY due_at LIMIT greatest(p.free, 0) FOR UPDATE SKIP LOCKED) d),
		claimed AS (
			UPDATE tierlimit.deliveries d SET attempts = attempts + 1, due_at = now() + $1::interval, tried_at = now() FROM due
			WHERE (d.webhook, d.message) = (due.webhook, due.message)
			RETURNING d.webhook, d.message, d.attempts)
		SELECT `+webhookColumns+`, m.id, m.type, m.at, m.data, c.attempts
		FROM claimed c JOIN tierlimit.webhooks w ON w.id = c.webhook JOIN tierlimit.messages m ON m.id = c.message ORDER BY m.id`,
		lease, most, ids, running)
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", rightsError(err))
	}
	return list, nil
}

// Finish implements tiers.Outbox. An attempt whose claim has ended, and which another process has
// repeated, changes nothing, unless the message was received.
func (c *Catalogue) Finish(ctx context.Context, d tiers.Delivery, o tiers.DeliveryOutcome) error {
	err := c.exec(ctx, one(`
		UPDATE tierlimit.deliveries SET state = $4, due_at = CASE $4 WHEN 'pending' THEN now() + $5::interval ELSE due_at END, status = $6, last_error = $7
		WHERE webhook = $1 AND message = $2 AND state = 'pending' AND (attempts = $3 OR $4 = 'delivered')`,
		d.Webhook.ID, d.Message.ID, d.Attempt, string(o.State), o.After, o.Status, storable(o.Error)))
	if err != nil {
		return fmt.Errorf("write the outcome of a delivery: %w", err)
	}
	return nil
}

// storable returns text as Postgres takes it: UTF-8 without the character 0.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
}

// Backlog implements tiers.Outbox.
func (c *Catalogue) Backlog(ctx context.Context) (pending, dead int, err error) {
	err = c.query(ctx, c.background, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&pending, &dead}, func() error { return nil })
		return err
	}, `
		SELECT (SELECT count(*) FROM tierlimit.deliveries WHERE state = 'pending'), (SELECT count(*) FROM tierlimit.deliveries WHERE state = 'dead')`)
	if err != nil {
		return 0, 0, fmt.Errorf("count deliveries: %w", err)
	}
	return pending, dead, nil
}

// Deliveries implements tiers.Outbox.
func (c *Catalogue) Deliveries(ctx context.Context, f tiers.DeliveryFilter) (list []tiers.DeliveryState, err error) {
	if _, err := c.Webhook(ctx, f.Webhook); err != nil {
		return nil, err
	}
	err = c.query(ctx, c.admin, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d tiers.DeliveryState, err error) {
			var due time.Time
			err = row.Scan(&d.ID, &d.Type, &d.At, &d.Data, &d.Subject, &d.State, &d.Attempts, &due, &d.TriedAt, &d.Status, &d.LastError)
			d.At = d.At.UTC()
			if d.TriedAt != nil {
				*d.TriedAt = d.TriedAt.UTC()
			}
			if due = due.UTC(); d.State == tiers.Pending {
				d.DueAt = &due
			}
			return d, err
		})
		return err
	}, `
		SELECT m.id, m.type, m.at, m.data, m.subject, d.state, d.attempts, d.due_at, d.tried_at, d.status, d.last_error
		FROM tierlimit.deliveries d JOIN tierlimit.messages m ON m.id = d.message
		WHERE d.webhook = $1 AND $2 IN ('', d.state) AND ($3 = '' OR d.message < $3) ORDER BY d.message DESC LIMIT $4`,
		f.Webhook, string(f.State), f.Before, f.Most)
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	return list, nil
}

// Resend implements tiers.Outbox.
func (c *Catalogue) Resend(ctx context.Context, webhook, message string) (n int, err error) {
	if _, err := c.Webhook(ctx, webhook); err != nil {
		return 0, err
	}
	missing := fmt.Errorf("message %.80q of webhook %.80q %w", message, webhook, tiers.ErrNotFound)
	if message != "" && !tierlimit.ValidSubject(message) { // Postgres may be unable to encode it
		return 0, missing
	}
	err = c.in(ctx, c.admin, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		changed, err := tx.Exec(ctx, `
			UPDATE tierlimit.deliveries SET state = 'pending', attempts = 0, due_at = now()
			WHERE webhook = $1 AND ($2 = '' AND state = 'dead' OR message = $2)`, webhook, message)
		n = int(changed.RowsAffected())
		return err
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("send messages again: %w", err)
	case n == 0 && message != "":
		return 0, missing
	}
	return n, nil
}

// SendTest implements tiers.Outbox.
func (c *Catalogue) SendTest(ctx context.Context, webhook string) (id string, err error) {
	err = c.in(ctx, c.admin, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			WITH w AS (SELECT id FROM tierlimit.webhooks WHERE id = $1),
			m AS (INSERT INTO tierlimit.messages (type, data) SELECT $2, jsonb_build_object('webhook', w.id) FROM w RETURNING id),
			d AS (INSERT INTO tierlimit.deliveries (webhook, message) SELECT w.id, m.id FROM w, m)
			SELECT coalesce((SELECT id FROM m), '')`, webhook, tiers.WebhookTest).Scan(&id)
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("send a test message: %w", err)
	case id == "":
		return "", tiers.WebhookError(webhook, tiers.ErrNotFound)
	}
	return id, nil
}
