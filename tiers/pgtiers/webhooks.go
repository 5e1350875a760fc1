package pgtiers

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// webhookColumns are those that webhookOf reads, of tierlimit.webhooks as w.
const webhookColumns = `w.id, w.name, w.url, w.events, w.paused, w.created_at, w.secret, w.secret_at, w.old_secrets, w.version`

// webhookFields returns where to scan webhookColumns. Normalize w afterwards.
func webhookFields(w *tiers.Webhook) []any {
	return []any{&w.ID, &w.Name, &w.URL, &w.Events, &w.Paused, &w.CreatedAt, &w.Secrets.Current, &w.SecretAt, &w.Secrets.Previous, &w.Version}
}

func webhookOf(row pgx.CollectableRow) (w tiers.Webhook, err error) {
	err = row.Scan(webhookFields(&w)...)
	w.Normalize()
	return w, err
}

const allWebhooks = `SELECT ` + webhookColumns + ` FROM tierlimit.webhooks w ORDER BY w.id`

func queueWebhooks(batch *pgx.Batch, list *[]tiers.Webhook) {
	batch.Queue(allWebhooks).Query(func(rows pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(rows, webhookOf)
		return err
	})
}

func putWebhook(batch *pgx.Batch, e *tiers.Edit, w tiers.Webhook) {
	batch.Queue(`
		INSERT INTO tierlimit.webhooks (id, name, url, events, paused, created_at, secret, secret_at, old_secrets)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (id) DO UPDATE SET name = $2, url = $3, events = $4, paused = $5, secret = $7, secret_at = $8, old_secrets = $9
		RETURNING version`,
		w.ID, w.Name, w.URL, w.Events, w.Paused, w.CreatedAt, w.Secrets.Current, w.SecretAt, append([]tiers.OldSecret{}, w.Secrets.Previous...)).
		QueryRow(stamp(e))
}

// Webhooks implements tiers.Outbox.
func (c *Catalogue) Webhooks(ctx context.Context) (list []tiers.Webhook, err error) {
	err = c.query(ctx, c.admin, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, webhookOf)
		return err
	}, allWebhooks)
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	return list, nil
}

// Webhook implements tiers.Outbox.
func (c *Catalogue) Webhook(ctx context.Context, id string) (tiers.Webhook, error) {
	list, err := c.Webhooks(ctx)
	for _, w := range list {
		if w.ID == id {
			return w, nil
		}
	}
	if err == nil {
		err = tiers.WebhookError(id, tiers.ErrNotFound)
	}
	return tiers.Webhook{}, err
}
