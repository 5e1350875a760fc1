package tierlimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Config is what a Limiter is made of.
type Config struct {
	Store    Store         // required: where charges are counted
	Tiers    Resolver      // required: which plan a subject is on
	Load     Load          // scales adaptive limits; default: no scaling
	Budget   time.Duration // longest a decision may take, 1ms to 10s; default 50ms
	Local    LocalStore    // counts for the policy Local while Store is unavailable, such as a memstore; default: Local denies
	Replicas func() int    // replicas alive, who share under Local what was left; default: 1
	Observer Observer      // told of every decision; default: nobody
	Trace    TraceFunc     // makes spans of decisions; default: none
	Denials  int           // most denials remembered, where the Store lets one stand; default 65,536, -1 none

	// Crossed is told when a window of a customer has reached a threshold of Limit.Alerts: once for
	// each window and threshold, more than once only if many thresholds are crossed at a time, and
	// again by other processes that decide for the subject. It returns false if it cannot take the
	// Crossing: then the next decision tells it again. It is called from many goroutines and must
	// not block. Default: nobody is told.
	Crossed func(Crossing) (taken bool)
}

// DefaultBudget is the decision budget of a Config that names none.
const DefaultBudget = 50 * time.Millisecond

// DefaultDenials is how many denials a Limiter remembers at most.
const DefaultDenials = 1 << 16

const maxDenials = 1 << 24

// A Limiter decides. It is safe for concurrent use. Counters are in its Store, plans
// with its Resolver; it remembers nothing but recent denials.
type Limiter struct {
	store    Store
	tiers    Resolver
	load     Load
	budget   time.Duration
	local    LocalStore
	replicas func() int
	observer Observer
	holds    HoldObserver // the observer, if it is one
	trace    TraceFunc
	denials  *denials
	alerts   *alerts // nil: nobody is told of crossings
}

// New returns a Limiter, or a *FieldError that names what is wrong in cfg.
func New(cfg Config) (*Limiter, error) {
	if cfg.Budget == 0 {
		cfg.Budget = DefaultBudget
	}
	switch {
	case cfg.Store == nil:
		return nil, &FieldError{Field: "Store", Value: "nil", Want: "a store, such as redisstore or memstore"}
	case cfg.Tiers == nil:
		return nil, &FieldError{Field: "Tiers", Value: "nil", Want: "a resolver, such as tiers.Static"}
	case cfg.Denials < -1 || cfg.Denials > maxDenials:
		return nil, &FieldError{Field: "Denials", Value: strconv.Itoa(cfg.Denials), Want: "a whole number from -1 to 16777216"}
	}
	if err := checkBudget(cfg.Budget); err != nil {
		return nil, err
	}
	if cfg.Denials == 0 {
		cfg.Denials = DefaultDenials
	}
	if cfg.Replicas == nil {
		cfg.Replicas = func() int { return 1 }
	}
	holds, _ := cfg.Observer.(HoldObserver)
	return &Limiter{
		store: cfg.Store, tiers: cfg.Tiers, load: cfg.Load, budget: cfg.Budget,
		local: cfg.Local, replicas: cfg.Replicas, observer: cfg.Observer, holds: holds, trace: cfg.Trace, denials: newDenials(cfg.Denials),
		alerts: newAlerts(cfg.Crossed),
	}, nil
}

// WithBudget returns a Limiter with a decision budget of its own, 1ms to 10s. It shares everything
// else with l: charges, plans and remembered denials. An error is a *FieldError.
func (l *Limiter) WithBudget(budget time.Duration) (*Limiter, error) {
	if err := checkBudget(budget); err != nil {
		return nil, err
	}
	other := *l
	other.budget = budget
	return &other, nil
}

func checkBudget(budget time.Duration) error {
	if budget < time.Millisecond || budget > 10*time.Second {
		return &FieldError{Field: "Budget", Value: budget.String(), Want: "a duration from 1ms to 10s"}
	}
	return nil
}

// Take charges the request against every window it touches, or against none.
//
// A denial is a Decision with Allowed false and a nil error. An error is either a
// *FieldError (the request is malformed, and the Decision zero: not allowed), or says
// why the answer is degraded: then the Decision is filled in by the plan's failure
// policy, so that a caller who looks only at Allowed stays safe.
//
// Take returns within the budget, or by ctx's deadline where that is sooner.
func (l *Limiter) Take(ctx context.Context, req Request) (Decision, error) {
	if err := req.normalize(); err != nil {
		return Decision{}, err
	}
	if l.trace != nil {
		return l.traced(ctx, req, req.Cost)
	}
	return l.decide(ctx, req, req.Cost)
}

