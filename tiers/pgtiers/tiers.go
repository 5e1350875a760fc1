package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Tiers implements tiers.Catalogue.
func (c *Catalogue) Tiers(ctx context.Context) (list []tiers.Tier, err error) {
	err = c.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		list, err = selectTiers(ctx, tx, "")
		return err
	})
	return list, err
}

// Tier implements tiers.Catalogue.
func (c *Catalogue) Tier(ctx context.Context, key string) (t tiers.Tier, err error) {
	err = c.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		t, err = selectTier(ctx, tx, key)
		return err
	})
	return t, err
}

const calendar = "calendar" // the zero tiers.Anchor in limits.anchor

func selectTier(ctx context.Context, tx pgx.Tx, key string) (tiers.Tier, error) {
	if !tierlimit.ValidName(key) {
		return tiers.Tier{}, tiers.TierError(key, tiers.ErrNotFound)
	}
	list, err := selectTiers(ctx, tx, key)
	if err == nil && len(list) == 0 {
		err = tiers.TierError(key, tiers.ErrNotFound)
	}
	if err != nil {
		return tiers.Tier{}, err
	}
	return list[0], nil
}

type tierRow struct {
	Key          string
	Name         string
	IsDefault    bool
	Priority     int
	OnStoreError string
	Denials      string
	Alerts       []int
	LoadStart    *float64
	LoadFull     *float64
	LoadFloor    *float64
	Version      int64
}

type limitRow struct {
	Tier     string
	Name     string
	Scope    string
	Max      *int64
	WindowMS *int64 `db:"window_ms"`
	Period   *string
	Adaptive bool
	Shadow   bool
	Anchor   string

	Algorithm string
	OnExpiry  string
	Alerts    []int
}

// selectTiers reads the tier key, or all when key is empty.
func selectTiers(ctx context.Context, tx pgx.Tx, key string) ([]tiers.Tier, error) {
	batch := &pgx.Batch{}
	list := queueTiers(batch, key)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read tiers: %w", err)
	}
	return list(), nil
}

// queueTiers queues the query of the tier key, or of all tiers if key is empty. Call list after
// the batch has been sent.
func queueTiers(batch *pgx.Batch, key string) (list func() []tiers.Tier) {
	var tierRows []tierRow
	var limitRows []limitRow
	batch.Queue(`
		SELECT key, name, is_default, priority, on_store_error, denials, alerts, load_start, load_full, load_floor, version
		FROM tierlimit.tiers WHERE $1 IN ('', key) ORDER BY priority, key`, key).Query(func(rows pgx.Rows) (err error) {
		tierRows, err = pgx.CollectRows(rows, pgx.RowToStructByName[tierRow])
		return err
	})
	batch.Queue(`
		SELECT tier, name, scope, max, window_ms, period, adaptive, shadow, anchor, algorithm, on_expiry, alerts
		FROM tierlimit.limits WHERE $1 IN ('', tier)`, key).Query(func(rows pgx.Rows) (err error) {
		limitRows, err = pgx.CollectRows(rows, pgx.RowToStructByName[limitRow])
		return err
	})
	return func() []tiers.Tier { return tiersOf(tierRows, limitRows) }
}

func tiersOf(tierRows []tierRow, limitRows []limitRow) []tiers.Tier {
	limits := make(map[string]map[string]tiers.Limit)
	for _, r := range limitRows {
		if limits[r.Tier] == nil {
			limits[r.Tier] = make(map[string]tiers.Limit)
		}
		limits[r.Tier][r.Name] = r.limit()
	}
	list := make([]tiers.Tier, len(tierRows))
	for i, r := range tierRows {
		list[i] = r.tier(limits[r.Key])
	}
	return list
}

func (r tierRow) tier(limits map[string]tiers.Limit) tiers.Tier {
	t := tiers.Tier{
		Key: r.Key, Name: r.Name, Default: r.IsDefault, Priority: r.Priority,
		OnStoreError: tierlimit.Policy(r.OnStoreError), Denials: tierlimit.Denials(r.Denials), Limits: limits, Version: r.Version, Alerts: r.Alerts,
	}
	t.Normalize()
	if r.LoadStart != nil {
		t.Load = &tiers.Curve{Start: *r.LoadStart, Full: *r.LoadFull, Floor: *r.LoadFloor}
	}
	return t
}

func (r limitRow) limit() tiers.Limit {
	l := tiers.Limit{Scope: r.Scope, Max: tierlimit.Unlimited, Adaptive: r.Adaptive, Shadow: r.Shadow, Alerts: r.Alerts}
	if r.Anchor != calendar {
		l.Anchor = tiers.Anchor(r.Anchor)
	}
	if r.Algorithm != string(tierlimit.Fixed) {
		l.Algorithm = tierlimit.Algorithm(r.Algorithm)
	}
	if r.OnExpiry != string(tierlimit.ChargeOnExpiry) {
		l.OnExpiry = tierlimit.OnExpiry(r.OnExpiry)
	}
	if r.Max != nil {
		l.Max = *r.Max
	}
	if r.WindowMS != nil {
		l.Window.Length = time.Duration(*r.WindowMS) * time.Millisecond
	}
	if r.Period != nil {
		l.Window.Period = tierlimit.Period(*r.Period)
	}
	return l
}
