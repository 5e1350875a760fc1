package tierlimit

import (
	"context"
	"time"
)

// A Plan is what holds for one subject now: the limits of its tier and what
// happens when they cannot be counted. A Plan is shared and read-only; a
// Resolver hands out the same one until something in it changes, as what follows
// from it is worked out once for each.
type Plan struct {
	Tier         string
	Limits       []Limit // ascending by name, names unique
	OnStoreError Policy
	Fallback     bool // the subject's tier could not be learned in time

	Refusal      Reason    // Suspended or Blocked: every request is denied, and none counted
	RefusedUntil time.Time // when that ends by itself; zero: not

	terms termsCache
}

// A Resolver knows which plan a subject is on. Resolve is called on every
// decision and from many goroutines: it answers from memory whenever it can,
// and never later than ctx's deadline. A subject nobody knows is on the default
// plan. An error wraps ErrNoPlan.
type Resolver interface {
	Resolve(ctx context.Context, subject string) (*Plan, error)
}

// A Holder is a Resolver that can say at once, and without anything to wait for,
// whether it has a subject's plan in memory. A Limiter asks it first.
type Holder interface {
	Held(subject string) (plan *Plan, ok bool)
}

// Load tells how far the adaptive limits of a tier are scaled: 0 < m <= 1. It
// is called on every decision and from many goroutines, and does not block.
type Load interface {
	Multiplier(tier string) float64
}

// A Policy says how a request is answered while the store is unavailable.
type Policy string

// The policies. The zero Policy is Local.
const (
	Open   Policy = "open"   // allow
	Closed Policy = "closed" // deny
	Local  Policy = "local"  // count in this process, each max divided by the replicas alive
)

// Valid reports whether p is one of the policies.
func (p Policy) Valid() bool {
	return p == Open || p == Closed || p == Local
}
