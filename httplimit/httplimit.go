package httplimit

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/lograte"
	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/load/guard"
)

// A Limiter decides; *tierlimit.Limiter does.
type Limiter interface {
	Take(ctx context.Context, req tierlimit.Request) (tierlimit.Decision, error)
	Peek(ctx context.Context, req tierlimit.Request) (tierlimit.Decision, error)
	Settle(ctx context.Context, id string, cost int64, costs map[string]int64) (tierlimit.Settlement, error)
	Renew(ctx context.Context, id string, hold time.Duration) (found bool, err error)
}

// Config tunes the middleware. The zero Config limits every request by its
// client's address, at a cost of 1.
type Config struct {
	Who     Who                        // how requests tell who is asking
	Subject SubjectFunc                // who is asking; default Who.Subject
	Routes  *Routes                    // what requests cost, in the place of Scope, Cost and Costs; default nil
	Scope   func(*http.Request) string // the part of the API asked for; default ""
	Cost    func(*http.Request) int64  // what the request is charged; 0 lets it through uncharged; default 1
	Costs   CostsFunc                  // costs of limits that have their own unit; default none
	Settle  SettleFunc                 // the actual cost, for example GiveBackOn5xx; default: the charge is kept
	Hold    time.Duration              // initial duration of a hold, 1s to 1h; default DefaultHold
	Skip    func(*http.Request) bool   // true passes the request by the limiter and the guard; default never
	Guard   *guard.Guard               // refuses requests, before the limiter is asked, while the process or what it calls is saturated; default nil
	Legacy  LegacyHeaders              // X-RateLimit-* beside the standard headers; default NoLegacy
	Logger  *slog.Logger               // told who asks and what is decided, at debug level; default slog.Default
}

// A CostsFunc returns the costs of a request by limit: see tierlimit.Request.Costs.
type CostsFunc func(*http.Request) map[string]int64

// New returns a middleware that asks lim about every request. A CORS preflight is not charged,
// unless a route of Config.Routes has the method OPTIONS.
//
// A request has a hold while its handler runs if cfg.Settle is set, its route has a hold, or the
// subject's plan has a concurrent limit. The middleware settles the hold when the handler
// returns or panics; the client gets the end of the response after that.
func New(lim Limiter, cfg Config) (func(http.Handler) http.Handler, error) {
	g, err := NewGate(lim, cfg)
	if err != nil {
		return nil, err
	}
	return g.Wrap, nil
}

// A Gate decides about requests. New returns a middleware that uses a Gate; programs that answer
// gateways call Check. A Gate is safe for concurrent use.
type Gate struct {
	lim     Limiter
	planner Planner // not nil if cfg.Guard is not
	cfg     Config

	unknown   lograte.Line // requests whose subject could not be looked up
	unsettled lograte.Line // requests that could not be settled
	wrong     lograte.Line // requests with an invalid scope or cost
}

// NewGate returns a Gate. An error is a *tierlimit.FieldError or joins several.
func NewGate(lim Limiter, cfg Config) (*Gate, error) {
	if lim == nil {
		return nil, &tierlimit.FieldError{Field: "lim", Value: "nil", Want: "a limiter"}
	}
	if cfg.Routes != nil && (cfg.Scope != nil || cfg.Cost != nil || cfg.Costs != nil) {
		return nil, &tierlimit.FieldError{Field: "Routes", Want: "left out where Scope, Cost or Costs is given"}
	}
	if err := cfg.Who.Validate(); err != nil {
		return nil, err
	}
	if cfg.Subject == nil {
		cfg.Subject = cfg.Who.Subject()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Hold == 0 {
		cfg.Hold = DefaultHold
	}
	if err := checkHold(cfg.Hold); err != nil {
		return nil, err
	}
	if !cfg.Legacy.Valid() {
		return nil, &tierlimit.FieldError{Field: "Legacy", Value: string(cfg.Legacy), Want: "empty, epoch, delta, epoch-only or delta-only"}
	}
	planner, ok := lim.(Planner)
	if cfg.Guard != nil && !ok {
		return nil, &tierlimit.FieldError{Field: "Guard", Value: "given", Want: "nil for a limiter without the method Plan"}
	}
	return &Gate{lim: lim, planner: planner, cfg: cfg}, nil
}

// Wrap returns a handler that calls next for the requests that pass.
func (g *Gate) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := g.ask(r, true)
		if a.permit != nil {
			defer a.leave(r)
		}
		switch {
		case a.problem != nil:
			hurryBody(w, r)
			problem.Write(w, *a.problem)
			return
		case a.skipped:
			next.ServeHTTP(w, r)
			return
		}
		SetHeaders(w.Header(), &a.decision, g.cfg.Legacy)
		if !a.decision.Allowed {
			hurryBody(w, r)
			Deny(w, &a.decision)
			return
		}
		if permit := a.permit; permit != nil {
			w = onResponse(w, func(int) { permit.Answered() })
		}
		r = r.WithContext(tierlimit.NewContext(r.Context(), a.decision))
		if a.decision.ID != "" {
			g.serveHeld(w, r, next, a.decision.ID, a.hold)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maxWait is how long a client may take to send the body of a request that does not pass.
const maxWait = time.Second

// hurryBody bounds how long net/http waits for a body that nobody reads: it does so before it
// writes the response, and a client that sends none would hold the connection.
func hurryBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(maxWait)) // a writer that cannot has its own
	}
}

