package tierlimit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// A world is a limiter and everything around it that a test may turn.
type world struct {
	*testing.T
	lim   *tierlimit.Limiter
	now   time.Time
	plan  *tierlimit.Plan
	load  float64
	fail  error
	store *memstore.Store

	replicas int
}

func (w *world) Resolve(context.Context, string, time.Time) (*tierlimit.Plan, error) {
	if w.plan == nil {
		return nil, tierlimit.ErrNoPlan
	}
	return w.plan, nil
}

func (w *world) Multiplier(string) float64 { return w.load }

func (w *world) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if w.fail != nil {
		return tierlimit.Outcome{}, w.fail
	}
	return w.store.Take(ctx, c)
}

func (w *world) Reset(ctx context.Context, subject string, limits ...string) error {
	if w.fail != nil {
		return w.fail
	}
	return w.store.Reset(ctx, subject, limits...)
}

func (w *world) Settle(ctx context.Context, c tierlimit.Correction) (tierlimit.Settlement, error) {
	if w.fail != nil {
		return tierlimit.Settlement{}, w.fail
	}
	return w.store.Settle(ctx, c)
}

func (w *world) Renew(ctx context.Context, r tierlimit.Renewal) (bool, error) {
	if w.fail != nil {
		return false, w.fail
	}
	return w.store.Renew(ctx, r)
}

func (w *world) Holds(ctx context.Context, subject string) ([]tierlimit.OpenHold, error) {
	return w.store.Holds(ctx, subject)
}

