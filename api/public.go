package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

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
	// CatchUp returns once the limiter applies all changes made so far, or ctx ends. The
	// response to a change waits for CatchUp. nil if the limiter always applies them at once.
	CatchUp func(ctx context.Context)

	Tokens       *Tokens // the tokens of the configuration; nil: the two below
	AdminToken   string  // the owner's: opens everything, and needs no catalogue
	ServiceToken string  // of the role service, likewise
	Open         bool    // decisions need no token
	Demo         bool    // serve /demo/data

	Denials Denials      // who was denied and why; nil: nobody is known
	Metrics http.Handler // GET /metrics of the admin listener, without a token; nil: there are none

	// How requests of /v1/check and /demo/data tell who is asking and what they cost.
	Who    httplimit.Who // its Keys are those of Keyring, if it has none
	Routes *httplimit.Routes
	Legacy httplimit.LegacyHeaders
	// CheckBudget is the decision budget of /v1/check; default the limiter's.
	CheckBudget time.Duration

	Logger *slog.Logger // default slog.Default
}

// WhoAsks returns cfg.Who with the keys of the keyring.
func (cfg *Config) WhoAsks() httplimit.Who {
	who := cfg.Who
	if who.Keys == nil && cfg.Keyring != nil {
		who.Keys = tiers.SubjectOf(cfg.Keyring)
	}
	return who
}

// gate returns the gate of /v1/check and /demo/data.
func (cfg *Config) gate() (*httplimit.Gate, error) {
	lim := cfg.Limiter
	if cfg.CheckBudget != 0 {
		var err error
		if lim, err = lim.WithBudget(cfg.CheckBudget); err != nil {
			return nil, err
		}
	}
	return httplimit.NewGate(lim, httplimit.Config{Who: cfg.WhoAsks(), Routes: cfg.Routes, Legacy: cfg.Legacy, Logger: cfg.Logger})
}

// Public returns the handler of the public listener.
func Public(cfg Config) (http.Handler, error) {
	r := newRouter(&cfg)
	gate, err := cfg.gate()
	if err != nil {
		return nil, err
	}
	r.Use((&checks{gate, cfg.Logger}).middleware)
	g := newGuard(&cfg)
	d := &decisions{lim: cfg.Limiter, load: cfg.Load, log: cfg.Logger, guard: g}
	allow := g.allow
	if cfg.Open {
		allow = func(...access.Right) func(http.Handler) http.Handler {
			return func(next http.Handler) http.Handler { return next }
		}
	}
	mount(r, cfg.Logger, allow, d.operations())
	mount(r, cfg.Logger, allow, cfg.Health.operations(false))
	mount(r, cfg.Logger, allow, documentOperations(publicListener))
	if cfg.Demo {
		r.With(gate.Wrap).Get("/demo/data", demoData)
	}
	return r, nil
}

type decisions struct {
	lim  *tierlimit.Limiter
	load *load.Controller
	log  *slog.Logger

	guard *guard
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
			method: http.MethodPost, path: "/v1/settle", id: "settle", summary: "Correct what a hold has charged to what it really cost, once", tag: tag,
			rights: decide, body: "Correction", answer: "Settlement", fails: down, serve: d.settle,
		},
		{
			method: http.MethodPost, path: "/v1/renew", id: "renew", summary: "Have a hold expire later", tag: tag,
			rights: decide, body: "Renewal", answer: "Renewed", fails: down, serve: d.renew,
		},
		{
			method: http.MethodGet, path: "/v1/usage/{subject}", id: "usage", summary: "Read every window of a subject's plan", tag: tag,
			rights: look, answer: "Usage", fails: append(down, http.StatusBadRequest), serve: d.usage,
		},
		{
			method: http.MethodGet, path: "/v1/usage", id: "own-usage", summary: "Read every window of one's own plan", tag: tag,
			byKey: true, answer: "Usage", fails: append(down, http.StatusBadRequest), serve: d.guard.own(d.ownUsage),
		},
		{
			method: http.MethodGet, path: "/v1/load", id: "load", summary: "How busy what is protected is, and what follows from it", tag: "Load",
			rights: look, answer: "LoadStatus", serve: d.getLoad,
		},
		{
			method: http.MethodPost, path: "/v1/load/report", id: "report-load", summary: "Tell how busy a protected service is", tag: "Load",
			rights: decide, body: "LoadReport", status: http.StatusNoContent, serve: d.reportLoad,
		},
	}
}

type takeBody struct {
	Subject string    `json:"subject"`
	Scope   string    `json:"scope"`
	Cost    *costJSON `json:"cost"` // absent: 1; 0 peeks
	Costs   costsJSON `json:"costs"`
	HoldMS  int64     `json:"hold_ms"` // absent or 0: no hold
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

// costsJSON maps limits to costs. Its decoding errors name the limit.
type costsJSON map[string]int64

func (c *costsJSON) UnmarshalJSON(data []byte) error {
	var texts map[string]json.RawMessage
	if err := json.Unmarshal(data, &texts); err != nil {
		return &tierlimit.FieldError{Field: "costs", Value: string(data), Want: `an object of costs by limit, such as {"tokens": 1200}`}
	}
	*c = make(costsJSON, len(texts))
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		n, err := strconv.ParseInt(string(texts[name]), 10, 64)
		if err != nil {
			return &tierlimit.FieldError{Field: "costs." + name, Value: string(texts[name]), Want: tierlimit.CostRule}
		}
		(*c)[name] = n
	}
	return nil
}

