package tierlimit

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxPriority is the highest priority of a tier.
const MaxPriority = 1000

// PlanConfig says what a Plan is made of.
type PlanConfig struct {
	Tier         string
	Priority     int     // of the tier, 0 to MaxPriority: under load a lower one gives way first
	Limits       []Limit // at most MaxLimits, names unique, in any order
	OnStoreError Policy  // default Local
	Denials      Denials // what customers see of a denial; default DenialsFull
	Fallback     bool    // the subject's tier could not be learned in time
	Unknown      bool    // no customer has the subject's name: anybody may have made it up

	Refusal      Reason    // Suspended or Blocked: every request is denied, and none counted
	RefusedUntil time.Time // when the refusal ends; the zero time: it has no end
}

// A Plan holds the limits of one subject and says what happens when usage cannot be
// counted. A Plan never changes and is safe for concurrent use. A Limiter compiles each
// Plan once, so a Resolver should return the same Plan until its contents change.
type Plan struct {
	cfg      PlanConfig
	compiled compiledCache
}

// NewPlan returns the plan of cfg, or a *FieldError that names what is wrong.
func NewPlan(cfg PlanConfig) (*Plan, error) {
	cfg.Limits = slices.Clone(cfg.Limits)
	slices.SortFunc(cfg.Limits, func(a, b Limit) int { return strings.Compare(a.Name, b.Name) })
	if len(cfg.Limits) > MaxLimits {
		return nil, &FieldError{Field: "limits", Value: strconv.Itoa(len(cfg.Limits)), Want: "at most 16 limits"}
	}
	for i, l := range cfg.Limits {
		if err := l.Validate(); err != nil {
			var wrong *FieldError
			if errors.As(err, &wrong) {
				return nil, wrong.In("limits." + l.Name)
			}
			return nil, err
		}
		if i > 0 && l.Name == cfg.Limits[i-1].Name {
			return nil, &FieldError{Field: "limits", Value: l.Name, Want: "unique names"}
		}
	}
	if cfg.Priority < 0 || cfg.Priority > MaxPriority {
		return nil, &FieldError{Field: "priority", Value: strconv.Itoa(cfg.Priority), Want: "a whole number from 0 to 1000"}
	}
	if cfg.OnStoreError == "" {
		cfg.OnStoreError = Local
	}
	if !cfg.OnStoreError.Valid() {
		return nil, &FieldError{Field: "on_store_error", Value: string(cfg.OnStoreError), Want: "open, closed or local"}
	}
	if cfg.Denials == "" {
		cfg.Denials = DenialsFull
	}
	if !cfg.Denials.Valid() {
		return nil, &FieldError{Field: "denials", Value: string(cfg.Denials), Want: "full or plain"}
	}
	if cfg.Refusal != "" && cfg.Refusal != Suspended && cfg.Refusal != Blocked {
		return nil, &FieldError{Field: "refusal", Value: string(cfg.Refusal), Want: "empty, suspended or blocked"}
	}
	return &Plan{cfg: cfg}, nil
}

// Config returns what p is made of: its limits in ascending order of names, in a slice
// of the caller's own.
func (p *Plan) Config() PlanConfig {
	cfg := p.cfg
	cfg.Limits = slices.Clone(cfg.Limits)
	return cfg
}

// Tier returns the name of the tier that p belongs to.
func (p *Plan) Tier() string { return p.cfg.Tier }

// Priority returns the priority of the tier that p belongs to.
func (p *Plan) Priority() int { return p.cfg.Priority }

// Fallback reports whether p is only the default tier's, as the subject's own tier
// could not be learned in time.
func (p *Plan) Fallback() bool { return p.cfg.Fallback }

// noPlan is what a request is answered by whose plan is not known.
var noPlan = &Plan{cfg: PlanConfig{OnStoreError: Closed}}

// A Resolver knows which plan a subject is on. Resolve is called for every decision,
// from many goroutines: it answers from memory whenever it can, and in any case by the
// deadline. ctx is the caller's; it carries no deadline of the decision's. A subject
// nobody knows is on the default plan. An error wraps ErrNoPlan, or says why there is
// no answer: the request is then denied.
type Resolver interface {
	Resolve(ctx context.Context, subject string, deadline time.Time) (*Plan, error)
}

// Load tells how far the adaptive limits of a tier are scaled: 0 < m <= 1. It is called
// for every decision on a plan with adaptive limits, from many goroutines, and does not
// block.
type Load interface {
	Multiplier(tier string) float64
}

// A Policy says how a request is answered while the store is unavailable.
type Policy string

// The policies. The zero Policy is Local.
const (
	Open   Policy = "open"   // allow
	Closed Policy = "closed" // deny
	Local  Policy = "local"  // count in this process, what was left divided by the replicas alive
)

// Valid reports whether p is one of the policies.
func (p Policy) Valid() bool {
	return p == Open || p == Closed || p == Local
}

// Denials says what the customers of a plan see of a denial.
type Denials string

// The zero Denials is DenialsFull.
const (
	DenialsFull  Denials = "full"  // the reason, the usage and the RateLimit headers
	DenialsPlain Denials = "plain" // the status, Retry-After and the name of the limit
)

// Valid reports whether d is one of the constants.
func (d Denials) Valid() bool { return d == DenialsFull || d == DenialsPlain }
