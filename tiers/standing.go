package tiers

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unique"

	"github.com/tierlimit/tierlimit"
)

// A Resident is a subject in memory and its standing, which is computed on demand, and again
// after the tiers have changed or its validity has ended. A Resident is safe for concurrent
// use; the subject never changes. It is small, because there may be a million.
type Resident struct {
	id   string
	tier string // one string shared by all subjects on the tier
	at   atomic.Pointer[standing]
	seen int64    // the subject's version
	more *Subject // the whole subject; nil if it is active and has no fields but id and tier
}

// NewResident returns a Resident for s and keeps what s points to.
func NewResident(s Subject) *Resident {
	r := &Resident{id: s.ID, tier: unique.Make(s.Tier).Value(), seen: s.Version}
	if s.Trial != nil || s.Next != nil || s.BillingAnchor != nil || s.GraceUntil != nil || s.BlockedUntil != nil ||
		s.Status != Active && s.Status != "" || len(s.Overrides) > 0 {
		r.more = &s
	}
	return r
}

// Subject returns the subject of r. The caller must not modify what it points to.
func (r *Resident) Subject() Subject {
	if r.more != nil {
		return *r.more
	}
	return Subject{ID: r.id, Tier: r.tier, Status: Active, Version: r.seen}
}

// ID returns the subject's id.
func (r *Resident) ID() string { return r.id }

// Version returns the subject's version.
func (r *Resident) Version() int64 { return r.seen }

// A standing is a plan, and for how long it holds.
type standing struct {
	set   *Set
	plan  *tierlimit.Plan
	err   error     // why there is no plan: a row that no release would write
	until time.Time // zero: until something is changed
}

// Plan returns the plan that the subject has now by the tiers of current.
func (r *Resident) Plan(current *Set) (*tierlimit.Plan, error) {
	at := r.at.Load()
	if at == nil || at.set != current || !at.until.IsZero() && !time.Now().Before(at.until) {
		if r.more == nil {
			at = current.standingOn(r.tier, r.id)
		} else {
			at = current.stand(r.more, time.Now())
		}
		r.at.Store(at)
	}
	return at.plan, at.err
}

// standingOn returns the standing of a subject that has tier and no other fields. Many subjects
// share it.
func (s *Set) standingOn(tier, subject string) *standing {
	list := s.fallback
	if p := s.byKey[tier]; p != nil {
		list = p.standings
	}
	return list[groupOf(subject, len(list))]
}

// stand works out what holds for a subject at now. The order is that of the
// contract: suspended or blocked, then overrides, then a trial, then its tier.
func (s *Set) stand(subject *Subject, now time.Time) *standing {
	at := &standing{set: s}
	key, from := subject.Tier, tierlimit.FromTier
	if subject.Next != nil && at.passed(subject.Next.At, now) {
		key = subject.Next.Tier
	}
	if subject.Trial != nil && !at.passed(subject.Trial.EndsAt, now) {
		key, from = subject.Trial.Tier, tierlimit.FromTrial
	}
	refusal, until := subject.refusal(at, now)
	at.plan = s.Plan(key, subject.ID)
	var limits []tierlimit.Limit
	if !at.plan.Fallback() { // else it is on a tier that is not known yet: it comes, and changes the set
		limits = s.limitsOf(subject, key, from, at, now)
	}
	if limits == nil && refusal == "" {
		return at
	}
	cfg := at.plan.Config()
	if limits != nil {
		cfg.Limits = limits
	}
	cfg.Refusal, cfg.RefusedUntil, cfg.Unknown = refusal, until, false
	at.plan, at.err = tierlimit.NewPlan(cfg)
	return at
}

// PlanOf returns the plan that list would give a subject at now, nil for one that
// nobody knows. It is for those who ask what a change would do.
func PlanOf(list []Tier, subject *Subject, now time.Time) (*tierlimit.Plan, error) {
	valid := slices.DeleteFunc(slices.Clone(list), func(t Tier) bool { return t.Validate() != nil }) // as whoever follows the catalogue leaves it out
	s, err := NewSet(valid)
	if err != nil {
		return nil, fmt.Errorf("no plan can be made of the tiers: %v", err) //nolint:errorlint // whoever asks has done nothing wrong
	}
	if subject == nil {
		return s.Plan("", ""), nil
	}
	at := s.stand(subject, now)
	return at.plan, at.err
}

// passed reports whether an instant has come. If not, the standing holds no
// longer than until it does.
func (at *standing) passed(t, now time.Time) bool {
	if !t.After(now) {
		return true
	}
	if at.until.IsZero() || t.Before(at.until) {
		at.until = t
	}
	return false
}

// limitsOf returns the subject's own limits, nil if they are those of its tier.
func (s *Set) limitsOf(subject *Subject, key, from string, at *standing, now time.Time) []tierlimit.Limit {
	tier := s.byKey[key]
	own := at.plan.Config().Limits
	changed := from != tierlimit.FromTier
	for i := range own {
		limit := &own[i]
		limit.From = from
		if subject.BillingAnchor != nil && tier.billed[limit.Name] {
			limit.Window.Anchor = subject.BillingAnchor.UnixMilli()
			changed = true
		}
		if o, ok := subject.Overrides[limit.Name]; ok {
			started := at.passed(o.StartsAt, now)
			if ended := at.passed(o.ExpiresAt, now); started && !ended {
				limit.Max, limit.From = o.Max, tierlimit.FromOverride
				changed = true
			}
		}
	}
	if !changed {
		return nil
	}
	return own
}

// refusal says why the subject is denied, and until when.
func (s *Subject) refusal(at *standing, now time.Time) (tierlimit.Reason, time.Time) {
	switch {
	case s.Status == Suspended,
		s.Status == PastDue && (s.GraceUntil == nil || at.passed(*s.GraceUntil, now)):
		return tierlimit.Suspended, time.Time{}
	case s.BlockedUntil != nil && !at.passed(*s.BlockedUntil, now):
		return tierlimit.Blocked, *s.BlockedUntil
	}
	return "", time.Time{}
}