// holdOf returns the duration of a hold of ms milliseconds, or an error if out of range.
func holdOf(ms int64) (time.Duration, error) {
	if ms < tierlimit.MinHold.Milliseconds() || ms > tierlimit.MaxHold.Milliseconds() {
		return 0, &tierlimit.FieldError{Field: "hold_ms", Value: strconv.FormatInt(ms, 10), Want: "a whole number from 1000 to 3600000"}
	}
	return time.Duration(ms) * time.Millisecond, nil
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
	req := tierlimit.Request{Subject: body.Subject, Scope: body.Scope, Costs: body.Costs}
	if body.HoldMS != 0 {
		var err error
		if req.Hold, err = holdOf(body.HoldMS); err != nil {
			return err
		}
	}
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

type settleBody struct {
	ID    string    `json:"id"`
	Cost  *costJSON `json:"cost"` // absent: the charge stays
	Costs costsJSON `json:"costs"`
}

type settleAnswer struct {
	Settled bool           `json:"settled"`
	Limits  []settledLimit `json:"limits"`
	Unknown []string       `json:"unknown,omitempty"` // limits in costs that the hold did not charge
}

type settledLimit struct {
	Limit    string `json:"limit"`
	Estimate int64  `json:"estimate"`
	Cost     int64  `json:"cost"`
	Used     int64  `json:"used"`
	Ended    bool   `json:"ended,omitempty"`
}

// settle settles a hold and answers whether the hold was open. A hold that is settled or
// expired is not open.
func (d *decisions) settle(w http.ResponseWriter, r *http.Request) error {
	var body settleBody
	if err := decode(w, r, &body); err != nil {
		return err
	}
	cost := tierlimit.Keep
	switch {
	case body.Cost != nil && *body.Cost < 0: // which Keep is too
		return &tierlimit.FieldError{Field: "cost", Value: strconv.FormatInt(int64(*body.Cost), 10), Want: tierlimit.CostRule}
	case body.Cost != nil:
		cost = int64(*body.Cost)
	case len(body.Costs) == 0:
		return &tierlimit.FieldError{Field: "cost", Want: "given, or costs: what the request really cost; 0 gives everything back"}
	}
	settled, err := d.lim.Settle(r.Context(), body.ID, cost, body.Costs)
	if err != nil {
		return err
	}
	answer := settleAnswer{Settled: settled.Found, Limits: []settledLimit{}}
	for _, l := range settled.Limits {
		answer.Limits = append(answer.Limits, settledLimit{Limit: l.Limit, Estimate: l.Estimate, Cost: l.Cost, Used: l.Used, Ended: l.Ended})
	}
	for _, name := range slices.Sorted(maps.Keys(body.Costs)) {
		if settled.Found && !slices.ContainsFunc(settled.Limits, func(l tierlimit.SettledLimit) bool { return l.Limit == name }) {
			answer.Unknown = append(answer.Unknown, name)
		}
	}
	respond(w, http.StatusOK, answer)
	return nil
}

type renewBody struct {
	ID     string `json:"id"`
	HoldMS int64  `json:"hold_ms"`
}

type renewAnswer struct {
	Renewed bool `json:"renewed"`
}

// renew extends a hold and answers whether the hold was open.
func (d *decisions) renew(w http.ResponseWriter, r *http.Request) error {
	var body renewBody
	if err := decode(w, r, &body); err != nil {
		return err
	}
	hold, err := holdOf(body.HoldMS)
	if err != nil {
		return err
	}
	var answer renewAnswer
	if answer.Renewed, err = d.lim.Renew(r.Context(), body.ID, hold); err != nil {
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

// ownUsage answers a customer about its own usage.
func (d *decisions) ownUsage(w http.ResponseWriter, r *http.Request, subject string) error {
	if _, err := query(r); err != nil {
		return err
	}
	usage, err := d.lim.Usage(r.Context(), subject)
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

type loadReport struct {
	Source   string   `json:"source"`
	CPU      *float64 `json:"cpu"`
	Capacity *float64 `json:"capacity"`
}

// reportLoad takes the reading of a protected service. Redis has it a quarter of a second later.
func (d *decisions) reportLoad(w http.ResponseWriter, r *http.Request) error {
	var body loadReport
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if body.CPU == nil {
		return &tierlimit.FieldError{Field: "cpu", Want: "given: the part of the capacity that is used, from 0 to 1"}
	}
	if body.Capacity == nil {
		return &tierlimit.FieldError{Field: "capacity", Want: "given: the number of CPUs that the service may use"}
	}
	if err := d.load.Report(load.Reading{Source: body.Source, CPU: *body.CPU, Capacity: *body.Capacity}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
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
