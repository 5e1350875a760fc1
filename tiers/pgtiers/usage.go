package pgtiers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tierlimit/tierlimit/store/durable"
)

var _ durable.Ledger = (*Catalogue)(nil)

// NoteWindows implements durable.Ledger. Rows are locked in one order, so that
// replicas never wait for each other in a circle.
func (c *Catalogue) NoteWindows(ctx context.Context, list []durable.Window) error {
	n := len(list)
	subjects, limits := make([]string, n), make([]string, n)
	used, ends, at, corrected, given, most := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, w := range list {
		subjects[i], limits[i], used[i], ends[i], at[i], corrected[i], given[i], most[i] = w.Subject, w.Limit, w.Used, w.End, w.At, w.Corrected, w.Given, w.Max
	}
	err := c.exec(ctx, one(`
		INSERT INTO tierlimit.usage AS u (subject, limit_name, used, ends_at, at, corrected_at, max, level)
		SELECT n.subject, n.limit_name, greatest(n.used, kept.used), n.ends_at,
			CASE WHEN kept.used > n.used THEN r.at ELSE n.at END, -- what was seen then, and not what a store has that lost it
			n.corrected_at, m.max, CASE WHEN m.max > 0 THEN least(40, floor(20.0 * greatest(n.used, kept.used) / m.max)) ELSE 0 END
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
			AS n (subject, limit_name, used, ends_at, at, corrected_at, given, max)
		LEFT JOIN tierlimit.usage r USING (subject, limit_name)
		CROSS JOIN LATERAL (SELECT CASE WHEN r.ends_at > n.at AND n.corrected_at > r.corrected_at THEN r.used - n.given END AS used) AS kept
		CROSS JOIN LATERAL (SELECT CASE WHEN n.max > 0 THEN n.max ELSE coalesce(r.max, 0) END AS max) AS m
		WHERE NOT EXISTS (SELECT FROM tierlimit.usage a WHERE a.subject = n.subject AND a.limit_name = '' AND a.reset_at >= n.at)
		ORDER BY n.subject COLLATE "C", n.limit_name COLLATE "C"
		ON CONFLICT (subject, limit_name) DO UPDATE SET used = excluded.used, ends_at = excluded.ends_at, max = excluded.max, level = excluded.level,
			at = greatest(u.at, excluded.at), corrected_at = greatest(u.corrected_at, excluded.corrected_at)
		WHERE excluded.at > u.reset_at
			AND (u.ends_at <= excluded.at -- the next window; or the same, further on, shortened or corrected
				OR excluded.ends_at > u.at AND excluded.ends_at <= u.ends_at AND (
					excluded.corrected_at > u.corrected_at AND excluded.at >= u.at
					OR excluded.at > u.corrected_at AND excluded.used >= u.used))
			AND (excluded.used, excluded.ends_at, excluded.max, greatest(u.corrected_at, excluded.corrected_at)) IS DISTINCT FROM (u.used, u.ends_at, u.max, u.corrected_at)`,
		subjects, limits, used, ends, at, corrected, given, most))
	if err != nil {
		return fmt.Errorf("note %d windows: %w", n, err)
	}
	return nil
}

// allLimits is the name under which it stands that all of a subject was reset.
const allLimits = ""

// NoteResets implements durable.Ledger. That something was reset is a row, so that
// it holds for what is noted later.
func (c *Catalogue) NoteResets(ctx context.Context, list []durable.Reset) error {
	slices.SortFunc(list, func(a, b durable.Reset) int { return strings.Compare(a.Subject, b.Subject) })
	batch := &pgx.Batch{}
	for _, r := range list {
		names := slices.Sorted(slices.Values(r.Limits))
		if len(names) == 0 {
			names = []string{allLimits}
			batch.Queue(`
				UPDATE tierlimit.usage SET used = 0, level = 0, ends_at = $2, reset_at = greatest(reset_at, $2)
				WHERE subject = $1 AND limit_name <> '' AND at <= $2`, r.Subject, r.At)
		}
		batch.Queue(`
			INSERT INTO tierlimit.usage AS u (subject, limit_name, used, ends_at, at, reset_at)
			SELECT $1, name, 0, $3, $3, $3 FROM unnest($2::text[]) AS name
			ON CONFLICT (subject, limit_name) DO UPDATE SET
				used = CASE WHEN u.at <= $3 THEN 0 ELSE u.used END, level = CASE WHEN u.at <= $3 THEN 0 ELSE u.level END, ends_at = CASE WHEN u.at <= $3 THEN $3 ELSE u.ends_at END,
				reset_at = greatest(u.reset_at, $3)`, r.Subject, names, r.At)
	}
	if err := c.exec(ctx, batch); err != nil {
		return fmt.Errorf("note %d changes of usage: %w", batch.Len(), err)
	}
	return nil
}

// RunningWindows implements durable.Ledger.
func (c *Catalogue) RunningWindows(ctx context.Context, subjects []string, now int64) ([]durable.Window, error) {
	var list []durable.Window
	err := c.query(ctx, c.background, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w durable.Window, err error) {
			err = row.Scan(&w.Subject, &w.Limit, &w.Used, &w.End, &w.At)
			return w, err
		})
		return err
	}, `
		SELECT subject, limit_name, used, ends_at, at FROM tierlimit.usage
		WHERE subject = ANY ($1) AND used > 0 AND ends_at > $2`, subjects, now)
	if err != nil {
		return nil, fmt.Errorf("read usage of %d subjects: %w", len(subjects), err)
	}
	return list, nil
}

// ForgetEnded implements durable.Ledger, some at a time. It also forgets what was removed from
// the catalogue more than a day ago, which each removal does too.
func (c *Catalogue) ForgetEnded(ctx context.Context, before int64) error {
	if err := c.forgetRemovals(ctx); err != nil {
		return err
	}
	const some, rounds = 10_000, 20
	for _, forget := range []struct {
		table  string
		before int64
	}{{"usage", before}, {"usage_history", before - cmp.Or(c.cfg.History, DefaultHistory).Milliseconds()}} {
		for range rounds {
			done, err := c.forgetSome(ctx, forget.table, forget.before, some)
			if err != nil {
				return err
			}
			if done < some {
				break
			}
		}
	}
	return nil
}

func (c *Catalogue) forgetRemovals(ctx context.Context) error {
	batch := &pgx.Batch{}
	// Locks in the order of other writers.
	batch.Queue(`SELECT FROM tierlimit.catalogue WHERE EXISTS (
		SELECT FROM tierlimit.removals WHERE removed_at < now() - interval '1 day') FOR UPDATE`)
	batch.Queue(`
		WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
		UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
		WHERE EXISTS (SELECT FROM old)`)
	if err := c.exec(ctx, batch); err != nil {
		return fmt.Errorf("forget removals: %w", err)
	}
	return nil
}

// forgetSome removes windows of a table that ended before an instant, and returns how many.
func (c *Catalogue) forgetSome(ctx context.Context, table string, before int64, most int64) (done int64, err error) {
	batch := &pgx.Batch{}
	batch.Queue(`
		DELETE FROM tierlimit.`+table+` WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM tierlimit.`+table+` WHERE ends_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))`, before, most).Exec(func(tag pgconn.CommandTag) error {
		done = tag.RowsAffected()
		return nil
	})
	if err := c.exec(ctx, batch); err != nil {
		return 0, fmt.Errorf("forget usage that has ended: %w", err)
	}
	return done, nil
}