func newPlan(t *testing.T, cfg tierlimit.PlanConfig) *tierlimit.Plan {
	t.Helper()
	p, err := tierlimit.NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// on puts everybody on a tier with these limits.
func (w *world) on(tier string, limits ...tierlimit.Limit) {
	w.Helper()
	w.plan = newPlan(w.T, tierlimit.PlanConfig{Tier: tier, Limits: limits})
}

// without takes the store away, for plans of this policy.
func (w *world) without(policy tierlimit.Policy, fail error) {
	w.Helper()
	cfg := w.plan.Config()
	cfg.OnStoreError = policy
	w.plan, w.fail = newPlan(w.T, cfg), fail
}

func newWorld(t *testing.T, limits ...tierlimit.Limit) *world {
	t.Helper()
	w := &world{T: t, now: noon, load: 1, replicas: 2, plan: newPlan(t, tierlimit.PlanConfig{Tier: "free", Limits: limits})}
	w.store = memstore.New(memstore.Config{Now: func() time.Time { return w.now }})
	local := memstore.New(memstore.Config{Now: func() time.Time { return w.now }})
	var err error
	w.lim, err = tierlimit.New(tierlimit.Config{Store: w, Tiers: w, Load: w, Local: local, Replicas: func() int { return w.replicas }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) take(req tierlimit.Request) tierlimit.Decision {
	w.Helper()
	if req.Subject == "" {
		req.Subject = "acct_42"
	}
	d, err := w.lim.Take(w.Context(), req)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func cost(n int64) tierlimit.Request { return tierlimit.Request{Cost: n} }

func perMinute(most int64) tierlimit.Limit {
	return tierlimit.Limit{Name: "per_minute", Max: most, Window: tierlimit.Window{Length: time.Minute}, Adaptive: true, From: tierlimit.FromTier}
}

func perDay(most int64) tierlimit.Limit {
	return tierlimit.Limit{Name: "per_day", Max: most, Window: tierlimit.Window{Period: tierlimit.Day}, From: tierlimit.FromTier}
}

func TestADecisionSaysEverything(t *testing.T) {
	w := newWorld(t, perDay(1000), perMinute(5))
	w.take(cost(2))
	w.now = noon.Add(10 * time.Second)
	got := w.take(tierlimit.Request{Scope: "search"})
	want := tierlimit.Decision{
		Allowed: true, Reason: tierlimit.OK, Subject: "acct_42", Tier: "free", Scope: "search", Limit: "per_minute",
		Multiplier: 1, Source: tierlimit.SourceMemory,
		Windows: []tierlimit.WindowState{
			{Limit: "per_day", Max: 1000, EffectiveMax: 1000, Used: 3, Remaining: 997, Reset: 12*time.Hour - 10*time.Second, Window: tierlimit.Window{Period: tierlimit.Day}, From: "tier"},
			{Limit: "per_minute", Max: 5, EffectiveMax: 5, Used: 3, Remaining: 2, Reset: 50 * time.Second, Window: tierlimit.Window{Length: time.Minute}, From: "tier"},
		},
	}
	if got, want := string(got.AppendJSON(nil)), string(want.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDenials(t *testing.T) {
	minute, hour := perMinute(10), tierlimit.Limit{Name: "per_hour", Max: 20, Window: tierlimit.Window{Length: time.Hour}, Adaptive: true}
	for name, c := range map[string]struct {
		used   int64
		later  time.Duration
		load   float64
		cost   int64
		reason tierlimit.Reason
		limit  string
		retry  time.Duration
	}{
		"the max is reached":                       {10, 20 * time.Second, 1, 1, tierlimit.Exceeded, "per_minute", 40 * time.Second},
		"the cost is above the max":                {0, 0, 1, 11, tierlimit.CostTooLarge, "per_minute", 0},
		"the cost is above two maxes":              {0, 0, 1, 21, tierlimit.CostTooLarge, "per_hour", 0},
		"only load denies":                         {6, 30 * time.Second, 0.5, 1, tierlimit.LoadScaled, "per_minute", 30 * time.Second},
		"load leaves too little in a fresh window": {0, 0, 0.5, 6, tierlimit.LoadScaled, "per_minute", time.Second},
		"of two that load fills, the later one":    {6, 30 * time.Second, 0.25, 1, tierlimit.LoadScaled, "per_hour", time.Hour - 30*time.Second},
		"a reached max before a scaled one":        {10, 30 * time.Second, 0.25, 1, tierlimit.Exceeded, "per_minute", 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, hour, minute)
			if c.used > 0 {
				w.take(cost(c.used))
			}
			w.now, w.load = noon.Add(c.later), c.load
			before := w.take(tierlimit.Request{Subject: "somebody_else"})
			d := w.take(cost(c.cost))
			if d.Allowed || d.Reason != c.reason || d.Limit != c.limit || d.RetryAfter != c.retry {
				t.Errorf("allowed %v, %s by %s, retry in %v; want %s by %s, %v", d.Allowed, d.Reason, d.Limit, d.RetryAfter, c.reason, c.limit, c.retry)
			}
			if d.Windows[1].Used != c.used {
				t.Errorf("a denial left %d used of %d", d.Windows[1].Used, c.used)
			}
			if !before.Allowed {
				t.Error("somebody else was denied")
			}
		})
	}
}

func TestAMaxOf0IsAnAnswerAndNotAnOutage(t *testing.T) {
	w := newWorld(t, perMinute(0))
	d := w.take(cost(1))
	if d.Allowed || d.Reason != tierlimit.CostTooLarge || d.RetryAfter != 0 {
		t.Errorf("%+v", d)
	}
}

func TestUnlimitedNeverDeniesAndCounts(t *testing.T) {
	w := newWorld(t, perMinute(tierlimit.Unlimited))
	w.load = 0.1
	for range 100 {
		if d := w.take(cost(1)); !d.Allowed || d.Windows[0].Remaining != tierlimit.Unlimited || d.Limit != "" {
			t.Fatalf("%+v", d)
		}
	}
	if d := w.take(cost(1)); d.Windows[0].Used != 101 {
		t.Errorf("used %d", d.Windows[0].Used)
	}
}

func TestLoadScalesAdaptiveLimitsOnly(t *testing.T) {
	for _, c := range []struct {
		load float64
		max  int64
		want int64
	}{
		{1, 100, 100},
		{0.5, 100, 50},
		{0.55, 100, 55},
		{0.29, 100, 29},
		{0.1, 5, 1},
		{0.001, 1, 1},
		{0.5, 0, 0},
		{2, 100, 100},
		{math.NaN(), 100, 100},
		{-1, 100, 1},
		{0.1, tierlimit.Unlimited, tierlimit.Unlimited},
	} {
		w := newWorld(t, perDay(c.max), perMinute(c.max))
		w.load = c.load
		d, err := w.lim.Peek(t.Context(), tierlimit.Request{Subject: "acct_42"})
		if err != nil || d.Windows[1].EffectiveMax != c.want || d.Windows[1].Max != c.max || d.Windows[0].EffectiveMax != c.max {
			t.Errorf("%v of %d: %+v, %v; want %d, and the daily one whole", c.load, c.max, d.Windows, err, c.want)
		}
	}
}

func TestFallingLoadLetsPassAtOnce(t *testing.T) {
	w := newWorld(t, perMinute(10))
	w.load = 0.5
	w.take(cost(5))
	if d := w.take(cost(1)); d.Allowed || d.Multiplier != 0.5 || d.Windows[0].Remaining != 0 {
		t.Errorf("under load: %+v", d)
	}
	w.load = 1
	if d := w.take(cost(1)); !d.Allowed || d.Windows[0].Used != 6 {
		t.Errorf("after it: %+v", d)
	}
}

// A plan change acts on the next request and keeps usage: GCRA, which holds no
// count, cannot.
func TestAPlanChangeActsAtOnceAndKeepsUsage(t *testing.T) {
	w := newWorld(t, perMinute(5))
	w.take(cost(5))
	if d := w.take(cost(1)); d.Allowed {
		t.Fatalf("%+v", d)
	}
	w.on("pro", perMinute(100))
	if d := w.take(cost(1)); !d.Allowed || d.Tier != "pro" || d.Windows[0].Used != 6 || d.Windows[0].Remaining != 94 {
		t.Errorf("upgraded: %+v", d)
	}
	w.on("free", perMinute(5))
	if d := w.take(cost(1)); d.Allowed || d.Windows[0].Used != 6 || d.Windows[0].Remaining != 0 {
		t.Errorf("downgraded: %+v", d)
	}
}

func TestScopes(t *testing.T) {
	search, exports := perMinute(2), perMinute(1)
	search.Name, search.Scope = "search", "search"
	exports.Name, exports.Scope = "exports", "exports"
	w := newWorld(t, exports, perMinute(10), search)
	names := func(d tierlimit.Decision) (s string) {
		for _, x := range d.Windows {
			s += fmt.Sprintf("%s=%d ", x.Limit, x.Used)
		}
		return s
	}
	for _, c := range []struct {
		scope   string
		allowed bool
		windows string
	}{
		{"", true, "per_minute=1 "},
		{"search", true, "per_minute=2 search=1 "},
		{"search", true, "per_minute=3 search=2 "},
		{"search", false, "per_minute=3 search=2 "},
		{"exports", true, "exports=1 per_minute=4 "},
		{"nosuch", true, "per_minute=5 "},
	} {
		if d := w.take(tierlimit.Request{Scope: c.scope}); d.Allowed != c.allowed || names(d) != c.windows {
			t.Errorf("scope %q: %v %s, want %v %s", c.scope, d.Allowed, names(d), c.allowed, c.windows)
		}
	}
	u, err := w.lim.Usage(t.Context(), "acct_42")
	if err != nil || len(u.Windows) != 3 || u.Windows[0].Used != 1 || u.Windows[1].Used != 5 || u.Windows[2].Used != 2 {
		t.Errorf("usage: %+v, %v", u, err)
	}
	if err := w.lim.Reset(t.Context(), "acct_42", "search"); err != nil {
		t.Fatal(err)
	}
	if d := w.take(tierlimit.Request{Scope: "search"}); names(d) != "per_minute=6 search=1 " {
		t.Errorf("after a reset of search: %s", names(d))
	}
	w.on("scoped", search)
	if d := w.take(tierlimit.Request{}); !d.Allowed || len(d.Windows) != 0 {
		t.Errorf("no limit guards the request: %+v", d)
	}
}

func TestPeekChargesNothing(t *testing.T) {
	w := newWorld(t, perMinute(5))
	w.take(cost(4))
	for range 3 {
		for n, allowed := range map[int64]bool{0: true, 1: true, 2: false, 6: false} {
			d, err := w.lim.Peek(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: n})
			if err != nil || d.Allowed != allowed || d.Windows[0].Used != 4 {
				t.Errorf("peek of %d: %+v, %v", n, d, err)
			}
		}
	}
}

func TestMalformedRequestsNameTheField(t *testing.T) {
	w := newWorld(t, perMinute(5))
	for field, requests := range map[string][]tierlimit.Request{
		"subject": {{}, {Subject: strings.Repeat("x", 257)}, {Subject: "a\nb"}, {Subject: "a\x00"}, {Subject: "\xff"}, {Subject: "a\ufffd"}},
		"cost":    {{Subject: "a", Cost: -1}, {Subject: "a", Cost: tierlimit.MaxCount + 1}, {Subject: "a", Cost: math.MinInt64}},
		"scope":   {{Subject: "a", Scope: "A"}, {Subject: "a", Scope: "a b"}, {Subject: "a", Scope: strings.Repeat("x", 65)}, {Subject: "a", Scope: `a"`}},
	} {
		for _, req := range requests {
			d, err := w.lim.Take(t.Context(), req)
			var wrong *tierlimit.FieldError
			if !errors.As(err, &wrong) || wrong.Field != field || d.Allowed || len(err.Error()) > 300 {
				t.Errorf("%.40q %d: %+v, %.300v; want an error that names %s", req.Subject, req.Cost, d, err, field)
			}
		}
	}
}

func TestThePolicyAnswersWhenTheStoreCannot(t *testing.T) {
	down := fmt.Errorf("dial: %w", tierlimit.ErrStoreUnavailable)
	for name, c := range map[string]struct {
		policy  tierlimit.Policy
		fail    error
		allowed bool
		source  tierlimit.Source
	}{
		"open":                             {tierlimit.Open, down, true, tierlimit.SourcePolicy},
		"closed":                           {tierlimit.Closed, down, false, tierlimit.SourcePolicy},
		"local":                            {tierlimit.Local, down, true, tierlimit.SourceMemory},
		"none named is local":              {"", down, true, tierlimit.SourceMemory},
		"open does not open up on a fault": {tierlimit.Open, errors.New("WRONGTYPE"), false, tierlimit.SourcePolicy},
		"nor does local":                   {tierlimit.Local, errors.New("NOPERM"), false, tierlimit.SourcePolicy},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, perMinute(5))
			w.without(c.policy, c.fail)
			d, err := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
			if !errors.Is(err, c.fail) || d.Allowed != c.allowed || !d.Degraded || d.Source != c.source || d.Tier != "free" {
				t.Errorf("%+v, %v", d, err)
			}
			if !d.Allowed && (d.Reason != tierlimit.StoreDown || d.RetryAfter <= 0) {
				t.Errorf("a client is told %s and to retry in %v", d.Reason, d.RetryAfter)
			}
		})
	}
}

