package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

var _ tiers.UsageHistory = (*Catalogue)(nil)

// NearLimits implements tiers.UsageHistory.
func (c *Catalogue) NearLimits(ctx context.Context, q tiers.NearQuery) ([]tiers.WindowUsage, error) {
	level := int(q.Over * levels)
	list, err := c.windows(ctx, `
		SELECT subject, limit_name, used, max, ends_at FROM tierlimit.usage
		WHERE level >= 10 AND level >= $1 AND ends_at > $2 AND used >= max * $3::float8
			AND (level < $4 OR level = $4 AND (subject, limit_name) > ($5, $6))
		ORDER BY level DESC, subject, limit_name LIMIT $7`,
		level, time.Now().UnixMilli(), q.Over, levelOf(q.After), q.After.Subject, q.After.Limit, q.Most)
	if err != nil {
		return nil, fmt.Errorf("read who is near a limit: %w", err)
	}
	return list, nil
}

// A max has so many levels in the table, which knows usage up to twice the max.
const (
	levels   = 20
	topLevel = 2 * levels
)

// levelOf returns the level of a window in the table; that of no window is above all.
func levelOf(w tiers.WindowUsage) int {
	if w.Max <= 0 {
		return topLevel + 1
	}
	return int(min(topLevel, w.Used*levels/w.Max))
}

// History implements tiers.UsageHistory.
func (c *Catalogue) History(ctx context.Context, subject, limit string, most int) ([]tiers.WindowUsage, error) {
	list, err := c.windows(ctx, `
		SELECT subject, limit_name, used, max, ends_at FROM (
			SELECT subject, limit_name, used, max, ends_at FROM tierlimit.usage_history
			UNION ALL
			SELECT subject, limit_name, used, max, ends_at FROM tierlimit.usage WHERE used > 0 AND limit_name <> ''
		) w WHERE subject = $1 AND $2 IN ('', limit_name) ORDER BY ends_at DESC, limit_name LIMIT $3`, subject, limit, most)
	if err != nil {
		return nil, fmt.Errorf("read the usage history of %q: %w", subject, err)
	}
	return list, nil
}

func (c *Catalogue) windows(ctx context.Context, sql string, args ...any) (list []tiers.WindowUsage, err error) {
	err = c.query(ctx, c.admin, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w tiers.WindowUsage, err error) {
			var ends int64
			err = row.Scan(&w.Subject, &w.Limit, &w.Used, &w.Max, &ends)
			w.EndsAt = time.UnixMilli(ends).UTC()
			return w, err
		})
		return err
	}, sql, args...)
	return list, err
}
