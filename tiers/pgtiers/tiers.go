package pgtiers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// CreateTier implements tiers.Catalogue.
func (c *Catalogue) CreateTier(ctx context.Context, t tiers.Tier) (tiers.Tier, error) {
	return c.putTier(ctx, t, func(ctx context.Context, tx pgx.Tx) (any, error) {
		_, err := selectTier(ctx, tx, t.Key)
		if err == nil {
			return nil, tiers.TierError(t.Key, tiers.ErrExists)
		}
		if errors.Is(err, tiers.ErrNotFound) {
			return nil, nil
		}
		return nil, err
	})
}

// ReplaceTier implements tiers.Catalogue.
func (c *Catalogue) ReplaceTier(ctx context.Context, t tiers.Tier, version int64) (tiers.Tier, error) {
	return c.putTier(ctx, t, func(ctx context.Context, tx pgx.Tx) (any, error) {
		old, err := selectTierAt(ctx, tx, t.Key, version)
		if err == nil && old.Default && !t.Default {
			err = tiers.StillDefaultError(t.Key)
		}
		return old, err
	})
}

// DeleteTier implements tiers.Catalogue.
func (c *Catalogue) DeleteTier(ctx context.Context, key string, version int64) error {
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		old, err := selectTierAt(ctx, tx, key, version)
		if err != nil {
			return err
		}
		if old.Default {
			return tiers.StillDefaultError(key)
		}
		if err := carryOut(ctx, tx, key); err != nil {
			return err
		}
		if err := inUse(ctx, tx, key); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM tierlimit.tiers WHERE key = $1`, key); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindTier, key, "", old, nil)
	})
}

// inUse says which subjects are in the way of deleting a tier.
func inUse(ctx context.Context, tx pgx.Tx, key string) error {
	e := &tiers.InUseError{Tier: key}
	f := tiers.SubjectFilter{Tier: key, Most: tiers.InTheWay}
	var err error
	if e.Count, err = countSubjects(ctx, tx, f); err != nil || e.Count == 0 {
		return err
	}
	first, err := selectSubjects(ctx, tx, f)
	if err != nil {
		return err
	}
	for _, s := range first {
		e.Subjects = append(e.Subjects, s.ID)
	}
	return e
}

// carryOut writes what has come by itself into the subjects that still name a
// tier for it: they do not hold on to it any more.
func carryOut(ctx context.Context, tx pgx.Tx, key string) error {
	_, err := tx.Exec(ctx, `
		UPDATE tierlimit.subjects SET
			tier = CASE WHEN next_at <= now() THEN next_tier ELSE tier END,
			next_tier = CASE WHEN next_at <= now() THEN NULL ELSE next_tier END,
			next_at = CASE WHEN next_at <= now() THEN NULL ELSE next_at END,
			trial_tier = CASE WHEN trial_ends_at <= now() THEN NULL ELSE trial_tier END,
			trial_ends_at = CASE WHEN trial_ends_at <= now() THEN NULL ELSE trial_ends_at END
		WHERE (tier = $1 AND next_at <= now()) OR (trial_tier = $1 AND trial_ends_at <= now())`, key)
	return err
}

// putTier writes t once check has agreed and said what was there before, in one
// transaction.
func (c *Catalogue) putTier(ctx context.Context, t tiers.Tier, check func(context.Context, pgx.Tx) (any, error)) (written tiers.Tier, err error) {
	t.Normalize()
	if err := t.Validate(); err != nil {
		return tiers.Tier{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		before, err := check(ctx, tx)
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		queueTier(batch, t)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if written, err = selectTier(ctx, tx, t.Key); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindTier, t.Key, "", before, written)
	})
	return written, err
}

func queueTier(batch *pgx.Batch, t tiers.Tier) {
	if t.Default {
		batch.Queue(`UPDATE tierlimit.tiers SET is_default = false WHERE is_default AND key <> $1`, t.Key)
	}
	var start, full, floor *float64
	if t.Load != nil {
		start, full, floor = &t.Load.Start, &t.Load.Full, &t.Load.Floor
	}
	batch.Queue(`
		INSERT INTO tierlimit.tiers (key, name, is_default, priority, on_store_error, load_start, load_full, load_floor)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (key) DO UPDATE SET name = $2, is_default = $3, priority = $4, on_store_error = $5,
			load_start = $6, load_full = $7, load_floor = $8`,
		t.Key, t.Name, t.Default, t.Priority, string(t.OnStoreError), start, full, floor)
	batch.Queue(`DELETE FROM tierlimit.limits WHERE tier = $1`, t.Key)
	for _, name := range slices.Sorted(maps.Keys(t.Limits)) {
		l := t.Limits[name]
		batch.Queue(`
			INSERT INTO tierlimit.limits (tier, name, scope, max, window_ms, period, adaptive, shadow, anchor, algorithm, on_expiry)
			VALUES ($1, $2, $3, nullif($4::bigint, -1), nullif($5::bigint, 0), nullif($6, ''), $7, $8, $9, $10, $11)`,
			t.Key, name, l.Scope, l.Max, l.Window.Length.Milliseconds(), string(l.Window.Period), l.Adaptive, l.Shadow,
			anchorText(l.Anchored), cmp.Or(string(l.Algorithm), string(tierlimit.Fixed)), cmp.Or(string(l.OnExpiry), string(tierlimit.ChargeOnExpiry)))
	}
}

func anchorText(anchored bool) string {
	if anchored {
		return billing
	}
	return "calendar"
}

const billing = "billing" // of limits.anchor

func selectTierAt(ctx context.Context, tx pgx.Tx, key string, version int64) (tiers.Tier, error) {
	t, err := selectTier(ctx, tx, key)
	if err == nil && t.Version != version {
		err = tiers.TierError(key, tiers.ErrStale)
	}
	return t, err
}

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
}

// selectTiers reads the tier key, or all when key is empty.
func selectTiers(ctx context.Context, tx pgx.Tx, key string) ([]tiers.Tier, error) {
	rows, _ := tx.Query(ctx, `
		SELECT key, name, is_default, priority, on_store_error, load_start, load_full, load_floor, version
		FROM tierlimit.tiers WHERE $1 IN ('', key) ORDER BY priority, key`, key)
	tierRows, err := pgx.CollectRows(rows, pgx.RowToStructByName[tierRow])
	if err != nil {
		return nil, fmt.Errorf("read tiers: %w", err)
	}
	rows, _ = tx.Query(ctx, `
		SELECT tier, name, scope, max, window_ms, period, adaptive, shadow, anchor, algorithm, on_expiry FROM tierlimit.limits WHERE $1 IN ('', tier)`, key)
	limitRows, err := pgx.CollectRows(rows, pgx.RowToStructByName[limitRow])
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
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
	return list, nil
}

func (r tierRow) tier(limits map[string]tiers.Limit) tiers.Tier {
	t := tiers.Tier{
		Key: r.Key, Name: r.Name, Default: r.IsDefault, Priority: r.Priority,
		OnStoreError: tierlimit.Policy(r.OnStoreError), Limits: limits, Version: r.Version,
	}
	if r.LoadStart != nil {
		t.Load = &tiers.Curve{Start: *r.LoadStart, Full: *r.LoadFull, Floor: *r.LoadFloor}
	}
	return t
}

func (r limitRow) limit() tiers.Limit {
	l := tiers.Limit{Scope: r.Scope, Max: tierlimit.Unlimited, Adaptive: r.Adaptive, Shadow: r.Shadow, Anchored: r.Anchor == billing}
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