func TestLocalCountsAShareOfTheMax(t *testing.T) {
	w := newWorld(t, perMinute(10)) // of two replicas
	w.fail = tierlimit.ErrStoreUnavailable
	allowed := 0
	for range 20 {
		d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
		if d.Allowed {
			allowed++
		}
		if w := d.Windows[0]; w.EffectiveMax != 5 || w.Max != 10 {
			t.Fatalf("%+v", w)
		}
	}
	if allowed != 5 {
		t.Errorf("%d allowed by one of two replicas, want 5", allowed)
	}
	d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
	if d.Reason != tierlimit.Exceeded || d.RetryAfter != time.Minute {
		t.Errorf("past the share: %s, retry in %v", d.Reason, d.RetryAfter)
	}
	d, _ = w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 11})
	if d.Reason != tierlimit.CostTooLarge || d.RetryAfter != 0 {
		t.Errorf("a cost the plan never allows: %s, retry in %v", d.Reason, d.RetryAfter)
	}
}

// With four replicas a cost of 5 under a max of 10 was "too large", and for ever.
func TestLocalTellsWhenToComeBackForACostThatNoShareAllows(t *testing.T) {
	w := newWorld(t, perMinute(10))
	w.replicas, w.fail = 4, tierlimit.ErrStoreUnavailable
	d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 5})
	if d.Allowed || d.Reason != tierlimit.StoreDown || d.RetryAfter != time.Second {
		t.Errorf("%+v", d)
	}
	d, _ = w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 2})
	if !d.Allowed || d.Windows[0].EffectiveMax != 2 {
		t.Errorf("a quarter of the max: %+v", d)
	}
}

