package tiers

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A StaticResolver resolves to tiers given in code. It is safe for concurrent
// use.
type StaticResolver struct {
	set    *Set
	tierOf func(subject string) string
}

// Static returns a resolver for programs that know their customers' tiers
// themselves: tierOf names a subject's tier, "" for the default one. It is
// called on every decision, from many goroutines. A nil tierOf puts everybody
// on the default tier.
func Static(list []Tier, tierOf func(subject string) string) (*StaticResolver, error) {
	s, err := NewSet(list)
	if err != nil {
		return nil, err
	}
	if tierOf == nil {
		tierOf = func(string) string { return "" }
	}
	return &StaticResolver{set: s, tierOf: tierOf}, nil
}

// Resolve implements tierlimit.Resolver.
func (r *StaticResolver) Resolve(_ context.Context, subject string, _ time.Time) (*tierlimit.Plan, error) {
	return r.set.Plan(r.tierOf(subject), subject), nil
}

// Tiers returns the tiers, the lowest priority first.
func (r *StaticResolver) Tiers() []Tier { return r.set.List() }
