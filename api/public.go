package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// Config is what both listeners are made of.
type Config struct {
	Limiter   *tierlimit.Limiter
	Catalogue tiers.Catalogue
	Load      *load.Controller
	Health    Health

	AdminToken     string         // required: opens everything
	ServiceToken   string         // opens the decisions of the public listener
	Open           bool           // decisions need no token
	Demo           bool           // serve /demo/data
	TrustedProxies []netip.Prefix // whose X-Forwarded-For /demo/data believes
	Logger         *slog.Logger   // default slog.Default
}

// Public returns the handler of the public listener.
func Public(cfg Config) (http.Handler, error) {
	r := newRouter(&cfg)
	cfg.Health.routes(r, false)
	d := &decisions{lim: cfg.Limiter, load: cfg.Load, log: cfg.Logger}
	r.Get("/v1/load", d.getLoad)
	r.Group(func(r chi.Router) {
		if !cfg.Open {
			r.Use(requireToken(cfg.AdminToken, cfg.ServiceToken))
		}
		r.Post("/v1/take", d.take)
		r.Post("/v1/peek", d.peek)
		r.Post("/v1/refund", d.refund)
		r.Get("/v1/usage/{subject}", d.usage)
	})
	if cfg.Demo {
		limit, err := httplimit.New(cfg.Limiter, httplimit.Config{
			Subject: httplimit.ByAddress(httplimit.AddressConfig{Trusted: cfg.TrustedProxies}),
			Logger:  cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		r.With(limit).Get("/demo/data", demoData)
	}
	return r, nil
}

type decisions struct {
	lim  *tierlimit.Limiter
	load *load.Controller
	log  *slog.Logger
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

func (d *decisions) take(w http.ResponseWriter, r *http.Request) {
	d.decide(w, r, d.lim.Take)
}

func (d *decisions) peek(w http.ResponseWriter, r *http.Request) {
	d.decide(w, r, d.lim.Peek)
}

func (d *decisions) decide(w http.ResponseWriter, r *http.Request, ask func(context.Context, tierlimit.Request) (tierlimit.Decision, error)) {
	var body takeBody
	if err := decode(w, r, &body); err != nil {
		fail(w, r, d.log, err)
		return
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
			fail(w, r, d.log, err)
			return
		}
		// The failure policy has answered.
		d.log.Debug("api: decided without the store", "tier", decision.Tier, "allowed", decision.Allowed, "error", err)
	}
	httplimit.SetHeaders(w.Header(), &decision, httplimit.NoLegacy)
	respondDecision(w, &decision)
}

type refundBody struct {
	ID string `json:"id"`
}

type refundAnswer struct {
	Refunded bool `json:"refunded"`
}

// refund answers whether anything was given back: a second time, or once the
// windows have rolled, nothing is.
func (d *decisions) refund(w http.ResponseWriter, r *http.Request) {
	var body refundBody
	err := decode(w, r, &body)
	if err != nil {
		fail(w, r, d.log, err)
		return
	}
	var answer refundAnswer
	if answer.Refunded, err = d.lim.RefundID(r.Context(), body.ID); err != nil {
		fail(w, r, d.log, err)
		return
	}
	respond(w, http.StatusOK, answer)
}

func (d *decisions) usage(w http.ResponseWriter, r *http.Request) {
	usage, err := d.lim.Usage(r.Context(), pathValue(r, "subject"))
	if err != nil {
		fail(w, r, d.log, err)
		return
	}
	respond(w, http.StatusOK, usage)
}

func (d *decisions) getLoad(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, d.load.Status())
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
