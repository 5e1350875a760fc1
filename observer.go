package tierlimit

import "time"

// An Observer is told of every decision, for metrics: see package observe. It is called from many
// goroutines and must not block.
type Observer interface {
	// Series returns what observes the decisions of a tier in a scope. limits are the names of the
	// limits that apply, in ascending order. A Limiter asks once for each plan and scope, and
	// keeps the Series.
	Series(tier, scope string, limits []string) Series
}

// A Series observes the decisions of one tier in one scope. It is called from many goroutines and
// must not block.
type Series interface {
	// Count counts a decision, exactly once. It reports whether Observe should be told of a
	// decision that is as good as any other: allowed, for the reason OK, and answered by the store.
	Count(allowed, peek bool, reason Reason, source Source) (wanted bool)
	// Observe is told of all decisions that are not as good as any other, and of those that Count
	// wanted. It follows Count.
	Observe(o Observation)
}

// An Observation is a decision as an Observer sees it.
type Observation struct {
	Began   time.Time // when the decision was asked for
	Subject string
	Scope   string // as the request named it
	Allowed bool
	Peek    bool // nothing was to be charged
	Reason  Reason
	Source  Source
	Limit   string // the binding limit
	Cost    int64
	Windows []WindowState // shared, not to be changed
	// Err is why usage was not counted in the store, or the tier is not known for sure; nil if
	// both are.
	Err    error
	Policy Policy // that answered in the place of the store; "" if the store did
}

// observe tells the observer of a decision.
func (l *Limiter) observe(e *evaluation, d *Decision, began time.Time, err error) {
	s := l.seriesOf(e)
	if !s.Count(d.Allowed, e.charge == 0, d.Reason, d.Source) && d.Allowed && d.Reason == OK && !d.Degraded {
		return
	}
	o := Observation{
		Began: began, Subject: d.Subject, Scope: d.Scope, Allowed: d.Allowed, Peek: e.charge == 0,
		Reason: d.Reason, Source: d.Source, Limit: d.Limit, Cost: d.Cost, Windows: d.Windows, Err: err, Policy: e.policy,
	}
	if err == nil && d.Degraded {
		o.Err = ErrTierUnknown
	}
	s.Observe(o)
}

// seriesOf returns the series of e's plan and scope.
func (l *Limiter) seriesOf(e *evaluation) Series {
	if s := e.compiled.observed.Load(); s != nil && s.observer == l.observer {
		return s.series
	}
	names := make([]string, len(e.compiled.limits))
	for i := range names {
		names[i] = e.compiled.limits[i].Name
	}
	s := &observed{l.observer, l.observer.Series(e.plan.cfg.Tier, e.compiled.scope, names)}
	e.compiled.observed.Store(s)
	return s.series
}

// observed is a series and the observer that made it.
type observed struct {
	observer Observer
	series   Series
}
