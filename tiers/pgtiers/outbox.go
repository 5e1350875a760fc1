package pgtiers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
		return fmt.Errorf("write %d alerts: %w", n, rightsError(err))
	}
	return nil
}

// endAtOnce is how many alerts EndAlerts ends in one transaction, about.
const endAtOnce = 500

// rightsError adds advice to an error of a role that lacks rights.
func rightsError(err error) error {
	if code, _ := codeOf(err); code == rightState {
		return fmt.Errorf("%w (run `tierlimit migrate grant` for the role of serve)", err)
	}
	return err
}

// recovered marks the open alerts of the windows in list, and writes a message for each window,
// unless a later window of the limit has an open alert: the customer still cannot go on. ends_at + 0
// keeps the planner from an index on ends_at alone, which all windows of a month share.
const recovered = `
	marked AS (
		UPDATE tierlimit.alerts SET recovered_at = now() WHERE ctid = ANY (ARRAY(
			SELECT a.ctid FROM list JOIN tierlimit.alerts a ON a.subject = list.subject AND a.limit_name = list.limit_name AND a.ends_at + 0 = list.ends_at
			WHERE a.recovered_at IS NULL ORDER BY a.subject, a.limit_name, a.ends_at, a.threshold FOR UPDATE OF a))
		RETURNING subject, limit_name, ends_at, threshold, tier),
	message AS (
		INSERT INTO tierlimit.messages (type, subject, data)
		SELECT DISTINCT ON (m.subject, m.limit_name, m.ends_at) 'limit.recovered', m.subject, jsonb_strip_nulls(jsonb_build_object(
			'subject', m.subject, 'tier', m.tier, 'limit', m.limit_name, 'reason', list.reason, 'used', list.used, 'max', list.max,
			'ends_at', regexp_replace(to_char(to_timestamp(m.ends_at / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), '\.?0*Z$', 'Z')))
		FROM marked m JOIN list USING (subject, limit_name, ends_at)
		WHERE EXISTS (SELECT FROM tierlimit.webhooks WHERE 'limit.recovered' = ANY (events))
			AND NOT EXISTS (SELECT FROM tierlimit.alerts later WHERE later.subject = m.subject AND later.limit_name = m.limit_name
				AND later.ends_at > m.ends_at AND later.recovered_at IS NULL)
		ORDER BY m.subject, m.limit_name, m.ends_at, m.threshold)`

// EndAlerts implements tiers.Outbox. The store's clock may be ahead of the database's: windows end
// five seconds late.
func (c *Catalogue) EndAlerts(ctx context.Context) (n int, err error) {
	err = c.turn(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			WITH list AS MATERIALIZED (
				SELECT DISTINCT subject, limit_name, ends_at, $2::text AS reason, NULL::bigint AS used, NULL::bigint AS max
				FROM (SELECT * FROM tierlimit.alerts WHERE recovered_at IS NULL AND ends_at <= (extract(epoch FROM now() - interval '5 seconds') * 1000)::bigint
					ORDER BY ends_at LIMIT $1) a),
			`+recovered+` SELECT count(*) FROM list`, endAtOnce, tiers.RecoveredEnded).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("end alerts: %w", err)
	}
	return n, nil
}

// turn runs do in a transaction if no other process runs one: replicas take turns.
func (c *Catalogue) turn(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	return rightsError(c.in(ctx, c.background, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtext('tierlimit.alerts'))`).Scan(&mine); err != nil || !mine {
			return err
		}
		return do(ctx, tx)
	}))
}

// checkAtOnce is how many alerts of a tier become due in one transaction.
const checkAtOnce = 2000

