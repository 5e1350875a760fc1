package tierlimit

import (
	"context"
	"fmt"
	"time"
)

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
	// Count counts a decision, exactly once, and returns the Weight of its Observation; 0 if the
	// decision need not be observed.
	Count(allowed, peek bool, reason Reason, source Source) (weight int64)
	// Observe is told of the decisions that Count chose, and of all that the store did not answer
	// or whose tier is not known for sure, after Count.
	Observe(o Observation)
}

// An Observation is a decision as an Observer sees it.
type Observation struct {
	Began   time.Time // when the decision was asked for
	Subject string
	Scope   string // as the request named it
	Allowed bool
	Peek    bool // nothing was to be charged
	Unknown bool // no customer has the subject's name
	// Weight is how many decisions the Observation stands for: more than 1 if Count chose it of as
	// many.
	Weight  int64
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

// A HoldObserver is an Observer that is told of holds too. It is called from many goroutines and
// must not block.
type HoldObserver interface {
	Observer
	Hold(event HoldEvent)
}

// A HoldEvent is what happened to a hold.
type HoldEvent string

// The events. That a hold expires is seen by the store alone.
const (
	HoldOpened    HoldEvent = "opened"     // with a decision
	HoldSettled   HoldEvent = "settled"    // at what the request really cost
	HoldGivenBack HoldEvent = "given_back" // settled at a cost of 0
	HoldRenewed   HoldEvent = "renewed"
	HoldMissing   HoldEvent = "missing" // a hold to settle or renew was not open
)

// toldOfHold tells the observer what happened to a hold.
func (l *Limiter) toldOfHold(event HoldEvent, found bool) {
	if l.holds == nil {
		return
	}
	if !found {
		event = HoldMissing
	}
	l.holds.Hold(event)
}

// observe tells the observer of a decision.
func (l *Limiter) observe(e *evaluation, d *Decision, began time.Time, err error) {
	s := l.seriesOf(e)
	weight := s.Count(d.Allowed, e.charge == 0, d.Reason, d.Source)
	switch {
	case d.Degraded:
		weight = 1 // all of them are observed
	case weight == 0:
		return
	}
	o := Observation{
		Began: began, Weight: weight, Unknown: e.plan.cfg.Unknown, Subject: d.Subject, Scope: d.Scope, Allowed: d.Allowed, Peek: e.charge == 0,
		Reason: d.Reason, Source: d.Source, Limit: d.Limit, Cost: d.Cost, Windows: d.Windows, Err: err, Policy: e.policy,
	}
	switch {
	case e.gaveUp:
		o.Err = fmt.Errorf("%w: %w", ErrCallerGaveUp, err)
	case err == nil && d.Degraded:
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

// A TraceFunc begins a span and returns the context that carries it. end is called once.
// observe/otel makes one of an OpenTelemetry tracer.
type TraceFunc func(ctx context.Context, name string) (_ context.Context, end func(SpanEnd))

// The names of spans.
const (
	SpanDecide = "tierlimit.decide" // a decision
	SpanStore  = "tierlimit.store"  // the call to the store within a decision, the wait for its batch included
)

// A SpanEnd is what is known of a decision at the end of its span. It does not name the subject.
type SpanEnd struct {
	Tier   string
	Limit  string // the binding limit
	Reason Reason
	Source Source
	Err    error
}

func noSpan(SpanEnd) {}
