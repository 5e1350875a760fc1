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
	Nonce      uint64        // tells a charge from every other; 0 if nothing was charged that Refund could give back
	at         int64         // when it was charged, see Outcome
	Windows    []WindowState // by limit name; empty when nothing could be counted; shared, not to be changed
}

// A WindowState is where one limit of a decision stands, the charge included.
type WindowState struct {
	Limit        string
	Max          int64 // as the plan says, or Unlimited
	EffectiveMax int64 // as load left it, or Unlimited
	Used         int64
	Remaining    int64         // never negative, or Unlimited
	Reset        time.Duration // until nothing counts any more; 0 when a fixed window has not begun
	Window       Window
	From         string // what set the limit
	Shadow       bool   // it counts and never denies
	Algorithm    Algorithm

	end      int64 // see Count
	previous int64
	turn     time.Duration
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
)

// A Source says where a decision was made.
type Source string

// The sources.
const (
	SourceRedis     Source = "redis"
	SourceMemory    Source = "memory"
	SourceLease     Source = "lease"      // charged in the shared store before, as part of this process' share
	SourceDenyCache Source = "deny_cache" // a denial of a moment ago still stands
	SourcePolicy    Source = "policy"     // nothing was counted
)

// judge fills in the windows of d from what the store counted, and the verdict.
// The counts are those after the charge when charged is true, and as found
// otherwise: then cost is what the charge would have been.
func (d *Decision) judge(t *terms, counts []Count, cost int64, charged bool) {
	d.Windows = make([]WindowState, len(t.limits))
	for i := range t.limits {
		limit, ceiling := &t.limits[i], t.effective[i]
		d.Windows[i] = WindowState{
			Limit:        limit.Name,
			Max:          limit.Max,
			EffectiveMax: ceiling,
			Used:         counts[i].Used,
			Remaining:    remaining(ceiling, counts[i].Used),
			Reset:        counts[i].Reset,
			Window:       limit.Window,
			From:         limit.From,
			Shadow:       limit.Shadow,
			Algorithm:    limit.Algorithm,
			end:          counts[i].End,
			previous:     counts[i].Previous,
			turn:         counts[i].Turn,
		}
	}
	if !charged {
		if w, reason := d.worst(cost); w != nil {
			d.deny(w, reason)
			return
		}
	}
	d.allow()
	if charged {
		cost = 0 // it is in the counts
	}
	for i := range d.Windows {
		if w := &d.Windows[i]; w.Shadow && w.exceeded(cost) != OK {
			d.Reason, d.Limit = Shadowed, w.Limit
			return
		}
	}
}

func (d *Decision) allow() {
	d.Allowed, d.Reason = true, OK
	var binding *WindowState
	for i := range d.Windows {
		w := &d.Windows[i]
		if w.EffectiveMax != Unlimited && !w.Shadow && (binding == nil || w.Remaining < binding.Remaining) {
			binding = w
		}
	}
	if binding != nil {
		d.Limit = binding.Limit
	}
}

func (d *Decision) deny(w *WindowState, reason Reason) {
	d.Allowed, d.Reason, d.Limit = false, reason, w.Limit
	switch {
	case reason == CostTooLarge:
	case w.Reset == 0:
		d.RetryAfter = loadRetry
	default:
		d.RetryAfter = w.frees(d.Cost)
	}
}

// refuse denies what judge found no reason to deny.
func (d *Decision) refuse() {
	if d.Allowed {
		d.Allowed, d.Reason = false, Exceeded
	}
}

// loadRetry is when to come back if load leaves too little room even in a
// window that has not begun: only falling load helps, and that has no time.
const loadRetry = time.Second

// worst returns the window that binds a charge of cost, nil if it fits them
// all: one that no waiting frees before one whose max is reached, that before
// one that only load has filled, and among equals the one that frees last.
func (d *Decision) worst(cost int64) (worst *WindowState, reason Reason) {
	for i := range d.Windows {
		w := &d.Windows[i]
		r := w.refusal(cost)
		if r == OK {
			continue
		}
		if worst == nil || r.severity() > reason.severity() || r == reason && w.frees(cost) > worst.frees(cost) {
			worst, reason = w, r
		}
	}
	return worst, reason
}

// refusal says why a charge of cost does not fit w, OK if it does.
func (w *WindowState) refusal(cost int64) Reason {
	if w.Shadow {
		return OK
	}
	return w.exceeded(cost)
}

func (w *WindowState) exceeded(cost int64) Reason {
	switch {
	case w.EffectiveMax == Unlimited || w.Used+cost <= w.EffectiveMax:
		return OK
	case cost > w.Max:
		return CostTooLarge
	case w.Used+cost > w.Max:
		return Exceeded
	default:
		return LoadScaled
	}
}

// frees returns how long until a charge of cost fits into w, which it does not.
// A fixed window frees all at its end. A sliding one frees the charges of the
// window before bit by bit, and after its turn those of this one. What does not
// even fit then is freed by falling load only, and w is empty after Reset.
func (w *WindowState) frees(cost int64) time.Duration {
	if w.Algorithm != Sliding || w.turn == 0 {
		return w.Reset
	}
	current := w.Used - Weighted(w.previous, w.turn, w.Window.Length)
	if room := w.EffectiveMax - cost - current; room >= 0 {
		return w.turn - within(w.previous, room, w.turn, w.Window.Length)
	}
	return min(w.turn+w.Window.Length-within(current, max(w.EffectiveMax-cost, 0), w.Window.Length, w.Window.Length), w.Reset)
}

// within returns the longest time before its turn, and at most turn, at which no
// more than room counts of a sliding window's previous charges.
func within(previous, room int64, turn, length time.Duration) time.Duration {
	d := time.Duration(float64(length.Milliseconds())*float64(room)/float64(max(previous, 1))) * time.Millisecond
	for d = min(d, turn); Weighted(previous, d, length) > room; {
		d -= time.Millisecond
	}
	return d
}

func (r Reason) severity() int {
	switch r {
	case CostTooLarge:
		return 3
	case Exceeded:
		return 2
	default:
		return 1
	}
}

func remaining(ceiling, used int64) int64 {
	if ceiling == Unlimited {
		return Unlimited
	}
	return max(0, ceiling-used)
}

type contextKey struct{}

// NewContext returns ctx carrying d.
func NewContext(ctx context.Context, d Decision) context.Context {
	return context.WithValue(ctx, contextKey{}, d)
}

// FromContext returns the decision a middleware left in ctx.
func FromContext(ctx context.Context) (Decision, bool) {
	d, ok := ctx.Value(contextKey{}).(Decision)
	return d, ok
}