// AlertsToCheck implements tiers.Outbox.
func (c *Catalogue) AlertsToCheck(ctx context.Context, n int) (list []tiers.Alert, err error) {
	err = c.turn(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := followChanges(ctx, tx); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			WITH due AS (
				SELECT ctid FROM tierlimit.alerts WHERE recovered_at IS NULL AND check_at <= now() ORDER BY check_at LIMIT $1 FOR UPDATE SKIP LOCKED),
			taken AS (
				UPDATE tierlimit.alerts SET check_at = now() + interval '1 minute' WHERE ctid = ANY (ARRAY(SELECT ctid FROM due))
				RETURNING subject, tier, limit_name, ends_at)
			SELECT DISTINCT ON (t.subject, t.limit_name, t.ends_at) t.subject, t.tier, t.limit_name,
				(SELECT min(l.threshold) FROM tierlimit.alerts l WHERE l.subject = t.subject AND l.limit_name = t.limit_name AND l.ends_at + 0 = t.ends_at), t.ends_at
			FROM taken t ORDER BY t.subject, t.limit_name, t.ends_at`, n)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a tiers.Alert, err error) {
			var ends int64
			err = row.Scan(&a.Subject, &a.Tier, &a.Limit, &a.Threshold, &ends)
			a.EndsAt = time.UnixMilli(ends).UTC()
			return a, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read alerts to check: %w", err)
	}
	return list, nil
}

// followChanges makes the alerts of changed subjects due, and some of those of a changed tier.
func followChanges(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	batch.Queue(`
		WITH changed AS (
			DELETE FROM tierlimit.alert_checks WHERE id IN (
				SELECT id FROM tierlimit.alert_checks WHERE subject IS NOT NULL AND due_at <= now() ORDER BY due_at LIMIT 500 FOR UPDATE SKIP LOCKED)
			RETURNING subject)
		UPDATE tierlimit.alerts a SET check_at = now() FROM (SELECT DISTINCT subject FROM changed) c WHERE a.subject = c.subject AND a.recovered_at IS NULL`)
	batch.Queue(`
		WITH changed AS (
			SELECT id, tier, after FROM tierlimit.alert_checks WHERE tier IS NOT NULL AND due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED),
		part AS MATERIALIZED (
			SELECT a.ctid, a.subject FROM changed c CROSS JOIN LATERAL (
				SELECT ctid, subject FROM tierlimit.alerts WHERE tier = c.tier AND subject > c.after AND recovered_at IS NULL ORDER BY subject LIMIT $1) a),
		marked AS (
			UPDATE tierlimit.alerts SET check_at = now() WHERE ctid = ANY (ARRAY(SELECT ctid FROM part))),
		done AS (
			DELETE FROM tierlimit.alert_checks WHERE id IN (SELECT id FROM changed) AND (SELECT count(*) FROM part) < $1)
		UPDATE tierlimit.alert_checks SET after = (SELECT max(subject) FROM part)
		WHERE id IN (SELECT id FROM changed) AND (SELECT count(*) FROM part) >= $1`, checkAtOnce)
	return tx.SendBatch(ctx, batch).Close()
}

// AlertChecked implements tiers.Outbox.
func (c *Catalogue) AlertChecked(ctx context.Context, a tiers.Alert) error {
	err := c.exec(ctx, one(`
		UPDATE tierlimit.alerts SET check_at = now() + interval '1 hour'
		WHERE subject = $1 AND limit_name = $2 AND ends_at + 0 = $3 AND recovered_at IS NULL AND check_at <= now() + interval '1 minute'`,
		a.Subject, a.Limit, a.EndsAt.UnixMilli()))
	if err != nil {
		return fmt.Errorf("note that the alert of %q was checked: %w", a.Subject, err)
	}
	return nil
}

// RecoverAlert implements tiers.Outbox.
func (c *Catalogue) RecoverAlert(ctx context.Context, a tiers.Alert) error {
	err := c.exec(ctx, one(`
		WITH list AS MATERIALIZED (
			SELECT $1::text AS subject, $2::text AS limit_name, $3::bigint AS ends_at, $4::text AS reason, $5::bigint AS used, $6::bigint AS max),
		`+recovered+` SELECT`, a.Subject, a.Limit, a.EndsAt.UnixMilli(), tiers.RecoveredChanged, a.Used, a.Max))
	if err != nil {
		return fmt.Errorf("end the alert of %q: %w", a.Subject, err)
	}
	return nil
}

// Prune implements tiers.Outbox.
func (c *Catalogue) Prune(ctx context.Context, before time.Time) (more bool, err error) {
	batch := &pgx.Batch{}
	count := func(tag pgconn.CommandTag) error {
		more = more || tag.RowsAffected() == pruneAtOnce
		return nil
	}
	batch.Queue(`
		DELETE FROM tierlimit.messages WHERE id IN (SELECT id FROM tierlimit.messages WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		before, pruneAtOnce).Exec(count)
	batch.Queue(`
		DELETE FROM tierlimit.alerts WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM tierlimit.alerts -- no process decides over a window an hour after its end
			WHERE ends_at < (extract(epoch FROM now() - interval '1 hour') * 1000)::bigint AND recovered_at IS NOT NULL
			ORDER BY ends_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, pruneAtOnce).Exec(count)
	if err := c.exec(ctx, batch); err != nil {
		return false, fmt.Errorf("delete old messages: %w", rightsError(err))
	}
	return more, nil
}

// pruneAtOnce bounds the rows that one transaction deletes.
const pruneAtOnce = 5000

// eraseMessages deletes the messages about a subject and its alerts, but for those of a customer's
// running windows: their thresholds would be told again.
func eraseMessages(ctx context.Context, tx pgx.Tx, subject string) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM tierlimit.messages WHERE subject = $1`, subject)
	batch.Queue(`DELETE FROM tierlimit.alerts WHERE subject = $1
		AND (ends_at < (extract(epoch FROM now()) * 1000)::bigint OR NOT EXISTS (SELECT FROM tierlimit.subjects WHERE id = $1))`, subject)
	batch.Queue(`DELETE FROM tierlimit.alert_checks WHERE subject = $1`, subject)
	return tx.SendBatch(ctx, batch).Close()
}
