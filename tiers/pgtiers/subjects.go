package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// subjectColumns are a subjectRow, of tierlimit.subjects as s or of none.
const subjectColumns = `
	coalesce(s.id, '') AS id, coalesce(s.tier, '') AS tier, s.trial_tier, s.trial_ends_at, s.next_tier, s.next_at,
	s.billing_anchor, coalesce(s.status, '') AS status, s.grace_until, s.blocked_until, coalesce(s.version, 0) AS version,
	` + overridesColumn

type subjectRow struct {
	ID            string
	Tier          string
	TrialTier     *string
	TrialEndsAt   *time.Time
	NextTier      *string
	NextAt        *time.Time
	BillingAnchor *time.Time
	Status        string
	GraceUntil    *time.Time
	BlockedUntil  *time.Time
	Version       int64
	Overrides     []overrideRow
}

func (r *subjectRow) subject() tiers.Subject {
	s := tiers.Subject{
		ID: r.ID, Tier: r.Tier, BillingAnchor: r.BillingAnchor, Status: tiers.Status(r.Status),
		GraceUntil: r.GraceUntil, BlockedUntil: r.BlockedUntil, Version: r.Version,
	}
	if r.TrialTier != nil {
		s.Trial = &tiers.Trial{Tier: *r.TrialTier, EndsAt: *r.TrialEndsAt}
	}
	if r.NextTier != nil {
		s.Next = &tiers.Change{Tier: *r.NextTier, At: *r.NextAt}
	}
	for i := range r.Overrides {
		if s.Overrides == nil {
			s.Overrides = make(tiers.Overrides)
		}
		s.Overrides[r.Overrides[i].LimitName] = r.Overrides[i].override()
	}
	s.Normalize()
	return s
}

func subjectsOf(rows pgx.Rows) ([]tiers.Subject, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (tiers.Subject, error) {
		r, err := pgx.RowToStructByName[subjectRow](row)
		return r.subject(), err
	})
}

// chosenSubjects are those of a tiers.SubjectFilter, as its arguments $1 to $3.
const chosenSubjects = `
	FROM tierlimit.subjects s
	WHERE ($1 = '' OR s.tier = $1 AND s.next_at > now() IS NOT FALSE OR s.next_tier = $1 OR s.trial_tier = $1 AND s.trial_ends_at > now())
		AND $2 IN ('', s.status) AND starts_with(s.id, $3)`

// Subjects implements tiers.SubjectCatalogue.
func (c *Catalogue) Subjects(ctx context.Context, f tiers.SubjectFilter) ([]tiers.Subject, error) {
	list, err := c.subjects(ctx, c.admin, chosenSubjects+` AND s.id > $4 ORDER BY s.id LIMIT $5`,
		f.Tier, string(f.Status), f.Prefix, f.After, f.Most)
	if err != nil {
		return nil, fmt.Errorf("read subjects: %w", err)
	}
	return list, nil
}

// subjects returns the subjects selected by from, the statement after the columns.
func (c *Catalogue) subjects(ctx context.Context, pool *pgxpool.Pool, from string, args ...any) (list []tiers.Subject, err error) {
	err = c.query(ctx, pool, func(rows pgx.Rows) (err error) {
		list, err = subjectsOf(rows)
		return err
	}, `SELECT `+subjectColumns+from, args...)
	return list, err
}

// CountSubjects implements tiers.SubjectCatalogue.
func (c *Catalogue) CountSubjects(ctx context.Context, f tiers.SubjectFilter) (int, error) {
	n := 0
	err := c.query(ctx, c.admin, func(rows pgx.Rows) (err error) {
		n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
		return err
	}, `SELECT count(*)`+chosenSubjects, f.Tier, string(f.Status), f.Prefix)
	if err != nil {
		return 0, fmt.Errorf("count subjects: %w", err)
	}
	return n, nil
}

// Subject implements tiers.Catalogue. Invalid ids, which Postgres cannot encode, are not found.
func (c *Catalogue) Subject(ctx context.Context, id string) (tiers.Subject, error) {
	if !tierlimit.ValidSubject(id) {
		return tiers.Subject{}, tiers.SubjectError(id, tiers.ErrNotFound)
	}
	list, err := c.subjects(ctx, c.admin, ` FROM tierlimit.subjects s WHERE s.id = $1`, id)
	if err == nil && len(list) == 0 {
		err = tiers.SubjectError(id, tiers.ErrNotFound)
	}
	if err != nil {
		return tiers.Subject{}, err
	}
	return list[0], nil
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
