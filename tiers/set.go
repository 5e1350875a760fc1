package tiers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/tierlimit/tierlimit"
)

// A Set holds all tiers at one moment and their compiled plans. It never changes: a change
// of tiers makes a new Set.
type Set struct {
	tiers   []Tier // by priority, then key
	byKey   map[string]*plans
	unknown *plans // of the default tier

	fallback *standing // of subjects whose tier is not loaded yet
}

// plans are a tier's plan as seen by a subject on it, by one nobody knows, and
// by one that could not be looked up in time.
type plans struct {
	tier, unknown, fallback *tierlimit.Plan

	standing *standing       // of subjects that have a tier and no other fields
	anchored map[string]bool // limits whose periods begin with their subject's billing
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
		p := &plans{anchored: make(map[string]bool)}
		for from, plan := range map[string]**tierlimit.Plan{
			tierlimit.FromTier: &p.tier, tierlimit.FromDefault: &p.unknown, tierlimit.FromFallback: &p.fallback,
		} {
			var err error
			if *plan, err = newPlan(&t, from); err != nil {
				return nil, fmt.Errorf("tier %q: %w", t.Key, err)
			}
		}
		for name, limit := range t.Limits {
			p.anchored[name] = limit.Anchored
		}
		p.standing = &standing{set: s, plan: p.tier}
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
	s.fallback = &standing{set: s, plan: s.unknown.fallback}
	slices.SortFunc(s.tiers, func(a, b Tier) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Key, b.Key))
	})
	return s, nil
}

func newPlan(t *Tier, from string) (*tierlimit.Plan, error) {
	cfg := tierlimit.PlanConfig{
		Tier: t.Key, OnStoreError: t.OnStoreError, Denials: t.Denials,
		Fallback: from == tierlimit.FromFallback, Unknown: from != tierlimit.FromTier,
	}
	for name, limit := range t.Limits {
		named := limit.named(name, from)
		named.Alerts = t.alertsOf(&limit)
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

// Plan returns the plan of the tier key, or with "" the plan of subjects that nobody knows.
// For a tier that is not in the set (yet) it returns Fallback.
func (s *Set) Plan(key string) *tierlimit.Plan {
	if key == "" {
		return s.unknown.unknown
	}
	if p := s.byKey[key]; p != nil {
		return p.tier
	}
	return s.unknown.fallback
}

// Fallback returns the plan of subjects that could not be looked up in time: the plan of the
// default tier, marked as a fallback.
func (s *Set) Fallback() *tierlimit.Plan { return s.unknown.fallback }
