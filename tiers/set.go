package tiers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Set holds all tiers at one moment and their compiled plans. It never changes: a change
// of tiers makes a new Set.
type Set struct {
	tiers   []Tier // by priority, then key
	byKey   map[string]*plans
	unknown *plans // of the default tier

	fallback []*standing // of subjects whose tier is not loaded yet
}

// plans are a tier's plan as seen by a subject on it, by one nobody knows, and
// by one that could not be looked up in time.
type plans struct {
	tier, unknown, fallback variants

	standings []*standing     // of subjects that have a tier and no other fields, as tier
	billed    map[string]bool // limits whose periods begin with their subject's billing
}

// variants are a plan: one for all subjects, or if any limit is spread one for each group.
type variants []*tierlimit.Plan

// of returns the plan of a subject.
func (v variants) of(subject string) *tierlimit.Plan { return v[groupOf(subject, len(v))] }

// spreadGroups is how many instants the periods of a spread limit begin at. Each costs a few
// plans for each tier, however many subjects there are.
const spreadGroups = 64

// groupOf returns the group of a subject, the same in all processes: by FNV-1a
// (https://www.rfc-editor.org/rfc/rfc9923), folded, as its low bits alone differ little.
func groupOf(subject string, groups int) int {
	if groups == 1 {
		return 0
	}
	hash := uint32(2166136261)
	for i := range len(subject) {
		hash = (hash ^ uint32(subject[i])) * 16777619
	}
	return int((hash ^ hash>>16) % uint32(groups)) //nolint:gosec // few groups
}

// spread returns an instant at which the periods of a group begin, in milliseconds since the
// epoch. Months are spread over 28 days, which each month has.
func spread(period tierlimit.Period, group int) int64 {
	const day = int64(24 * time.Hour / time.Millisecond)
	length := map[tierlimit.Period]int64{tierlimit.Day: day, tierlimit.Week: 7 * day, tierlimit.Month: 28 * day}[period]
	return length * int64(group) / spreadGroups
}

// NewSet refuses anything that would leave a subject without a plan, so that
// live tiers are never replaced by an empty or invalid set.
func NewSet(list []Tier) (*Set, error) {
	s := &Set{byKey: make(map[string]*plans, len(list))}
	for _, t := range list {
		t.Normalize()
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("tier %q: %w", t.Key, err)
		}
		if s.byKey[t.Key] != nil {
			return nil, fmt.Errorf("tier %q stands twice", t.Key)
		}
		p := &plans{billed: make(map[string]bool)}
		for from, plan := range map[string]*variants{
			tierlimit.FromTier: &p.tier, tierlimit.FromDefault: &p.unknown, tierlimit.FromFallback: &p.fallback,
		} {
			var err error
			if *plan, err = newVariants(&t, from); err != nil {
				return nil, fmt.Errorf("tier %q: %w", t.Key, err)
			}
		}
		for name, limit := range t.Limits {
			p.billed[name] = limit.Anchor == AnchorBilling
		}
		for _, plan := range p.tier {
			p.standings = append(p.standings, &standing{set: s, plan: plan})
		}
		s.byKey[t.Key] = p
		s.tiers = append(s.tiers, t)
		if t.Default && s.unknown != nil {
			return nil, errors.New("more than one tier is the default")
		}
		if t.Default {
			s.unknown = p
		}
	}
	if s.unknown == nil {
		return nil, errors.New("no tier is the default")
	}
	for _, plan := range s.unknown.fallback {
		s.fallback = append(s.fallback, &standing{set: s, plan: plan})
	}
	slices.SortFunc(s.tiers, func(a, b Tier) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Key, b.Key))
	})
	return s, nil
}

// newVariants returns the plan of a tier for each group of subjects.
func newVariants(t *Tier, from string) (variants, error) {
	groups := 1
	for _, limit := range t.Limits {
		if limit.Anchor == AnchorSpread {
			groups = spreadGroups
		}
	}
	v := make(variants, groups)
	for group := range v {
		var err error
		if v[group], err = newPlan(t, from, group); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func newPlan(t *Tier, from string, group int) (*tierlimit.Plan, error) {
	cfg := tierlimit.PlanConfig{
		Tier: t.Key, Priority: t.Priority, OnStoreError: t.OnStoreError, Denials: t.Denials,
		Fallback: from == tierlimit.FromFallback, Unknown: from != tierlimit.FromTier,
	}
	for name, limit := range t.Limits {
		named := limit.named(name, from)
		named.Alerts = t.alertsOf(&limit)
		if limit.Anchor == AnchorSpread {
			named.Window.Anchor = spread(limit.Window.Period, group)
		}
		cfg.Limits = append(cfg.Limits, named)
	}
	return tierlimit.NewPlan(cfg)
}

// List returns the tiers, the lowest priority first: tiers that the caller may change.
func (s *Set) List() []Tier {
	list := make([]Tier, len(s.tiers))
	for i, t := range s.tiers {
		list[i] = t.Clone()
	}
	return list
}

// Tier returns a tier that the caller may change.
func (s *Set) Tier(key string) (Tier, bool) {
	for _, t := range s.tiers {
		if t.Key == key {
			return t.Clone(), true
		}
	}
	return Tier{}, false
}

// Has reports whether a tier exists.
func (s *Set) Has(key string) bool { return s.byKey[key] != nil }

// Plan returns the plan of a subject on the tier key, or with "" that of a subject that nobody
// knows. For a tier that is not in the set (yet) it returns Fallback.
func (s *Set) Plan(key, subject string) *tierlimit.Plan {
	if key == "" {
		return s.unknown.unknown.of(subject)
	}
	if p := s.byKey[key]; p != nil {
		return p.tier.of(subject)
	}
	return s.Fallback(subject)
}

// Fallback returns the plan of a subject that could not be looked up in time: the plan of the
// default tier, marked as a fallback.
func (s *Set) Fallback(subject string) *tierlimit.Plan { return s.unknown.fallback.of(subject) }
