package pgtiers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Alert implements tiers.Outbox. The primary key of tierlimit.alerts makes a crossing unique.
func (c *Catalogue) Alert(ctx context.Context, list []tierlimit.Crossing) error {
	n := len(list)
	subjects, limits, on, data := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	ends, thresholds, at := make([]int64, n), make([]int, n), make([]time.Time, n)
	for i := range list {
		one := &list[i]
		text, err := json.Marshal(tiers.ThresholdData{
			Subject: one.Subject, Tier: one.Tier, Limit: one.Limit, Threshold: one.Threshold, Used: one.Used, Max: one.Max, EndsAt: one.EndsAt,
		})
		if err != nil {
			return err
		}
		subjects[i], limits[i], on[i], data[i] = one.Subject, one.Limit, one.Tier, string(text)
		ends[i], thresholds[i], at[i] = one.EndsAt.UnixMilli(), one.Threshold, one.At
	}
	err := c.exec(ctx, one(`
		WITH seen AS (
			SELECT DISTINCT ON (subject, limit_name, ends_at, threshold) * FROM
				unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::text[], $6::timestamptz[], $7::text[])
				AS s (subject, limit_name, ends_at, threshold, tier, at, data)
			ORDER BY subject, limit_name, ends_at, threshold), -- one order for all who write
		written AS (
			INSERT INTO tierlimit.alerts (subject, limit_name, ends_at, threshold, tier)
			SELECT subject, limit_name, ends_at, threshold, tier FROM seen
			ON CONFLICT DO NOTHING RETURNING subject, limit_name, ends_at, threshold)
		INSERT INTO tierlimit.messages (type, subject, at, data)
		SELECT $8, s.subject, s.at, s.data::jsonb FROM written JOIN seen s USING (subject, limit_name, ends_at, threshold)
		WHERE EXISTS (SELECT FROM tierlimit.webhooks WHERE $8 = ANY (events))`,
		subjects, limits, ends, thresholds, on, at, data, tiers.LimitThreshold))
	if err != nil {
		return fmt.Errorf("write %d alerts: %w", n, err)
	}
	return nil
}

// endAtOnce is how many windows EndAlerts ends in one transaction.
const endAtOnce = 500

// recovered marks the alerts of the windows in list, and writes a message for each window: one
// window may have several alerts, of which one is written late.
const recovered = `
	marked AS (
		UPDATE tierlimit.alerts a SET recovered_at = now(), check_at = NULL FROM list
		WHERE (a.subject, a.limit_name, a.ends_at) = (list.subject, list.limit_name, list.ends_at) AND a.recovered_at IS NULL
		RETURNING a.subject, a.limit_name, a.ends_at, a.threshold, a.tier),
	message AS (
		INSERT INTO tierlimit.messages (type, subject, data)
		SELECT DISTINCT ON (m.subject, m.limit_name, m.ends_at) 'limit.recovered', m.subject, jsonb_strip_nulls(jsonb_build_object(
			'subject', m.subject, 'tier', m.tier, 'limit', m.limit_name, 'reason', list.reason, 'used', list.used, 'max', list.max,
			'ends_at', to_char(to_timestamp(m.ends_at / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
		FROM marked m JOIN list USING (subject, limit_name, ends_at)
		WHERE EXISTS (SELECT FROM tierlimit.webhooks WHERE 'limit.recovered' = ANY (events))
			AND NOT EXISTS (SELECT FROM tierlimit.alerts o WHERE (o.subject, o.limit_name, o.ends_at) = (m.subject, m.limit_name, m.ends_at) AND o.recovered_at IS NOT NULL)
		ORDER BY m.subject, m.limit_name, m.ends_at, m.threshold)`

