package pgtiers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// An overrideRow is one of tierlimit.overrides, as Postgres writes it in JSON.
type overrideRow struct {
	LimitName string    `json:"limit_name"`
	Max       *int64    `json:"max"`
	StartsAt  time.Time `json:"starts_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Reason    string    `json:"reason"`
	Version   int64     `json:"version"`
}

func (r *overrideRow) override() tiers.Override {
	o := tiers.Override{
		Limit: r.LimitName, Max: tierlimit.Unlimited, StartsAt: r.StartsAt, ExpiresAt: r.ExpiresAt, Reason: r.Reason, Version: r.Version,
	}
	if r.Max != nil {
		o.Max = *r.Max
	}
	o.Normalize()
	return o
}

// Overrides implements tiers.Catalogue.
func (c *Catalogue) Overrides(ctx context.Context, subject string) ([]tiers.Override, error) {
	s, err := c.Subject(ctx, subject)
	list := slices.Collect(maps.Values(s.Overrides))
	slices.SortFunc(list, func(a, b tiers.Override) int { return strings.Compare(a.Limit, b.Limit) })
	return list, err
}

// Override implements tiers.Catalogue.
func (c *Catalogue) Override(ctx context.Context, subject, limit string) (tiers.Override, error) {
	s, err := c.Subject(ctx, subject)
	if err != nil {
		return tiers.Override{}, err
	}
	return overrideOf(&s, limit)
}

func overrideOf(s *tiers.Subject, limit string) (tiers.Override, error) {
	o, ok := s.Overrides[limit]
	if !ok {
		return o, tiers.OverrideError(s.ID, limit, tiers.ErrNotFound)
	}
	return o, nil
}

// CreateOverride implements tiers.Catalogue.
func (c *Catalogue) CreateOverride(ctx context.Context, subject string, o tiers.Override) (tiers.Override, error) {
	return c.putOverride(ctx, subject, o, func(s *tiers.Subject) error {
		if _, err := overrideOf(s, o.Limit); err == nil {
			return tiers.OverrideError(subject, o.Limit, tiers.ErrExists)
		}
		return nil
	})
}

// ReplaceOverride implements tiers.Catalogue.
func (c *Catalogue) ReplaceOverride(ctx context.Context, subject string, o tiers.Override, version int64) (tiers.Override, error) {
	return c.putOverride(ctx, subject, o, func(s *tiers.Subject) error { return overrideAt(s, o.Limit, version) })
}

// DeleteOverride implements tiers.Catalogue.
func (c *Catalogue) DeleteOverride(ctx context.Context, subject, limit string, version int64) error {
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		s, err := selectSubject(ctx, tx, subject)
		if err != nil {
			return err
		}
		if err := overrideAt(&s, limit, version); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `DELETE FROM tierlimit.overrides WHERE subject = $1 AND limit_name = $2`, subject, limit); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindOverride, subject, limit, s.Overrides[limit], nil)
	})
}

func overrideAt(s *tiers.Subject, limit string, version int64) error {
	o, err := overrideOf(s, limit)
	if err == nil && o.Version != version {
		err = tiers.OverrideError(s.ID, limit, tiers.ErrStale)
	}
	return err
}

// putOverride writes o once check has agreed, in one transaction.
func (c *Catalogue) putOverride(ctx context.Context, subject string, o tiers.Override, check func(*tiers.Subject) error) (written tiers.Override, err error) {
	o.Normalize()
	if err := o.Validate(); err != nil {
		return tiers.Override{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		s, err := selectSubject(ctx, tx, subject)
		if err != nil {
			return err
		}
		if err := check(&s); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO tierlimit.overrides (subject, limit_name, max, starts_at, expires_at, reason)
			VALUES ($1, $2, nullif($3::bigint, -1), $4, $5, $6)
			ON CONFLICT (subject, limit_name) DO UPDATE SET max = nullif($3::bigint, -1), starts_at = $4, expires_at = $5, reason = $6`,
			subject, o.Limit, o.Max, o.StartsAt, o.ExpiresAt, o.Reason); err != nil {
			return err
		}
		var before any
		if old, err := overrideOf(&s, o.Limit); err == nil {
			before = old
		}
		if s, err = selectSubject(ctx, tx, subject); err != nil {
			return err
		}
		if written, err = overrideOf(&s, o.Limit); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindOverride, subject, o.Limit, before, written)
	})
	return written, err
}
