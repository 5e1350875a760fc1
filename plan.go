package tierlimit

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// PlanConfig says what a Plan is made of.
type PlanConfig struct {
	Tier         string
	Limits       []Limit // at most MaxLimits, names unique, in any order
	OnStoreError Policy  // default Local
	Fallback     bool    // the subject's tier could not be learned in time
	Unknown      bool    // no customer has the subject's name: anybody may have made it up

	Refusal      Reason    // Suspended or Blocked: every request is denied, and none counted
	RefusedUntil time.Time // when that ends by itself; zero: not
}

// A Plan is what holds for one subject now: the limits of its tier and what happens
// when they cannot be counted. A Plan never changes and is safe for concurrent use. A
// Resolver hands out the same Plan until something in it changes, as what follows from
// it is worked out once for each.
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
	if cfg.OnStoreError == "" {
		cfg.OnStoreError = Local
	}
	if !cfg.OnStoreError.Valid() {
		return nil, &FieldError{Field: "on_store_error", Value: string(cfg.OnStoreError), Want: "open, closed or local"}
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

// compiled is what a plan holds a request in one scope to, under one multiplier: worked
// out once, shared by all decisions, and never changed.
type compiled struct {
	scope      string
	multiplier float64
	limits     []Limit
	effective  []int64   // one for each limit: its max under load
	ceilings   *Ceilings // what a store holds a request to; nil if there are no limits
	adaptive   bool      // whether load changes any limit
	policy     string    // the RateLimit-Policy field's value
}

// compiledCache holds what was compiled of one plan. Its entries are few: the scopes
// that the limits name, times the multipliers, which move in steps.
type compiledCache struct{ list atomic.Pointer[[]*compiled] }

// maxCompiled bounds the cache against a Load that never says the same twice.
const maxCompiled = 256

// compile returns what p holds a request in scope to. A scope that no limit names is
// as none.
func (p *Plan) compile(scope string, multiplier float64) *compiled {
	if c := p.compiled.find(scope, multiplier); c != nil {
		return c
	}
	if scope != "" && !slices.ContainsFunc(p.cfg.Limits, func(l Limit) bool { return l.Scope == scope }) {
		return p.compile("", multiplier)
	}
	c := newCompiled(inScope(p.cfg.Limits, scope), scope, multiplier)
	p.compiled.add(c)
	return c
}

func (cache *compiledCache) find(scope string, multiplier float64) *compiled {
	list := cache.list.Load()
	if list == nil {
		return nil
	}
	for _, c := range *list {
		if c.multiplier == multiplier && c.scope == scope {
			return c
		}
	}
	return nil
}

func (cache *compiledCache) add(c *compiled) {
	for {
		old := cache.list.Load()
		list := []*compiled{c}
		if old != nil && len(*old) < maxCompiled {
			list = append(list, *old...)
		}
		if cache.list.CompareAndSwap(old, &list) {
			return
		}
	}
}

// all returns every limit of p, whatever its scope.
func (p *Plan) all(multiplier float64) *compiled { return newCompiled(p.cfg.Limits, "", multiplier) }

func newCompiled(limits []Limit, scope string, multiplier float64) *compiled {
	c := &compiled{scope: scope, multiplier: multiplier, limits: limits, effective: make([]int64, len(limits))}
	list := make([]Ceiling, len(limits))
	var policy []byte
	for i := range limits {
		l := &limits[i]
		c.adaptive = c.adaptive || l.Adaptive
		c.effective[i] = l.scaled(multiplier)
		list[i] = Ceiling{Name: l.Name, Max: c.effective[i], Window: l.Window, Sliding: l.Algorithm == Sliding}
		if l.Shadow {
			list[i].Max = Unlimited // counted, and never denies
		}
		if l.Shadow || c.effective[i] == Unlimited {
			continue
		}
		policy = appendPolicy(policy, l.Name, c.effective[i], l.Window)
	}
	c.policy = string(policy)
	if len(list) > 0 {
		c.ceilings = newCeilings(list)
	}
	return c
}

// inScope returns the limits a request in scope is charged against: those that guard
// everything and those of its own scope.
func inScope(limits []Limit, scope string) []Limit {
	chosen := make([]Limit, 0, len(limits))
	for i := range limits {
		if limits[i].Scope == "" || limits[i].Scope == scope {
			chosen = append(chosen, limits[i])
		}
	}
	return chosen
}

// appendPolicy appends an item of the RateLimit-Policy field of
// draft-ietf-httpapi-ratelimit-headers-11. A month has no length, and no w. Names need
// no escapes in a structured field's string, see ValidName.
func appendPolicy(b []byte, name string, most int64, w Window) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(append(b, '"'), name...), `";q=`...)
	b = strconv.AppendInt(b, most, 10)
	if seconds := w.seconds(); seconds > 0 {
		b = strconv.AppendInt(append(b, ";w="...), seconds, 10)
	}
	return b
}

// seconds returns the window's length in whole seconds, rounded up; 0 for a month.
func (w Window) seconds() int64 {
	const day = 24 * 60 * 60
	switch w.Period {
	case Day:
		return day
	case Week:
		return 7 * day
	case Month:
		return 0
	}
	return int64((w.Length + time.Second - 1) / time.Second)
}
