package tierlimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
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
	Denials  int           // most denials remembered, where the Store lets one stand; default 65,536, -1 none
}

// DefaultBudget is the decision budget of a Config that names none.
const DefaultBudget = 50 * time.Millisecond

// DefaultDenials is how many denials a Limiter remembers at most.
const DefaultDenials = 1 << 16

const maxDenials = 1 << 24

// A Limiter decides. It is safe for concurrent use. Counters are in its Store,
// plans with its Resolver; it remembers nothing but who was denied lately.
type Limiter struct {
	store    Store
	tiers    Resolver
	held     func(subject string) (*Plan, bool) // nil if the resolver is no Holder
	now      func(Charge) (Outcome, bool)       // nil if the store is no Immediate
	load     Load
	budget   time.Duration
	local    Store
	replicas func() int
	denials  *denials
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
	case cfg.Denials < -1 || cfg.Denials > maxDenials:
		return nil, &FieldError{Field: "Denials", Value: strconv.Itoa(cfg.Denials), Want: "a whole number from -1 to 16777216"}
	case cfg.Budget < time.Millisecond || cfg.Budget > 10*time.Second:
		return nil, &FieldError{Field: "Budget", Value: cfg.Budget.String(), Want: "a duration from 1ms to 10s"}
	}
	if cfg.Denials == 0 {
		cfg.Denials = DefaultDenials
	}
	l := &Limiter{
		store:    cfg.Store,
		tiers:    cfg.Tiers,
		load:     cfg.Load,
		budget:   cfg.Budget,
		local:    cfg.Local,
		replicas: cfg.Replicas,
		denials:  newDenials(cfg.Denials),
	}
	if h, ok := cfg.Tiers.(Holder); ok {
		l.held = h.Held
	}
	if s, ok := cfg.Store.(Immediate); ok {
		l.now = s.TakeNow
	}
	return l, nil
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

// Refund gives back what a decision charged, once, in those of its windows that
// still run, and reports whether anything was given back. A decision that charged
// nothing in the shared store, or was given back before, has nothing to give: that
// is no error.
func (l *Limiter) Refund(ctx context.Context, d Decision) (bool, error) {
	if d.Nonce == 0 {
		return false, nil
	}
	return l.refund(ctx, d.refund())
}

// RefundID is Refund for a decision's ID. An error is a *FieldError if id is
// none.
func (l *Limiter) RefundID(ctx context.Context, id string) (bool, error) {
	r, err := parseID(id)
	if err != nil {
		return false, err
	}
	return l.refund(ctx, r)
}

func (l *Limiter) refund(ctx context.Context, r Refund) (bool, error) {
	b := newBudget(ctx, time.Now(), l.budget)
	defer b.end()
	refunded, err := l.store.Refund(b, r)
	l.denials.forget(r.Subject)
	if err != nil {
		return false, fmt.Errorf("refund subject %q: %w", r.Subject, err)
	}
	return refunded, nil
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
	b := newBudget(ctx, time.Now(), l.budget)
	defer b.end()
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return Usage{}, err
	}
	plan, err := l.resolve(b, subject)
	if err != nil {
		return Usage{}, err
	}
	return l.usageOf(b, req, plan)
}

// UsageUnder is Usage as it would be if the subject were on plan: a limit that both
// plans have keeps what was used of it.
func (l *Limiter) UsageUnder(ctx context.Context, subject string, plan *Plan) (Usage, error) {
	b := newBudget(ctx, time.Now(), l.budget)
	defer b.end()
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return Usage{}, err
	}
	return l.usageOf(b, req, plan)
}

func (l *Limiter) usageOf(ctx context.Context, req Request, plan *Plan) (Usage, error) {
	q := question{Request: req, plan: plan, terms: newTerms(plan.Limits, "", 1)}
	if q.terms.adaptive {
		q.terms = newTerms(plan.Limits, "", l.multiplier(plan))
	}
	outcome := Outcome{Source: SourcePolicy}
	if len(plan.Limits) > 0 {
		var err error
		if outcome, err = l.store.Take(ctx, q.charge(false, nil)); err != nil {
			return Usage{}, fmt.Errorf("usage of subject %q: %w", req.Subject, ours(err))
		}
	}
	d := q.answer(outcome, false)
	return Usage{
		Subject: req.Subject, Tier: d.Tier, Multiplier: d.Multiplier,
		Degraded: d.Degraded, Source: d.Source, Windows: d.Windows,
	}, nil
}

