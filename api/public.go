package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// Config is what both listeners are made of.
type Config struct {
	Limiter   *tierlimit.Limiter
	Catalogue tiers.Catalogue
	Keyring   tiers.Keyring // knows tokens and API keys; nil: only the configured tokens
	Load      *load.Controller
	Health    Health

	AdminToken     string         // the owner's: opens everything, and needs no catalogue
	ServiceToken   string         // of the role service, likewise
	Open           bool           // decisions need no token
	Demo           bool           // serve /demo/data
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	Logger         *slog.Logger   // default slog.Default
}

// Public returns the handler of the public listener.
func Public(cfg Config) (http.Handler, error) {
	r := newRouter(&cfg)
	d := &decisions{lim: cfg.Limiter, load: cfg.Load, log: cfg.Logger}
	allow := newGuard(&cfg).allow
	if cfg.Open {
		allow = func(...access.Right) func(http.Handler) http.Handler {
			return func(next http.Handler) http.Handler { return next }
		}
	}
	mount(r, cfg.Logger, allow, d.operations())
	mount(r, cfg.Logger, allow, cfg.Health.operations(false))
	mount(r, cfg.Logger, allow, documentOperations())
	if cfg.Demo {
		limit, err := httplimit.New(cfg.Limiter, httplimit.Config{
			Keys: keysOf(cfg.Keyring), Address: httplimit.AddressConfig{Trusted: cfg.TrustedProxies}, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		r.With(limit).Get("/demo/data", demoData)
	}
	return r, nil
}

// keysOf is the keyring as the middleware asks it, nil if there is none.
func keysOf(k tiers.Keyring) httplimit.KeyLookup {
	if k == nil {
		return nil
	}
	return tiers.SubjectOf(k)
}

type decisions struct {
	lim  *tierlimit.Limiter
	load *load.Controller
	log  *slog.Logger
}

// operations are all that the public listener does, beside health and what is
// limited itself.
func (d *decisions) operations() []operation {
	const tag = "Decisions"
	down := []int{http.StatusServiceUnavailable}
	decide := []access.Right{access.Decide}
	look := []access.Right{access.Decide, access.Read}
	return []operation{
		{
			method: http.MethodPost, path: "/v1/take", id: "take", summary: "Charge a subject, and say whether it is allowed", tag: tag,
			rights: decide, body: "Request", answer: "Decision", conform: true, serve: d.take,
		},
		{
			method: http.MethodPost, path: "/v1/peek", id: "peek", summary: "Answer as take would, and charge nothing", tag: tag,
			rights: look, body: "Request", answer: "Decision", conform: true, serve: d.peek,
		},
		{
			method: http.MethodPost, path: "/v1/refund", id: "refund", summary: "Give back what a decision charged, once", tag: tag,
			rights: decide, body: "Refund", answer: "Refunded", fails: down, serve: d.refund,
		},
		{
			method: http.MethodGet, path: "/v1/usage/{subject}", id: "usage", summary: "Read every window of a subject's plan", tag: tag,
			rights: look, answer: "Usage", fails: append(down, http.StatusBadRequest), serve: d.usage,
		},
		{
			method: http.MethodGet, path: "/v1/load", id: "load", summary: "How busy this replica is, and what follows from it", tag: "Load",
			answer: "LoadStatus", serve: d.getLoad,
		},
	}
}

type takeBody struct {
	Subject string    `json:"subject"`
	Scope   string    `json:"scope"`
	Cost    *costJSON `json:"cost"` // absent: 1; 0 peeks
}

// costJSON is a number whose error says what a cost may be, not what Go's
// integers may.
type costJSON int64

func (c *costJSON) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return &tierlimit.FieldError{Field: "cost", Value: string(data), Want: tierlimit.CostRule}
	}
	*c = costJSON(n)
	return nil
}

func (d *decisions) take(w http.ResponseWriter, r *http.Request) error {
	return d.decide(w, r, d.lim.Take)
}

func (d *decisions) peek(w http.ResponseWriter, r *http.Request) error {
	return d.decide(w, r, d.lim.Peek)
}

func (d *decisions) decide(w http.ResponseWriter, r *http.Request, ask func(context.Context, tierlimit.Request) (tierlimit.Decision, error)) error {
	var body takeBody
	if err := decode(w, r, &body); err != nil {
		return err
	}
	req := tierlimit.Request{Subject: body.Subject, Scope: body.Scope}
	if body.Cost != nil {
		req.Cost = int64(*body.Cost)
		if req.Cost == 0 {
			ask = d.lim.Peek
		}
	}
	decision, err := ask(r.Context(), req)
	if err != nil {
		if isFieldError(err) {
			return err
		}
		// The failure policy has answered.
		d.log.Debug("api: decided without the store", "tier", decision.Tier, "allowed", decision.Allowed, "error", err)
	}
	httplimit.SetHeaders(w.Header(), &decision, httplimit.NoLegacy)
	respondDecision(w, &decision)
	return nil
}

type refundBody struct {
	ID string `json:"id"`
}

type refundAnswer struct {
	Refunded bool `json:"refunded"`
}

// refund answers whether anything was given back: a second time, or once the
// windows have rolled, nothing is.
func (d *decisions) refund(w http.ResponseWriter, r *http.Request) error {
	var body refundBody
	err := decode(w, r, &body)
	if err != nil {
		return err
	}
	var answer refundAnswer
	if answer.Refunded, err = d.lim.RefundID(r.Context(), body.ID); err != nil {
		return err
	}
	respond(w, http.StatusOK, answer)
	return nil
}

func (d *decisions) usage(w http.ResponseWriter, r *http.Request) error {
	usage, err := d.lim.Usage(r.Context(), pathValue(r, "subject"))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, usage)
	return nil
}

func (d *decisions) getLoad(w http.ResponseWriter, _ *http.Request) error {
	respond(w, http.StatusOK, d.load.Status())
	return nil
}

// demoData is what a protected endpoint looks like behind the middleware.
func demoData(w http.ResponseWriter, r *http.Request) {
	d, _ := tierlimit.FromContext(r.Context())
	respond(w, http.StatusOK, map[string]string{
		"message": "This is the data you are limited on.",
		"subject": d.Subject,
		"tier":    d.Tier,
	})
}