// EndAlerts implements tiers.Outbox.
func (c *Catalogue) EndAlerts(ctx context.Context, now time.Time) (n int, err error) {
	err = c.in(ctx, c.background, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		var mine bool // replicas take turns
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtext('tierlimit.recovered'))`).Scan(&mine); err != nil || !mine {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH list AS (
				SELECT DISTINCT subject, limit_name, ends_at, $3::text AS reason, NULL::bigint AS used, NULL::bigint AS max
				FROM (SELECT * FROM tierlimit.alerts WHERE recovered_at IS NULL AND ends_at <= $1 ORDER BY ends_at LIMIT $2) a),
			`+recovered+` SELECT count(*) FROM list`, now.UnixMilli(), endAtOnce, tiers.RecoveredEnded).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("end alerts: %w", err)
	}
	return n, nil
}

// AlertsToCheck implements tiers.Outbox.
func (c *Catalogue) AlertsToCheck(ctx context.Context, now time.Time, n int) (list []tiers.Alert, err error) {
	err = c.query(ctx, c.background, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a tiers.Alert, err error) {
			var ends int64
			err = row.Scan(&a.Subject, &a.Tier, &a.Limit, &a.Threshold, &ends)
			a.EndsAt = time.UnixMilli(ends).UTC()
			return a, err
		})
		return err
	}, `
		WITH due AS (
			SELECT subject, limit_name, ends_at, threshold FROM tierlimit.alerts
			WHERE recovered_at IS NULL AND check_at <= $1 ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED),
		taken AS (
			UPDATE tierlimit.alerts a SET check_at = NULL FROM due
			WHERE (a.subject, a.limit_name, a.ends_at, a.threshold) = (due.subject, due.limit_name, due.ends_at, due.threshold)
			RETURNING a.subject, a.tier, a.limit_name, a.ends_at)
		SELECT DISTINCT ON (t.subject, t.limit_name, t.ends_at) t.subject, t.tier, t.limit_name,
			(SELECT min(threshold) FROM tierlimit.alerts l WHERE (l.subject, l.limit_name, l.ends_at) = (t.subject, t.limit_name, t.ends_at)), t.ends_at
		FROM taken t ORDER BY t.subject, t.limit_name, t.ends_at`, now, n)
	if err != nil {
		return nil, fmt.Errorf("read alerts to check: %w", err)
	}
	return list, nil
}

// RecoverAlert implements tiers.Outbox.
func (c *Catalogue) RecoverAlert(ctx context.Context, a tiers.Alert) error {
	err := c.in(ctx, c.background, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('tierlimit.recovered'))`)
		if err == nil {
			_, err = tx.Exec(ctx, `
				WITH list AS (
					SELECT $1::text AS subject, $2::text AS limit_name, $3::bigint AS ends_at, $4::text AS reason, $5::bigint AS used, $6::bigint AS max),
				`+recovered+` SELECT`, a.Subject, a.Limit, a.EndsAt.UnixMilli(), tiers.RecoveredChanged, a.Used, a.Max)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("end the alert of %q: %w", a.Subject, err)
	}
	return nil
}

// Prune implements tiers.Outbox.
func (c *Catalogue) Prune(ctx context.Context, before time.Time) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM tierlimit.messages WHERE id IN (SELECT id FROM tierlimit.messages WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)`, before, pruneAtOnce)
	batch.Queue(`DELETE FROM tierlimit.alerts WHERE ctid = ANY (ARRAY(SELECT ctid FROM tierlimit.alerts WHERE ends_at < $1 AND recovered_at IS NOT NULL
		ORDER BY ends_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, before.UnixMilli(), pruneAtOnce)
	if err := c.exec(ctx, batch); err != nil {
		return fmt.Errorf("delete old messages: %w", err)
	}
	return nil
}

// pruneAtOnce bounds the rows that one transaction deletes.
const pruneAtOnce = 5000

// eraseMessages deletes the messages about a subject and its alerts.
func eraseMessages(ctx context.Context, tx pgx.Tx, subject string) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM tierlimit.messages WHERE subject = $1`, subject)
	batch.Queue(`DELETE FROM tierlimit.alerts WHERE subject = $1`, subject)
	return tx.SendBatch(ctx, batch).Close()
}