// max(1, share): else a small max denies everybody while Redis is away.
func TestLocalGrantsAtLeastOne(t *testing.T) {
	w := newWorld(t, perMinute(2))
	w.replicas, w.fail = 3, tierlimit.ErrStoreUnavailable
	for i, want := range []bool{true, false} {
		if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); d.Allowed != want {
			t.Errorf("request %d: %+v", i+1, d)
		}
	}
}

// A customer who had used the quota up got a share of a fresh one with each outage.
func TestLocalBeginsAtTheCountsLastSeen(t *testing.T) {
	w := newWorld(t, perMinute(10))
	w.take(cost(10))
	w.take(tierlimit.Request{Subject: "acct_6", Cost: 6})
	w.fail = tierlimit.ErrStoreUnavailable
	d, err := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
	if d.Allowed || d.Reason != tierlimit.Exceeded || !d.Degraded || err == nil || d.Windows[0].Used != 10 || d.RetryAfter != time.Minute {
		t.Errorf("of 10 of 10: %+v, %v", d, err)
	}
	for i, want := range []bool{true, true, false} { // of the 4 that are left, one of two replicas grants 2
		d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_6"})
		if d.Allowed != want || d.Windows[0].EffectiveMax != 8 || d.Windows[0].Max != 10 {
			t.Errorf("request %d: %+v", i+1, d)
		}
	}
	w.now = noon.Add(time.Minute)
	if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); !d.Allowed || d.Windows[0].Used != 1 {
		t.Errorf("in the next window: %+v", d)
	}
}