// Check decides about a request that another server serves, and writes the response: the status
// pass with the RateLimit headers, or the denial. Check does not read the body of r. The charge
// has no hold, because the other server could not settle it.
func (g *Gate) Check(w http.ResponseWriter, r *http.Request, pass int) {
	a := g.ask(r, false)
	switch {
	case a.problem != nil:
		problem.Write(w, *a.problem)
	case a.skipped:
		w.WriteHeader(pass)
	case a.decision.Allowed:
		SetHeaders(w.Header(), &a.decision, g.cfg.Legacy)
		w.WriteHeader(pass)
	default:
		SetHeaders(w.Header(), &a.decision, g.cfg.Legacy)
		p := denial(&a.decision)
		p.Decision = nil // gateways bound the size of the body
		problem.Write(w, p)
	}
}

// An answer is the result of asking about a request.
type answer struct {
	decision tierlimit.Decision
	hold     time.Duration    // of decision.ID
	skipped  bool             // there is no decision: the request passes
	problem  *problem.Problem // not nil: there is no decision, and the request does not pass
	permit   *guard.Permit    // of the guard; nil: there is no guard, or the request does not pass
}

// ask decides about a request. If this process serves the request, the guard is asked too, and the
// charge may have a hold.
func (g *Gate) ask(r *http.Request, serves bool) (a answer) {
	if err := g.cfg.Routes.CheckPath(r); err != nil {
		a.problem = &problem.Problem{Status: http.StatusBadRequest, Detail: "The request cannot be limited.", Errors: []problem.Field{{Field: "path", Detail: err.Error()}}}
		return a
	}
	charge, pattern := g.cfg.Routes.Match(r)
	if charge.Skip || g.cfg.Skip != nil && g.cfg.Skip(r) {
		a.skipped = true
		return a
	}
	subject, err := g.cfg.Subject(r)
	if err != nil {
		g.unknown.Add(1, func(total int64) {
			g.cfg.Logger.Warn("httplimit: cannot tell who is asking", "requests", total, "error", err)
		})
		a.problem = &problem.Problem{Status: http.StatusServiceUnavailable, Detail: "It could not be established who is asking."}
		return a
	}
	if subject == "" {
		a.problem = &problem.Problem{Status: http.StatusBadRequest, Detail: "The request does not say who is asking."}
		return a
	}
	if g.cfg.Guard != nil && serves {
		if g.admit(r.Context(), subject, &a); a.problem != nil {
			return a
		}
	}
	req := g.request(r, subject, &charge)
	if !serves {
		req.Hold, req.HoldIfCounted = 0, false
	}
	a.hold = req.Hold
	a.decision, err = g.decide(r.Context(), req)
	if err != nil {
		a.problem = g.problemOf(&a.decision, err)
	}
	if log := g.cfg.Logger; log.Enabled(r.Context(), slog.LevelDebug) {
		log.Debug("httplimit: asked", "subject", subject, "method", r.Method, "route", pattern, "scope", req.Scope, "cost", req.Cost,
			"allowed", a.decision.Allowed, "reason", string(a.decision.Reason))
	}
	return a
}

