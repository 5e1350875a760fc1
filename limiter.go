package tierlimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Config is what a Limiter is made of.
type Config struct {
	Store    Store         // required: where charges are counted
	Tiers    Resolver      // required: which plan a subject is on
	Load     Load          // scales adaptive limits; default: no scaling
	Budget   time.Duration // longest a decision may take, 1ms to 10s; default 50ms
	Local    Store         // counts for the policy Local while Store is unavailable; default: Local denies
	Replicas func() int    // replicas alive, who share each max under Local; default: 1
}

// DefaultBudget is the decision budget of a Config that names none.
const DefaultBudget = 50 * time.Millisecond

// A Limiter decides. It is safe for concurrent use and holds no state of its
// own: counters are in its Store, plans with its Resolver.
type Limiter struct {
	store    Store
	tiers    Resolver
	load     Load
	budget   time.Duration
	local    Store
	replicas func() int
}

// New returns a Limiter, or an error that names what is wrong in cfg.
func New(cfg Config) (*Limiter, error) {
	if cfg.Budget == 0 {
		cfg.Budget = DefaultBudget
	}
	switch {
	case cfg.Store == nil:
		return nil, &FieldError{Field: "Store", Value: "nil", Want: "a store, such as redisstore or memstore"}
	case cfg.Tiers == nil:
		return nil, &FieldError{Field: "Tiers", Value: "nil", Want: "a resolver, such as tiers.Static"}
	case cfg.Budget < time.Millisecond || cfg.Budget > 10*time.Second:
		return nil, &FieldError{Field: "Budget", Value: cfg.Budget.String(), Want: "a duration from 1ms to 10s"}
	}
	return &Limiter{
		store:    cfg.Store,
		tiers:    cfg.Tiers,
		load:     cfg.Load,
		budget:   cfg.Budget,
		local:    cfg.Local,
		replicas: cfg.Replicas,
	}, nil
}

// Take charges the request against every window it touches, or against none.
//
// A denial is a Decision with Allowed false and a nil error. An error is either
// a *FieldError (the request is malformed, and the Decision zero: not allowed),
// or says why the answer is degraded: then the Decision is filled in by the
// plan's failure policy, so that a caller who looks only at Allowed stays safe.
func (l *Limiter) Take(ctx context.Context, req Request) (Decision, error) {
	return l.decide(ctx, req, true)
}

// Peek answers as Take would, and charges nothing.
func (l *Limiter) Peek(ctx context.Context, req Request) (Decision, error) {
	return l.decide(ctx, req, false)
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
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return Usage{}, err
	}
	plan, err := l.resolve(ctx, subject)
	if err != nil {
		return Usage{}, err
	}
	q := l.question(plan, plan.Limits, req)
	outcome := Outcome{Source: SourcePolicy}
	if len(q.limits) > 0 {
		if outcome, err = l.store.Take(ctx, q.charge(false)); err != nil {
			return Usage{}, fmt.Errorf("usage of subject %q: %w", subject, ours(err))
		}
	}
	d := q.answer(outcome, false)
	return Usage{
		Subject: subject, Tier: d.Tier, Multiplier: d.Multiplier,
		Degraded: d.Degraded, Source: d.Source, Windows: d.Windows,
	}, nil
}

// Reset forgets what the subject used of the named limits, or of all when none
// is named.
func (l *Limiter) Reset(ctx context.Context, subject string, limits ...string) error {
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return err
	}
	for _, name := range limits {
		if !ValidName(name) {
			return &FieldError{Field: "limit", Value: name, Want: NameRule}
		}
	}
	err := l.store.Reset(ctx, subject, limits...)
	if l.local != nil {
		err = errors.Join(err, l.local.Reset(ctx, subject, limits...))
	}
	if err != nil {
		return fmt.Errorf("reset subject %q: %w", subject, err)
	}
	return nil
}

func (l *Limiter) decide(ctx context.Context, req Request, charge bool) (Decision, error) {
	if err := req.normalize(); err != nil {
		return Decision{}, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()

	plan, err := l.resolve(ctx, req.Subject)
	if err != nil {
		q := question{Request: req, plan: &Plan{OnStoreError: Closed}, multiplier: 1}
		return q.fail(Closed), err
	}
	q := l.question(plan, inScope(plan.Limits, req.Scope), req)
	if len(q.limits) == 0 {
		return q.answer(Outcome{Allowed: true, Source: SourcePolicy}, charge), nil
	}
	outcome, err := l.store.Take(ctx, q.charge(charge))
	if err == nil {
		return q.answer(outcome, charge), nil
	}
	return l.fallback(caller, q, charge, fmt.Errorf("decide for subject %q: %w", req.Subject, ours(err)))
}

// ours keeps a plan that no store accepts from looking like a malformed request:
// the caller has done nothing wrong.
func ours(err error) error {
	var field *FieldError
	if errors.As(err, &field) {
		return fmt.Errorf("the plan cannot be counted: %v", err) //nolint:errorlint // hidden on purpose
	}
	return err
}

func (l *Limiter) resolve(ctx context.Context, subject string) (*Plan, error) {
	plan, err := l.tiers.Resolve(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("resolve subject %q: %w", subject, err)
	}
	return plan, nil
}

// fallback answers for a store that gave an error.
func (l *Limiter) fallback(caller context.Context, q question, charge bool, cause error) (Decision, error) {
	policy := q.plan.OnStoreError
	if !errors.Is(cause, ErrStoreUnavailable) || errors.Is(caller.Err(), context.Canceled) {
		policy = Closed
	}
	if policy != Open && policy != Closed {
		return l.countLocally(q, charge, cause)
	}
	return q.fail(policy), cause
}

// countLocally counts in this process, each max divided by the replicas alive. The
// Local store is memory: it needs no deadline, and the caller's may be spent.
func (l *Limiter) countLocally(q question, charge bool, cause error) (Decision, error) {
	if l.local == nil {
		return q.fail(Closed), cause
	}
	share := q
	if l.replicas != nil {
		share = q.share(l.replicas())
	}
	outcome, err := l.local.Take(context.Background(), share.charge(charge))
	if err != nil {
		return q.fail(Closed), errors.Join(cause, err)
	}
	d := share.answer(outcome, charge)
	for i := range d.Windows {
		d.Windows[i].Max = q.limits[i].Max // the plan's, whatever this process may give of it
	}
	d.Degraded = true
	return d, cause
}

func (l *Limiter) question(plan *Plan, limits []Limit, req Request) question {
	return newQuestion(plan, limits, req, l.multiplier(plan, limits))
}

// multiplier asks the load only when a limit would heed it, and keeps a
// misbehaving Load from lifting a limit above its max.
func (l *Limiter) multiplier(plan *Plan, limits []Limit) float64 {
	if l.load == nil {
		return 1
	}
	for i := range limits {
		if limits[i].Adaptive {
			m := l.load.Multiplier(plan.Tier)
			if math.IsNaN(m) || m > 1 {
				return 1
			}
			return max(m, 0)
		}
	}
	return 1
}
