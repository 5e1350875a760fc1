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
	Keys    KeyLookup                  // whose an API key is; default nil: there are no keys
	Address AddressConfig              // how those are told apart who bring no key
	Subject SubjectFunc                // who is asking; default ByKey with Keys, then ByAddress with Address
	Scope   func(*http.Request) string // the part of the API asked for; default ""
	Cost    func(*http.Request) int64  // what the request is charged; 0 lets it through uncharged; default 1
	Costs   CostsFunc                  // costs of limits that have their own unit; default none
	Settle  SettleFunc                 // the actual cost, for example GiveBackOn5xx; default: the charge is kept
	Hold    time.Duration              // initial duration of a hold, 1s to 1h; default DefaultHold
	Skip    func(*http.Request) bool   // true passes the request by the limiter; default never
	Legacy  LegacyHeaders              // X-RateLimit-* beside the standard headers; default NoLegacy
	Logger  *slog.Logger               // told of requests answered without the store, at debug level; default slog.Default
}

// A CostsFunc returns the costs of a request by limit: see tierlimit.Request.Costs.
type CostsFunc func(*http.Request) map[string]int64

// New returns a middleware that asks lim about every request.
//
// A request has a hold while its handler runs if cfg.Settle is set or the subject's plan has
// a concurrent limit. The middleware settles the hold when the handler returns or panics;
// the client gets the end of the response after that.
func New(lim Limiter, cfg Config) (func(http.Handler) http.Handler, error) {
	if lim == nil {
		return nil, &tierlimit.FieldError{Field: "lim", Value: "nil", Want: "a limiter"}
	}
	if cfg.Subject == nil {
		cfg.Subject = FirstOf(ByKey(cfg.Keys), ByAddress(cfg.Address))
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
	if !cfg.Legacy.valid() {
		return nil, &tierlimit.FieldError{Field: "Legacy", Value: string(cfg.Legacy), Want: "empty, epoch or delta"}
	}
	g := &guard{lim: lim, cfg: cfg}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, next) })
	}, nil
}

type guard struct {
	lim     Limiter
	cfg     Config
	unknown lograte.Line // those of whom it could not be found out who they are

	unsettled lograte.Line // requests that could not be settled
}

func (g *guard) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if g.cfg.Skip != nil && g.cfg.Skip(r) {
		next.ServeHTTP(w, r)
		return
	}
	subject, err := g.cfg.Subject(r)
	if err != nil {
		g.unknown.Add(1, func(total int64) {
			g.cfg.Logger.Warn("httplimit: cannot tell who is asking", "requests", total, "error", err)
		})
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Detail: "It could not be established who is asking."})
		return
	}
	if subject == "" {
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: "The request does not say who is asking."})
		return
	}
	d, err := g.decide(r, subject)
	if err != nil && !g.answered(w, &d, err) {
		return
	}
	SetHeaders(w.Header(), &d, g.cfg.Legacy)
	if !d.Allowed {
		Deny(w, &d)
		return
	}
	r = r.WithContext(tierlimit.NewContext(r.Context(), d))
	if d.ID != "" {
		g.serveHeld(w, r, next, d.ID)
		return
	}
	next.ServeHTTP(w, r)
}

// answered reports whether there is a decision in spite of err: the failure
// policy's. Where there is none, as the request is malformed, it says so.
func (g *guard) answered(w http.ResponseWriter, d *tierlimit.Decision, err error) bool {
	var field *tierlimit.FieldError
	if errors.As(err, &field) {
		problem.Write(w, problem.Problem{
			Status: http.StatusBadRequest, Detail: "The request cannot be limited.",
			Errors: []problem.Field{{Field: field.Field, Detail: field.Error()}},
		})
		return false
	}
	g.cfg.Logger.Debug("httplimit: answered without the store", "tier", d.Tier, "allowed", d.Allowed, "error", err)
	return true
}

func (g *guard) decide(r *http.Request, subject string) (tierlimit.Decision, error) {
	req := tierlimit.Request{Subject: subject, Cost: 1, Hold: g.cfg.Hold, HoldIfCounted: g.cfg.Settle == nil}
	if g.cfg.Scope != nil {
		req.Scope = g.cfg.Scope(r)
	}
	if g.cfg.Cost != nil {
		req.Cost = g.cfg.Cost(r)
	}
	if g.cfg.Costs != nil {
		req.Costs = g.cfg.Costs(r)
	}
	if req.Cost != 0 {
		return g.lim.Take(r.Context(), req)
	}
	d, err := g.lim.Peek(r.Context(), req)
	if d.Reason == tierlimit.Suspended || d.Reason == tierlimit.Blocked {
		return d, err
	}
	// It costs nothing: no limit can stand against it.
	d.Allowed, d.Reason, d.RetryAfter = true, tierlimit.OK, 0
	return d, err
}

// Deny answers a denied request with problem+json: 429 when a limit denied the request
// (also one that load has lowered) or the subject is blocked, 403 when the subject is
// suspended, 503 when usage could not be counted. Call SetHeaders first.
func Deny(w http.ResponseWriter, d *tierlimit.Decision) {
	p := problem.Problem{Decision: d}
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
	}
	if d.Limit != "" {
		p.ViolatedPolicies = []string{d.Limit}
	}
	problem.Write(w, p)
}