// Reset forgets what the subject used of the named limits, or of all when none
// is named.
func (l *Limiter) Reset(ctx context.Context, subject string, limits ...string) error {
	b := newBudget(ctx, time.Now(), l.budget)
	defer b.end()
	req := Request{Subject: subject}
	if err := req.normalize(); err != nil {
		return err
	}
	for _, name := range limits {
		if !ValidName(name) {
			return &FieldError{Field: "limit", Value: name, Want: NameRule}
		}
	}
	err := l.store.Reset(b, subject, limits...)
	if l.local != nil {
		err = errors.Join(err, l.local.Reset(b, subject, limits...))
	}
	l.denials.forget(subject)
	if err != nil {
		return fmt.Errorf("reset subject %q: %w", subject, err)
	}
	return nil
}

func (l *Limiter) decide(ctx context.Context, req Request, charge bool) (Decision, error) {
	if err := req.normalize(); err != nil {
		return Decision{}, err
	}
	q := question{Request: req}
	held := false
	if l.held != nil {
		q.plan, held = l.held(req.Subject)
	}
	if held && q.plan.Refusal == "" {
		q.terms = l.terms(q.plan, req.Scope)
		if charge {
			if d := l.denials.again(&q); d != nil {
				return *d, nil
			}
		}
		if d, ok := l.takeNow(&q, charge); ok {
			return d, nil
		}
	}
	return l.ask(ctx, &q, charge)
}

// takeNow decides if the store can answer at once.
func (l *Limiter) takeNow(q *question, charge bool) (d Decision, ok bool) {
	if l.now == nil || len(q.terms.limits) == 0 {
		return d, false
	}
	room, _ := rooms.Get().(*[MaxLimits]Count)
	defer rooms.Put(room)
	outcome, ok := l.now(q.charge(charge, room[:0]))
	if !ok {
		return d, false
	}
	return q.answer(outcome, charge), true
}

// ask is the rest of a decision that memory alone cannot make.
func (l *Limiter) ask(ctx context.Context, q *question, charge bool) (Decision, error) {
	now := time.Now()
	b := newBudget(ctx, now, l.budget)
	defer b.end()
	if q.plan == nil {
		plan, err := l.resolve(b, q.Subject)
		if err != nil {
			q.plan, q.terms = &Plan{OnStoreError: Closed}, noTerms
			return q.fail(Closed), err
		}
		q.plan = plan
	}
	if q.plan.Refusal != "" {
		q.terms = noTerms
		return q.refused(), nil
	}
	if q.terms == nil {
		q.terms = l.terms(q.plan, q.Scope)
	}
	if len(q.terms.limits) == 0 {
		return q.answer(Outcome{Allowed: true, Source: SourcePolicy}, charge), nil
	}
	room, _ := rooms.Get().(*[MaxLimits]Count)
	defer rooms.Put(room)
	asked := l.denials.asking(now)
	outcome, err := l.store.Take(b, q.charge(charge, room[:0]))
	if err != nil {
		return l.fallback(ctx, q, charge, fmt.Errorf("decide for subject %q: %w", q.Subject, ours(err)))
	}
	if charge {
		l.denials.remember(q, outcome, asked)
	}
	return q.answer(outcome, charge), nil
}

// rooms hold what stores answer, which a Decision copies.
var rooms = sync.Pool{New: func() any { return new([MaxLimits]Count) }}

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
func (l *Limiter) fallback(caller context.Context, q *question, charge bool, cause error) (Decision, error) {
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
func (l *Limiter) countLocally(q *question, charge bool, cause error) (Decision, error) {
	if l.local == nil {
		return q.fail(Closed), cause
	}
	share := *q
	if l.replicas != nil {
		share.terms = q.terms.share(l.replicas())
	}
	outcome, err := l.local.Take(context.Background(), share.charge(charge, nil))
	if err != nil {
		return q.fail(Closed), errors.Join(cause, err)
	}
	d := share.answer(outcome, charge)
	for i := range d.Windows {
		d.Windows[i].Max = q.terms.limits[i].Max // the plan's, whatever this process may give of it
	}
	d.Degraded, d.Nonce = true, 0
	return d, cause
}

// terms are what plan holds a request in scope to now. The load is asked only
// when a limit would heed it.
func (l *Limiter) terms(plan *Plan, scope string) *terms {
	t := plan.terms.of(plan, scope, 1)
	if l.load == nil || !t.adaptive {
		return t
	}
	if m := l.multiplier(plan); m != 1 {
		return plan.terms.of(plan, scope, m)
	}
	return t
}

// multiplier keeps a misbehaving Load from lifting a limit above its max.
func (l *Limiter) multiplier(plan *Plan) float64 {
	if l.load == nil {
		return 1
	}
	m := l.load.Multiplier(plan.Tier)
	if math.IsNaN(m) || m > 1 {
		return 1
	}
	return max(m, 0)
}
