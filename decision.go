package tierlimit

import (
	"context"
	"time"
)

// A Decision is the answer to a Request. Denial is a value, never an error.
type Decision struct {
	Allowed    bool
	Reason     Reason
	Subject    string
	Tier       string
	Scope      string
	Limit      string        // the binding limit: the one that denied, or the one closest to denying
	RetryAfter time.Duration // until a retry can succeed; 0 when allowed, or when waiting cannot help
	Multiplier float64       // how far load scaled the adaptive limits: 0 < m <= 1
	Degraded   bool          // not charged in the shared store, or not on a tier known for sure
	Source     Source
	Cost       int64         // what was charged, or would have been
	Denials    Denials       // what the customer may see of a denial; not part of the JSON
	ID         string        // for Settle and Renew; "" if the request has no hold
	Windows    []WindowState // by limit name; empty when nothing could be counted; shared, not to be changed

	policy string // the RateLimit-Policy field's value; "" if it has to be worked out
}

// A WindowState is where one limit of a decision stands, the charge included.
type WindowState struct {
	Limit        string
	Max          int64 // as the plan says, or Unlimited
	EffectiveMax int64 // as load left it, or what this process may grant alone; or Unlimited
	Used         int64
	Remaining    int64         // never negative, or Unlimited
	Held         int64         // the part of Used charged by open holds; 0 if holds do not concern the request
	Reset        time.Duration // until nothing counts any more; 0 when a fixed window has not begun; of a concurrent limit until the first open hold expires
	Window       Window        // the zero Window of a concurrent limit
	From         string        // the source of the limit: FromTier and so on
	Shadow       bool          // the limit counts but never denies
	Algorithm    Algorithm
}

// A Reason says why a decision came out as it did.
type Reason string

// The reasons.
const (
	OK           Reason = "ok"
	Exceeded     Reason = "exceeded"       // a limit's max would be passed
	LoadScaled   Reason = "load"           // only a max scaled down by load would be passed
	CostTooLarge Reason = "cost_too_large" // the charge is above a limit's max: waiting cannot help
	StoreDown    Reason = "store_down"     // the failure policy answered
	Suspended    Reason = "suspended"      // the subject is
	Blocked      Reason = "blocked"        // the subject is, for a while
	Shadowed     Reason = "shadow"         // allowed; a limit in shadow mode would have denied
	TooManyHolds Reason = "too_many_holds" // the subject has the maximum number of open holds
)

// A Source says where a decision was made.
type Source string

// The sources.
const (
	SourceRedis     Source = "redis"
	SourceMemory    Source = "memory"
	SourceDenyCache Source = "deny_cache" // a denial of a moment ago still stands
	SourcePolicy    Source = "policy"     // nothing was counted
)

// A judgement is how a charge stands to each of its limits.
type judgement struct {
	*compiled
	counts      []Count
	maxes       []int64 // the effective max of each limit
	cost        int64
	costs       []int64 // one for each limit, as Charge has them; nil: cost for all
	places      int64   // cost under a concurrent limit: 1 if the request has a hold
	charged     bool    // the counts are those after the charge
	firstExpiry int64   // milliseconds until the first open hold expires; 0 if unknown
	replicas    int     // that count apart, this process among them; 0 if the store counted
}

// judge fills in d from what the store counted: the counts after the charge if charged
// is true, else as found.
func (d *Decision) judge(j *judgement, charged bool) {
	d.Windows = make([]WindowState, len(j.limits))
	for i := range j.limits {
		limit, count := &j.limits[i], &j.counts[i]
		d.Windows[i] = WindowState{
			Limit: limit.Name, Max: limit.Max, EffectiveMax: j.maxes[i],
			Used: count.Used, Remaining: remaining(j.maxes[i], count.Used), Held: count.Held,
			Reset:  time.Duration(count.Reset) * time.Millisecond,
			Window: limit.Window, From: limit.From, Shadow: limit.Shadow, Algorithm: limit.Algorithm,
		}
	}
	asked := *j
	if j.charged = charged; charged {
		j.cost, j.costs, j.places = 0, nil, 0 // the counts include the charge
	} else if i, reason := j.worst(); reason != OK {
		d.Allowed, d.Reason, d.Limit = false, reason, j.limits[i].Name
		d.RetryAfter = time.Duration(j.wait(i, reason)) * time.Millisecond
		return
	}
	d.Allowed, d.Reason = true, OK
	if w := d.Binding(); w != nil {
		d.Limit = w.Limit
	}
	for i := range j.limits {
		if j.limits[i].Shadow && asked.costOf(i) > 0 && j.exceeded(i) != OK {
			d.Reason, d.Limit = Shadowed, j.limits[i].Name
			return
		}
	}
}

