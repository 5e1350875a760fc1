package pgtiers

import (
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

// subjectColumns are a subjectRow, of tierlimit.subjects as s or of none.
const subjectColumns = `
	coalesce(s.id, '') AS id, coalesce(s.tier, '') AS tier, s.trial_tier, s.trial_ends_at, s.next_tier, s.next_at,
	s.billing_anchor, coalesce(s.status, '') AS status, s.grace_until, s.blocked_until, coalesce(s.version, 0) AS version,
	(SELECT json_agg(o) FROM tierlimit.overrides o WHERE o.subject = s.id) AS overrides`

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

func subjectsOf(rows pgx.Rows, _ error) ([]tiers.Subject, error) {
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
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	list, err := selectSubjects(ctx, c.pool, f)
	if err != nil {
		return nil, fmt.Errorf("read subjects: %w", unavailable(err))
	}
	return list, nil
}

func selectSubjects(ctx context.Context, q querier, f tiers.SubjectFilter) ([]tiers.Subject, error) {
	return subjectsOf(q.Query(ctx, `SELECT `+subjectColumns+chosenSubjects+` AND s.id > $4 ORDER BY s.id LIMIT $5`,
		f.Tier, string(f.Status), f.Prefix, f.After, f.Most))
}

// CountSubjects implements tiers.SubjectCatalogue.
func (c *Catalogue) CountSubjects(ctx context.Context, f tiers.SubjectFilter) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	n, err := countSubjects(ctx, c.pool, f)
	if err != nil {
		return 0, fmt.Errorf("count subjects: %w", unavailable(err))
	}
	return n, nil
}

func countSubjects(ctx context.Context, q querier, f tiers.SubjectFilter) (int, error) {
	rows, _ := q.Query(ctx, `SELECT count(*)`+chosenSubjects, f.Tier, string(f.Status), f.Prefix)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
}

// Subject implements tiers.Catalogue.
func (c *Catalogue) Subject(ctx context.Context, id string) (tiers.Subject, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	s, err := selectSubject(ctx, c.pool, id)
	return s, unavailable(err)
}

// A querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// selectSubject does not ask for what Postgres could not even hold.
func selectSubject(ctx context.Context, q querier, id string) (tiers.Subject, error) {
	if !tierlimit.ValidSubject(id) {
		return tiers.Subject{}, tiers.SubjectError(id, tiers.ErrNotFound)
	}
	list, err := subjectsOf(q.Query(ctx, `SELECT `+subjectColumns+` FROM tierlimit.subjects s WHERE s.id = $1`, id))
	if err == nil && len(list) == 0 {
		err = tiers.SubjectError(id, tiers.ErrNotFound)
	}
	if err != nil {
		return tiers.Subject{}, err
	}
	return list[0], nil
}

// CreateSubject implements tiers.Catalogue.
func (c *Catalogue) CreateSubject(ctx context.Context, s tiers.Subject) (tiers.Subject, error) {
	return c.putSubject(ctx, s, `
		INSERT INTO tierlimit.subjects (id, tier, trial_tier, trial_ends_at, next_tier, next_at, billing_anchor, status, grace_until, blocked_until)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		func(ctx context.Context, tx pgx.Tx) (any, error) {
			_, err := selectSubject(ctx, tx, s.ID)
			if err == nil {
				return nil, tiers.SubjectError(s.ID, tiers.ErrExists)
			}
			if errors.Is(err, tiers.ErrNotFound) {
				return nil, nil
			}
			return nil, err
		})
}

// ReplaceSubject implements tiers.Catalogue.
func (c *Catalogue) ReplaceSubject(ctx context.Context, s tiers.Subject, version int64) (tiers.Subject, error) {
	return c.putSubject(ctx, s, `
		UPDATE tierlimit.subjects SET tier = $2, trial_tier = $3, trial_ends_at = $4, next_tier = $5, next_at = $6,
			billing_anchor = $7, status = $8, grace_until = $9, blocked_until = $10 WHERE id = $1`,
		func(ctx context.Context, tx pgx.Tx) (any, error) { return subjectAt(ctx, tx, s.ID, version) })
}

// putSubject writes s once check has agreed and said what was there before, in
// one transaction.
func (c *Catalogue) putSubject(ctx context.Context, s tiers.Subject, write string, check func(context.Context, pgx.Tx) (any, error)) (written tiers.Subject, err error) {
	s.Normalize()
	if err := s.Validate(); err != nil {
		return tiers.Subject{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		before, err := check(ctx, tx)
		if err != nil {
			return err
		}
		if err := tiersOf(ctx, tx, &s); err != nil {
			return err
		}
		var trial tiers.Trial
		if s.Trial != nil {
			trial = *s.Trial
		}
		var next tiers.Change
		if s.Next != nil {
			next = *s.Next
		}
		if _, err := tx.Exec(ctx, write, s.ID, s.Tier,
			textOrNull(trial.Tier), timeOrNull(trial.EndsAt), textOrNull(next.Tier), timeOrNull(next.At),
			s.BillingAnchor, string(s.Status), s.GraceUntil, s.BlockedUntil); err != nil {
			return err
		}
		if written, err = selectSubject(ctx, tx, s.ID); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindSubject, s.ID, "", before, written)
	})
	return written, err
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

// tiersOf reports each tier that s names and that is not there.
func tiersOf(ctx context.Context, tx pgx.Tx, s *tiers.Subject) error {
	named := s.Tiers()
	rows, _ := tx.Query(ctx, `SELECT key FROM tierlimit.tiers WHERE key = ANY ($1)`, slices.Collect(maps.Values(named)))
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var errs []error
	for _, field := range slices.Sorted(maps.Keys(named)) {
		if !slices.Contains(known, named[field]) {
			errs = append(errs, tiers.UnknownTierError(field, named[field]))
		}
	}
	return errors.Join(errs...)
}

// DeleteSubject implements tiers.Catalogue.
func (c *Catalogue) DeleteSubject(ctx context.Context, id string, version int64) error {
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		old, err := subjectAt(ctx, tx, id, version)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM tierlimit.subjects WHERE id = $1`, id); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindSubject, id, "", old, nil)
	})
}

func subjectAt(ctx context.Context, tx pgx.Tx, id string, version int64) (tiers.Subject, error) {
	s, err := selectSubject(ctx, tx, id)
	if err == nil && s.Version != version {
		err = tiers.SubjectError(id, tiers.ErrStale)
	}
	return s, err
}