// Peek answers as Take would, and charges nothing.
func (l *Limiter) Peek(ctx context.Context, req Request) (Decision, error) {
	if err := req.normalize(); err != nil {
		return Decision{}, err
	}
	if l.trace != nil {
		return l.traced(ctx, req, 0)
	}
	return l.decide(ctx, req, 0)
}

// traced is decide within a span.
func (l *Limiter) traced(ctx context.Context, req Request, charge int64) (Decision, error) {
	ctx, end := l.trace(ctx, SpanDecide)
	d, err := l.decide(ctx, req, charge)
	end(SpanEnd{d.Tier, d.Limit, d.Reason, d.Source, err})
	return d, err
}

// decide answers req, and charges charge: the cost of req, or 0 to look only.
func (l *Limiter) decide(ctx context.Context, req Request, charge int64) (d Decision, err error) {
	now := time.Now()
	deadline := l.deadline(ctx, now)
	plan, err := l.resolve(ctx, req.Subject, deadline)
	if err != nil {
		e := evaluation{Request: req, plan: noPlan, compiled: noPlan.compile("", 1), charge: charge}
		d = e.unanswered(Closed)
		if l.observer != nil {
			l.observe(&e, &d, now, err)
		}
		return d, err
	}
	e := evaluation{Request: req, plan: plan, compiled: l.compile(plan, req.Scope), charge: charge}
	if req.HoldIfCounted && !e.compiled.concurrent {
		e.Hold = 0
	}
	if len(req.Costs) > 0 {
		e.costs = e.compiled.costsOf(&req)
	}
	err = l.answer(ctx, &e, now, deadline, &d)
	if d.ID != "" {
		l.toldOfHold(HoldOpened, true)
	}
	if l.observer != nil {
		l.observe(&e, &d, now, err)
	}
	return d, err
}

// answer answers e in d.
func (l *Limiter) answer(ctx context.Context, e *evaluation, now, deadline time.Time, d *Decision) (err error) {
	if e.plan.cfg.Refusal != "" {
		*d = e.refused(now)
		return nil
	}
	if e.compiled.ceilings == nil {
		*d = e.explain(&Outcome{Allowed: true, Source: SourcePolicy})
		return nil
	}
	if e.cached() {
		if again := l.denials.lookup(e, now); again != nil {
			*d = *again
			return nil
		}
	}
	if e.Hold > 0 && e.charge > 0 {
		e.hold = &Hold{ID: newHoldID(), For: e.Hold}
	}
	ticket := l.denials.ticket(e.Subject, now)
	asked := e.chargeBy(deadline)
	outcome, err := l.take(ctx, asked)
	if err != nil {
		*d, err = l.withoutStore(ctx, e, fmt.Errorf("decide for subject %q: %w", e.Subject, err))
		return err
	}
	if l.local != nil {
		l.local.Saw(asked, outcome)
	}
	if l.alerts != nil && e.compiled.alerts != nil {
		l.alerts.see(e, &outcome)
	}
	if !outcome.Allowed && !outcome.TooManyHolds && e.cached() {
		l.denials.remember(e, &outcome, ticket)
	}
	*d = e.explain(&outcome)
	return nil
}

// deadline returns when a decision that begins now must have been made.
func (l *Limiter) deadline(ctx context.Context, now time.Time) time.Time {
	deadline := now.Add(l.budget)
	if caller, ok := ctx.Deadline(); ok && caller.Before(deadline) {
		return caller
	}
	return deadline
}

// resolve returns the plan of subject. Whatever a resolver does wrong is an error of
// the server, never a *FieldError: the caller has done nothing wrong.
func (l *Limiter) resolve(ctx context.Context, subject string, deadline time.Time) (*Plan, error) {
	plan, err := l.tiers.Resolve(ctx, subject, deadline)
	switch {
	case err != nil:
		return nil, fmt.Errorf("resolve subject %q: %w", subject, serverError(err))
	case plan == nil || !plan.cfg.OnStoreError.Valid():
		return nil, fmt.Errorf("resolve subject %q: %w: the resolver returned a plan that NewPlan did not make", subject, ErrNoPlan)
	}
	return plan, nil
}

// serverError hides a *FieldError in err: it would look like a malformed request.
func serverError(err error) error {
	var field *FieldError
	switch {
	case !errors.As(err, &field):
		return err
	case errors.Is(err, ErrStoreUnavailable):
		return fmt.Errorf("%w: %v", ErrStoreUnavailable, err) //nolint:errorlint // hidden on purpose
	}
	return errors.New(err.Error())
}

// compile returns what plan holds a request in scope to now. The load is asked only
// when a limit heeds it.
func (l *Limiter) compile(plan *Plan, scope string) *compiled {
	c := plan.compile(scope, 1)
	if l.load == nil || !c.adaptive {
		return c
	}
	if m := l.multiplier(plan); m != 1 {
		return plan.compile(scope, m)
	}
	return c
}