// Binding returns the window that d's customer is held by: the one that denied, or of
// those that can deny the one with the least left. nil if none can deny.
func (d *Decision) Binding() *WindowState {
	var binding *WindowState
	for i := range d.Windows {
		w := &d.Windows[i]
		if w.EffectiveMax == Unlimited || w.Shadow {
			continue
		}
		if !d.Allowed && w.Limit == d.Limit {
			return w
		}
		if binding == nil || w.Remaining < binding.Remaining {
			binding = w
		}
	}
	return binding
}

// RateLimitPolicy returns the value of the RateLimit-Policy field of
// draft-ietf-httpapi-ratelimit-headers-11: the maxes in force and their windows, ""
// if no limit can deny.
func (d *Decision) RateLimitPolicy() string {
	if d.policy != "" {
		return d.policy
	}
	var policy []byte
	for i := range d.Windows {
		if w := &d.Windows[i]; w.EffectiveMax != Unlimited && !w.Shadow {
			policy = appendPolicy(policy, w.Limit, w.EffectiveMax, w.Window)
		}
	}
	return string(policy)
}

// worst returns the limit that binds the charge: one that no waiting frees before one
// whose max is reached, that before one that only load has filled, and among equals the
// one that frees last. The reason is OK if the charge fits them all.
func (j *judgement) worst() (worst int, reason Reason) {
	reason = OK
	for i := range j.limits {
		r := j.exceeded(i)
		if r == OK || j.limits[i].Shadow {
			continue
		}
		if reason == OK || r.severity() > reason.severity() || r == reason && j.wait(i, r) > j.wait(worst, r) {
			worst, reason = i, r
		}
	}
	return worst, reason
}

// costOf returns the cost of the charge under limit i.
func (j *judgement) costOf(i int) int64 {
	switch {
	case j.limits[i].Algorithm == Concurrent:
		return j.places
	case j.costs != nil && j.costs[i] != takesCost:
		return j.costs[i]
	}
	return j.cost
}

// exceeded says why the charge does not fit limit i, OK if it does.
func (j *judgement) exceeded(i int) Reason {
	limit, most, used, cost := &j.limits[i], j.maxes[i], j.counts[i].Used, j.costOf(i)
	if limit.Shadow {
		most = j.effective[i]
	}
	switch {
	case most == Unlimited || used+cost <= most || cost == 0 && !j.charged:
		return OK
	case cost > limit.Max:
		return CostTooLarge
	case j.replicas > 1 && cost > max(1, j.effective[i]/int64(j.replicas)):
		return StoreDown // more than this process ever grants alone: only the store can tell
	case used+cost > limit.Max || j.replicas > 0:
		return Exceeded
	}
	return LoadScaled
}

// wait returns how many milliseconds pass until the charge may fit limit i, which it
// does not; 0 if waiting cannot help.
func (j *judgement) wait(i int, reason Reason) int64 {
	switch {
	case reason == CostTooLarge:
		return 0
	case reason == StoreDown:
		return policyRetry.Milliseconds()
	case j.limits[i].Algorithm == Concurrent:
		return waitForPlace(j.counts[i].Reset).Milliseconds()
	case j.counts[i].Reset == 0:
		return loadRetry.Milliseconds()
	}
	wait := j.ceilings.Spec(i).Wait(j.counts[i].State, j.maxes[i], j.costOf(i))
	if j.limits[i].OnExpiry == ReleaseOnExpiry && j.counts[i].Held > 0 && j.firstExpiry > 0 {
		return min(wait, j.firstExpiry) // an expiring hold may give usage back then
	}
	return wait
}

// waitForPlace returns how long to wait for a place of a concurrent limit: until the first
// hold expires, but at most a second, because most holds are settled earlier.
func waitForPlace(firstExpiry int64) time.Duration {
	wait := time.Duration(firstExpiry) * time.Millisecond
	return min(max(wait, time.Millisecond), time.Second)
}

// loadRetry is when to come back if load leaves too little room even in a window that
// has not begun: only falling load helps, and that has no time.
const loadRetry = time.Second

func (r Reason) severity() int {
	switch r {
	case CostTooLarge:
		return 4
	case StoreDown:
		return 3
	case Exceeded:
		return 2
	default:
		return 1
	}
}

func remaining(most, used int64) int64 {
	if most == Unlimited {
		return Unlimited
	}
	return max(0, most-used)
}

// A decisionContext carries a decision: one allocation, where context.WithValue takes two.
type decisionContext struct {
	context.Context //nolint:containedctx // it is one
	decision        Decision
}

type contextKey struct{}

func (c *decisionContext) Value(key any) any {
	if key == (contextKey{}) {
		return &c.decision
	}
	return c.Context.Value(key)
}

// NewContext returns ctx carrying d.
func NewContext(ctx context.Context, d Decision) context.Context {
	return &decisionContext{ctx, d}
}

// FromContext returns the decision a middleware left in ctx.
func FromContext(ctx context.Context) (Decision, bool) {
	if d, ok := ctx.Value(contextKey{}).(*Decision); ok {
		return *d, true
	}
	return Decision{}, false
}