// Whatever a resolver does wrong is an error of the server: no panic, no 400 for the
// client, nobody else's plan, and nothing that is allowed.
func TestAResolversMistakeIsNotTheCallersFault(t *testing.T) {
	for name, resolve := range map[string]func() (*tierlimit.Plan, error){
		"no plan and no error":          func() (*tierlimit.Plan, error) { return nil, nil },
		"a plan that NewPlan never saw": func() (*tierlimit.Plan, error) { return &tierlimit.Plan{}, nil },
		"a FieldError": func() (*tierlimit.Plan, error) {
			return nil, fmt.Errorf("look-up: %w", &tierlimit.FieldError{Field: "subject", Value: "x", Want: "y"})
		},
	} {
		lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolverFunc(resolve)})
		if err != nil {
			t.Fatal(err)
		}
		d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
		var field *tierlimit.FieldError
		if err == nil || errors.As(err, &field) || d.Allowed || d.Reason != tierlimit.StoreDown || !d.Degraded {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if _, err := lim.Usage(t.Context(), "acct_42"); err == nil || errors.As(err, &field) {
			t.Errorf("%s: usage: %v", name, err)
		}
	}
}

type resolverFunc func() (*tierlimit.Plan, error)

func (f resolverFunc) Resolve(context.Context, string, time.Time) (*tierlimit.Plan, error) {
	return f()
}