// multiplier keeps a misbehaving Load from lifting a limit above its max.
func (l *Limiter) multiplier(plan *Plan) float64 {
	if l.load == nil {
		return 1
	}
	m := l.load.Multiplier(plan.cfg.Tier)
	if math.IsNaN(m) || m > 1 {
		return 1
	}
	return max(m, 0)
}

// take asks the store.
func (l *Limiter) take(ctx context.Context, c Charge) (Outcome, error) {
	end := noSpan
	if l.trace != nil {
		ctx, end = l.trace(ctx, SpanStore)
	}
	outcome, err := l.store.Take(ctx, c)
	end(SpanEnd{Source: outcome.Source, Err: err})
	switch {
	case err != nil:
		return outcome, serverError(err)
	case len(outcome.Counts) != c.Ceilings.Len():
		return outcome, fmt.Errorf("the store answered for %d of %d limits", len(outcome.Counts), c.Ceilings.Len())
	}
	return outcome, nil
}

// withoutStore answers by the plan's failure policy. A store that refuses, rather than
// being away, lets nobody through; nor does a caller whose own time is over: that says
// nothing of the store, and would let every client choose to be let through.
func (l *Limiter) withoutStore(ctx context.Context, e *evaluation, cause error) (Decision, error) {
	policy := e.plan.cfg.OnStoreError
	e.gaveUp = isOver(ctx)
	if !errors.Is(cause, ErrStoreUnavailable) || e.gaveUp {
		policy = Closed
	}
	if policy == Local && l.local == nil {
		policy = Closed
	}
	e.policy = policy
	if policy != Local {
		return e.unanswered(policy), cause
	}
	replicas := max(1, l.replicas())
	outcome, err := l.local.TakeShare(e.chargeBy(time.Time{}), replicas)
	if err != nil {
		return e.unanswered(Closed), errors.Join(cause, err)
	}
	return e.share(&outcome, replicas), cause
}

// isOver reports whether ctx has ended, or its deadline has passed.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// Plan returns the plan that subject is on, from the memory of the Resolver: it does not wait. For
// a subject that the Resolver has to look up first, Plan returns the fallback plan, and the look-up
// is under way. An error is a *FieldError if subject is invalid.
func (l *Limiter) Plan(ctx context.Context, subject string) (*Plan, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	return l.resolve(ctx, subject, time.Now())
}

// Usage is where a subject stands in every limit of its plan, whatever scope.
type Usage struct {
	Subject    string
	Tier       string
	Multiplier float64
	Degraded   bool
	Source     Source
	Windows    []WindowState
}

// Usage reads every window of the subject's plan and charges nothing.
func (l *Limiter) Usage(ctx context.Context, subject string) (Usage, error) {
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return Usage{}, err
	}
	deadline := l.deadline(ctx, time.Now())
	plan, err := l.resolve(ctx, subject, deadline)
	if err != nil {
		return Usage{}, err
	}
	return l.usage(ctx, req, plan, deadline)
}

// UsageUnder is Usage as it would be if the subject were on plan: a limit that both
// plans have keeps what was used of it.
func (l *Limiter) UsageUnder(ctx context.Context, subject string, plan *Plan) (Usage, error) {
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return Usage{}, err
	}
	return l.usage(ctx, req, plan, l.deadline(ctx, time.Now()))
}

func (l *Limiter) usage(ctx context.Context, req Request, plan *Plan, deadline time.Time) (Usage, error) {
	e := evaluation{Request: req, plan: plan, compiled: plan.all(1), held: true}
	if e.compiled.adaptive {
		e.compiled = plan.all(l.multiplier(plan))
	}
	outcome := Outcome{Source: SourcePolicy}
	if e.compiled.ceilings != nil {
		var err error
		if outcome, err = l.take(ctx, e.chargeBy(deadline)); err != nil {
			return Usage{}, fmt.Errorf("usage of subject %q: %w", req.Subject, err)
		}
	}
	d := e.explain(&outcome)
	return Usage{
		Subject: req.Subject, Tier: d.Tier, Multiplier: d.Multiplier,
		Degraded: d.Degraded, Source: d.Source, Windows: d.Windows,
	}, nil
}

// Reset forgets what the subject used of the named limits, or of all when none is
// named.
func (l *Limiter) Reset(ctx context.Context, subject string, limits ...string) error {
	if err := checkSubject(subject); err != nil {
		return err
	}
	for _, name := range limits {
		if !ValidName(name) {
			return &FieldError{Field: "limit", Value: name, Want: NameRule}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	err := l.store.Reset(ctx, subject, limits...)
	if l.local != nil {
		err = errors.Join(err, l.local.Reset(ctx, subject, limits...))
	}
	l.denials.forget(subject)
	if err != nil {
		return fmt.Errorf("reset subject %q: %w", subject, err)
	}
	return nil
}