// request returns the request to the limiter for r.
func (g *Gate) request(r *http.Request, subject string, charge *Charge) tierlimit.Request {
	req := tierlimit.Request{
		Subject: subject, Scope: charge.Scope, Cost: 1, Costs: charge.Costs,
		Hold: g.cfg.Hold, HoldIfCounted: g.cfg.Settle == nil,
	}
	if charge.Cost != nil {
		req.Cost = *charge.Cost
	}
	if charge.Hold != 0 {
		req.Hold, req.HoldIfCounted = charge.Hold, false
	}
	if g.cfg.Scope != nil {
		req.Scope = g.cfg.Scope(r)
	}
	if g.cfg.Cost != nil {
		req.Cost = g.cfg.Cost(r)
	}
	if g.cfg.Costs != nil {
		req.Costs = g.cfg.Costs(r)
	}
	return req
}

func (g *Gate) decide(ctx context.Context, req tierlimit.Request) (tierlimit.Decision, error) {
	if req.Cost != 0 {
		return g.lim.Take(ctx, req)
	}
	for _, cost := range req.Costs {
		if cost != 0 {
			return tierlimit.Decision{}, &tierlimit.FieldError{Field: "cost", Value: "0", Want: "1 or more beside costs"}
		}
	}
	d, err := g.lim.Peek(ctx, req)
	if d.Reason == tierlimit.Suspended || d.Reason == tierlimit.Blocked {
		return d, err
	}
	// It costs nothing: no limit can stand against it.
	d.Allowed, d.Reason, d.RetryAfter = true, tierlimit.OK, 0
	return d, err
}

// problemOf returns the problem of a request that was not decided because of err, nil if the
// failure policy has decided.
func (g *Gate) problemOf(d *tierlimit.Decision, err error) *problem.Problem {
	var field *tierlimit.FieldError
	switch {
	case !errors.As(err, &field):
		g.cfg.Logger.Debug("httplimit: answered without the store", "tier", d.Tier, "allowed", d.Allowed, "error", err)
		return nil
	case field.Field == "subject": // the client's, or its gateway's
		return &problem.Problem{
			Status: http.StatusBadRequest, Detail: "The request cannot be limited.",
			Errors: []problem.Field{{Field: field.Field, Detail: field.Error()}},
		}
	}
	// A scope or a cost is the application's own.
	g.wrong.Add(1, func(total int64) {
		g.cfg.Logger.Error("httplimit: requests are refused because of an invalid scope, cost or hold", "requests", total, "error", err)
	})
	return &problem.Problem{Status: http.StatusInternalServerError}
}

// Deny answers a denied request with problem+json: 429 if waiting helps, 403 if it does not
// (the subject is suspended, the request costs more than is ever allowed, or nothing is), 503
// if usage could not be counted. Clients retry a 429 without Retry-After. Call SetHeaders first.
func Deny(w http.ResponseWriter, d *tierlimit.Decision) {
	h := w.Header()
	for _, name := range [...]string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified"} {
		delete(h, name) // of the response that was meant
	}
	problem.Write(w, denial(d))
}

func denial(d *tierlimit.Decision) problem.Problem {
	p := explained(d)
	if d.Limit != "" {
		p.ViolatedPolicies = []string{d.Limit}
	}
	if d.Denials == tierlimit.DenialsPlain {
		return problem.Problem{Status: p.Status, ViolatedPolicies: p.ViolatedPolicies}
	}
	p.Decision = d
	return p
}

// explained returns the status and the words of a denial.
func explained(d *tierlimit.Decision) (p problem.Problem) {
	switch d.Reason {
	case tierlimit.StoreDown:
		p.Type, p.Status = problem.TemporaryReducedCapacity, http.StatusServiceUnavailable
		p.Title, p.Detail = "Temporary reduced capacity", "Usage cannot be counted at the moment."
	case tierlimit.Suspended:
		p.Status, p.Detail = http.StatusForbidden, "The account is suspended."
	case tierlimit.Blocked:
		p.Type, p.Status = problem.AbnormalUsage, http.StatusTooManyRequests
		p.Title, p.Detail = "Abnormal usage detected", "The account is blocked for a while."
	case tierlimit.CostTooLarge:
		p.Detail = "The request costs more than the plan ever allows at once; waiting does not help."
	case tierlimit.TooManyHolds:
		p.Detail = "Too many of the account's requests are running."
	case tierlimit.LoadScaled:
		p.Detail = "The service is busy and this plan's limit is lowered for the time being."
	default:
		p.Detail = "The plan's limit is reached."
	}
	if p.Status == 0 {
		p.Type, p.Status, p.Title = problem.QuotaExceeded, http.StatusTooManyRequests, "Quota exceeded"
		if d.RetryAfter <= 0 {
			p.Status = http.StatusForbidden
		}
	}
	return p
}