func TestNewPlanNamesWhatIsWrong(t *testing.T) {
	many := make([]tierlimit.Limit, tierlimit.MaxLimits+1)
	for i := range many {
		many[i] = perMinute(5)
		many[i].Name = fmt.Sprint("limit_", i)
	}
	for field, cfg := range map[string]tierlimit.PlanConfig{
		"limits":                     {Limits: many},
		"limits.per_minute.max":      {Limits: []tierlimit.Limit{perMinute(-2)}},
		"limits.per_day.window":      {Limits: []tierlimit.Limit{{Name: "per_day", Max: 1}}},
		"limits.per_day.adaptive":    {Limits: []tierlimit.Limit{{Name: "per_day", Max: 1, Window: tierlimit.Window{Length: time.Hour + time.Millisecond}, Adaptive: true}}},
		"limits.per day.name":        {Limits: []tierlimit.Limit{{Name: "per day", Max: 1, Window: tierlimit.Window{Length: time.Hour}}}},
		"limits.per_month.algorithm": {Limits: []tierlimit.Limit{{Name: "per_month", Window: tierlimit.Window{Period: tierlimit.Month}, Algorithm: tierlimit.Sliding}}},
		"priority":                   {Priority: tierlimit.MaxPriority + 1},
		"on_store_error":             {OnStoreError: "maybe"},
		"refusal":                    {Refusal: tierlimit.Exceeded},
	} {
		var wrong *tierlimit.FieldError
		if _, err := tierlimit.NewPlan(cfg); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := tierlimit.NewPlan(tierlimit.PlanConfig{Limits: []tierlimit.Limit{perMinute(5), perMinute(6)}}); err == nil {
		t.Error("two limits of one name")
	}
	hour := tierlimit.Limit{Name: "per_hour", Max: 1, Window: tierlimit.Window{Length: time.Hour}, Adaptive: true}
	if _, err := tierlimit.NewPlan(tierlimit.PlanConfig{Limits: []tierlimit.Limit{hour}}); err != nil {
		t.Errorf("adaptive by exactly the hour: %v", err)
	}
}

// A plan that was changed after its first decision went on with its old limits.
func TestAPlanDoesNotChange(t *testing.T) {
	limits := []tierlimit.Limit{perMinute(5)}
	w := newWorld(t, limits...)
	limits[0].Max = 500
	w.plan.Config().Limits[0].Max = 500
	if d := w.take(cost(1)); d.Windows[0].Max != 5 || w.plan.Config().Limits[0].Max != 5 {
		t.Errorf("%+v", d)
	}
}

func TestNewCeilingsRefusesWhatNoStoreShouldSee(t *testing.T) {
	minute := tierlimit.Window{Length: time.Minute}
	for name, list := range map[string][]tierlimit.Ceiling{
		"none":                {},
		"a negative max":      {{Name: "a", Max: -2, Window: minute}},
		"a huge max":          {{Name: "a", Max: math.MaxInt64, Window: minute}},
		"no window":           {{Name: "a", Max: 1}},
		"a negative window":   {{Name: "a", Max: 1, Window: tierlimit.Window{Length: -time.Second}}},
		"part of a ms":        {{Name: "a", Max: 1, Window: tierlimit.Window{Length: 1500 * time.Microsecond}}},
		"an unknown period":   {{Name: "a", Max: 1, Window: tierlimit.Window{Period: "year"}}},
		"a sliding period":    {{Name: "a", Max: 1, Window: tierlimit.Window{Period: tierlimit.Day}, Sliding: true}},
		"the same name twice": {{Name: "a", Max: 1, Window: minute}, {Name: "a", Max: 1, Window: minute}},
		"names out of order":  {{Name: "b", Max: 1, Window: minute}, {Name: "a", Max: 1, Window: minute}},
		"a name with spaces":  {{Name: "a b", Max: 1, Window: minute}},
	} {
		if _, err := tierlimit.NewCeilings(list...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestACallerWhoIsGoneIsNotLetThrough(t *testing.T) {
	w := newWorld(t, perMinute(5))
	w.without(tierlimit.Open, tierlimit.ErrStoreUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := w.lim.Take(ctx, tierlimit.Request{Subject: "acct_42"}); d.Allowed || err == nil {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestWithoutAPlanNothingIsAllowed(t *testing.T) {
	w := newWorld(t)
	w.plan = nil
	d, err := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
	if !errors.Is(err, tierlimit.ErrNoPlan) || d.Allowed || !d.Degraded {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	for field, cfg := range map[string]tierlimit.Config{
		"Store":  {Tiers: w},
		"Tiers":  {Store: w},
		"Budget": {Store: w, Tiers: w, Budget: time.Microsecond},
	} {
		var wrong *tierlimit.FieldError
		if _, err := tierlimit.New(cfg); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// asking is a store that remembers what it was asked, and answers as it is told.
type asking struct {
	*memstore.Store
	charges []tierlimit.Charge
	answer  func(tierlimit.Outcome) tierlimit.Outcome
}

func (a *asking) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	a.charges = append(a.charges, c)
	o, err := a.Store.Take(ctx, c)
	if a.answer != nil {
		o = a.answer(o)
	}
	return o, err
}

func newAsking(t *testing.T, cfg tierlimit.PlanConfig) (*asking, *tierlimit.Limiter) {
	t.Helper()
	a, plan := &asking{Store: memstore.New(memstore.Config{})}, newPlan(t, cfg)
	lim, err := tierlimit.New(tierlimit.Config{Store: a, Tiers: resolverFunc(func() (*tierlimit.Plan, error) { return plan, nil })})
	if err != nil {
		t.Fatal(err)
	}
	return a, lim
}

func TestAStoreIsGivenTheSoonerDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, lim := newAsking(t, tierlimit.PlanConfig{Limits: []tierlimit.Limit{perMinute(5)}})
		for caller, want := range map[time.Duration]time.Duration{
			0: tierlimit.DefaultBudget, 5 * time.Millisecond: 5 * time.Millisecond, time.Hour: tierlimit.DefaultBudget,
		} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if caller > 0 {
				ctx, cancel = context.WithTimeout(ctx, caller)
			}
			if _, err := lim.Take(ctx, tierlimit.Request{Subject: "acct_42"}); err != nil {
				t.Fatal(err)
			}
			cancel()
			if got := time.Until(a.charges[len(a.charges)-1].Deadline); got != want {
				t.Errorf("with %v of the caller's the store has %v, want %v", caller, got, want)
			}
		}
	})
}

func TestAStoreIsToldWhomNobodyKnows(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		a, lim := newAsking(t, tierlimit.PlanConfig{Limits: []tierlimit.Limit{perMinute(5)}, Unknown: unknown})
		if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); err != nil || a.charges[0].Unknown != unknown {
			t.Errorf("unknown %v: %+v, %v", unknown, a.charges, err)
		}
	}
}

func TestADecisionOnAGuessedTierSaysSo(t *testing.T) {
	_, lim := newAsking(t, tierlimit.PlanConfig{Limits: []tierlimit.Limit{perMinute(5)}, Fallback: true})
	if d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); err != nil || !d.Allowed || !d.Degraded {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestWhatTheStoreDidNotChargeIsNotAllowed(t *testing.T) {
	a, lim := newAsking(t, tierlimit.PlanConfig{Limits: []tierlimit.Limit{perMinute(5)}})
	a.answer = func(o tierlimit.Outcome) tierlimit.Outcome {
		o.Allowed = false
		return o
	}
	if d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); err != nil || d.Allowed || d.Reason != tierlimit.Exceeded {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestAResetHoldsInAnOutageToo(t *testing.T) {
	w := newWorld(t, perMinute(10))
	w.take(cost(10))
	if err := w.lim.Reset(t.Context(), "acct_42"); err != nil {
		t.Fatal(err)
	}
	w.fail = tierlimit.ErrStoreUnavailable
	if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); !d.Allowed || d.Windows[0].Used != 1 {
		t.Errorf("%+v", d)
	}
}

// A share of a max is what the policy header tells, too; and a limit in shadow mode shows
// that it is exceeded, also without the store.
func TestADecisionOfThisProcessAloneTellsItsShare(t *testing.T) {
	shadow := perDay(1)
	shadow.Shadow = true
	w := newWorld(t, shadow, perMinute(10))
	w.fail = tierlimit.ErrStoreUnavailable
	d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
	if got := d.RateLimitPolicy(); got != `"per_minute";q=5;w=60` {
		t.Errorf("the policy is %s", got)
	}
	if d, _ = w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); !d.Allowed || d.Reason != tierlimit.Shadowed || d.Limit != "per_day" {
		t.Errorf("a limit in shadow mode past its max: %+v", d)
	}
	w.fail = nil
	if d := w.take(cost(1)); d.RateLimitPolicy() != `"per_minute";q=10;w=60` {
		t.Errorf("the policy is %s", d.RateLimitPolicy())
	}
}

// One limit is full, and another limit is smaller than the cost: the request never fits, so
// the decision gives no time to come back.
func TestACostThatNeverFitsIsNotToldToComeBack(t *testing.T) {
	small := tierlimit.Limit{Name: "per_hour", Max: 3, Window: tierlimit.Window{Length: time.Hour}}
	w := newWorld(t, small, perMinute(10))
	w.take(cost(3))
	if d := w.take(cost(8)); d.Reason != tierlimit.CostTooLarge || d.Limit != "per_hour" || d.RetryAfter != 0 {
		t.Errorf("%+v", d)
	}
}

func TestNames(t *testing.T) {
	for name, valid := range map[string]bool{
		"a": true, "9": true, "per_minute": true, "per-minute": true, strings.Repeat("x", 64): true,
		"": false, "_a": false, "-a": false, "A": false, "a b": false, "a.b": false, "ü": false, strings.Repeat("x", 65): false,
	} {
		if tierlimit.ValidName(name) != valid {
			t.Errorf("%q: %v", name, !valid)
		}
	}
}

func TestCeilingsThatDifferAreNotEqual(t *testing.T) {
	month := tierlimit.Window{Period: tierlimit.Month}
	list := []tierlimit.Ceiling{
		{Name: "a", Max: 1, Window: month},
		{Name: "a", Max: 1, Window: tierlimit.Window{Period: tierlimit.Month, Anchor: 86_400_000}},
		{Name: "a", Max: 2, Window: month},
		{Name: "a", Max: tierlimit.Unlimited, Window: month},
		{Name: "b", Max: 1, Window: month},
		{Name: "a", Max: 1, Window: tierlimit.Window{Period: tierlimit.Week}},
		{Name: "a", Max: 1, Window: tierlimit.Window{Length: time.Minute}},
		{Name: "a", Max: 1, Window: tierlimit.Window{Length: time.Minute}, Sliding: true},
	}
	for i := range list {
		for j := range list {
			a, err := tierlimit.NewCeilings(list[i])
			if err != nil {
				t.Fatal(err)
			}
			b, err := tierlimit.NewCeilings(list[j])
			if err != nil {
				t.Fatal(err)
			}
			if a.Equal(b) != (i == j) {
				t.Errorf("%+v and %+v: equal %v", list[i], list[j], i != j)
			}
		}
	}
}

// A client chooses its own deadline: one that has passed lets nobody through, whatever the
// policy, and opens no way around a quota that is used up.
func TestACallersOwnDeadlineIsNotAnsweredByThePolicy(t *testing.T) {
	for _, policy := range []tierlimit.Policy{tierlimit.Open, tierlimit.Closed, tierlimit.Local} {
		w := newWorld(t, perMinute(5))
		w.without(policy, fmt.Errorf("no reply: %w: %w", tierlimit.ErrStoreUnavailable, context.DeadlineExceeded))
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		d, err := w.lim.Take(ctx, tierlimit.Request{Subject: "acct_42"})
		cancel()
		if d.Allowed || err == nil || d.Source != tierlimit.SourcePolicy {
			t.Errorf("%s: %+v, %v", policy, d, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		d, _ = w.lim.Take(ctx, tierlimit.Request{Subject: "acct_42"})
		cancel()
		if d.Allowed != (policy != tierlimit.Closed) {
			t.Errorf("%s, of a store that is away: %+v", policy, d)
		}
	}
}

// What one process grants by itself is not in the store: each time a store that comes and
// goes answered, it granted as much again.
func TestAStoreThatComesAndGoesGrantsNoShareTwice(t *testing.T) {
	for replicas, most := range map[int]int{1: 200, 4: 125} {
		w := newWorld(t, perDay(100))
		w.replicas = replicas
		admitted := 0
		for range 100 {
			for i := range 20 {
				w.fail = nil
				if i > 0 {
					w.fail = tierlimit.ErrStoreUnavailable
				}
				if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); d.Allowed {
					admitted++
				}
			}
		}
		if admitted > most || admitted < 100 {
			t.Errorf("%d replicas: one of them admitted %d", replicas, admitted)
		}
	}
}

// What an administrator asks about another plan is not what the customer has.
func TestADryRunLeavesWhatLocalKnowsAlone(t *testing.T) {
	w := newWorld(t, perDay(10))
	w.take(cost(10))
	short := perDay(10)
	short.Window = tierlimit.Window{Length: time.Minute}
	if _, err := w.lim.UsageUnder(t.Context(), "acct_42", newPlan(t, tierlimit.PlanConfig{Tier: "x", Limits: []tierlimit.Limit{short}})); err != nil {
		t.Fatal(err)
	}
	w.now, w.fail = noon.Add(2*time.Minute), tierlimit.ErrStoreUnavailable
	if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); d.Allowed {
		t.Errorf("%+v", d)
	}
}

func TestAnErrorThatHidesAFieldErrorKeepsWhatItIs(t *testing.T) {
	field := &tierlimit.FieldError{Field: "subject", Value: "x", Want: "y"}
	w := newWorld(t, perMinute(5))
	w.without(tierlimit.Open, fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, field))
	d, err := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
	var shown *tierlimit.FieldError
	if !d.Allowed || !errors.Is(err, tierlimit.ErrStoreUnavailable) || errors.As(err, &shown) {
		t.Errorf("%+v, %v", d, err)
	}
}
