package observe_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe"
	"github.com/tierlimit/tierlimit/observe/prom"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A store fails with err if that is set.
type store struct {
	*memstore.Store
	err error
}

func (s *store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if s.err != nil {
		return tierlimit.Outcome{}, s.err
	}
	return s.Store.Take(ctx, c)
}

func newLimiter(t *testing.T, s tierlimit.Store, observer tierlimit.Observer) *tierlimit.Limiter {
	t.Helper()
	minute := tierlimit.Window{Length: time.Minute}
	resolver, err := tiers.Static([]tiers.Tier{
		{Key: "free", Default: true, Limits: tiers.Limits{
			"per_minute": {Max: 5, Window: minute},
			"search":     {Max: 2, Window: minute, Scope: "search"},
			"trial":      {Max: 3, Window: minute, Shadow: true},
		}},
		{Key: "open", OnStoreError: tierlimit.Open, Limits: tiers.Limits{"per_minute": {Max: 5, Window: minute}}},
	}, func(subject string) string {
		if strings.HasPrefix(subject, "open") {
			return "open"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: s, Tiers: resolver, Observer: observer})
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

// countOf returns the count with these labels, and the sum of all.
func countOf(counts []observe.Count, labels ...string) (one, all uint64) {
	for _, c := range counts {
		all += c.Value
		if fmt.Sprint(c.Labels) == fmt.Sprint(labels) {
			one += c.Value
		}
	}
	return one, all
}

func TestEachDecisionIsCountedOnce(t *testing.T) {
	m := observe.New(observe.Config{})
	s := &store{Store: memstore.New(memstore.Config{})}
	lim := newLimiter(t, s, m)
	take := func(subject, scope string) {
		_, _ = lim.Take(t.Context(), tierlimit.Request{Subject: subject, Scope: scope, Cost: 1})
	}
	for range 7 { // 3 allowed, 2 in shadow, 2 denied
		take("a", "")
	}
	for range 3 { // 2 allowed, 1 denied
		take("b", "search")
	}
	if _, err := lim.Peek(t.Context(), tierlimit.Request{Subject: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: ""}); err == nil {
		t.Fatal("a malformed request was decided")
	}
	s.err = tierlimit.ErrStoreUnavailable
	take("open_1", "")
	take("d", "") // local without a LocalStore: closed
	s.err = fmt.Errorf("%w: late", tierlimit.ErrOverloaded)
	take("open_1", "")
	s.err = errors.New("WRONGTYPE")
	take("open_1", "")
	s.err = tierlimit.ErrStoreUnavailable
	ended, end := context.WithCancel(t.Context())
	end()
	_, _ = lim.Take(ended, tierlimit.Request{Subject: "open_1", Cost: 1})

	for _, c := range []struct {
		labels []string
		want   uint64
	}{
		{[]string{"free", "allowed", "ok", "memory"}, 5},
		{[]string{"free", "allowed", "shadow", "memory"}, 2},
		{[]string{"free", "denied", "exceeded", "memory"}, 3},
		{[]string{"free", "peeked", "ok", "memory"}, 1},
		{[]string{"open", "allowed", "store_down", "policy"}, 1},
		{[]string{"open", "denied", "store_down", "policy"}, 3},
		{[]string{"free", "denied", "store_down", "policy"}, 1},
	} {
		if got, _ := countOf(m.Decisions(), c.labels...); got != c.want {
			t.Errorf("%v: %d, want %d", c.labels, got, c.want)
		}
	}
	if _, all := countOf(m.Decisions()); all != 16 {
		t.Errorf("%d decisions, want 16: %v", all, m.Decisions())
	}
	for _, c := range []struct {
		labels []string
		want   uint64
	}{
		{[]string{"free", "per_minute", "exceeded"}, 2},
		{[]string{"free", "per_minute", "within"}, 9},
		{[]string{"free", "search", "exceeded"}, 1},
		{[]string{"free", "search", "within"}, 2},
		{[]string{"free", "trial", "shadow"}, 2},
	} {
		if got, _ := countOf(m.Limits(), c.labels...); got != c.want {
			t.Errorf("%v: %d, want %d", c.labels, got, c.want)
		}
	}
	for _, c := range []struct {
		labels []string
		want   uint64
	}{
		{[]string{"open", "store_unavailable"}, 1},
		{[]string{"closed", "store_unavailable"}, 1},
		{[]string{"closed", "overloaded"}, 1},
		{[]string{"closed", "store_refused"}, 1},
		{[]string{"closed", "caller_gave_up"}, 1},
	} {
		if got, _ := countOf(m.Degraded(), c.labels...); got != c.want {
			t.Errorf("%v: %d, want %d: %v", c.labels, got, c.want, m.Degraded())
		}
	}
}

// Of what is observed by the sixteenth, a decision on a guessed tier is observed each time, and
// counts once.
func TestADecisionOnAGuessedTierIsObservedOnce(t *testing.T) {
	m := observe.New(observe.Config{})
	plan, err := tierlimit.NewPlan(tierlimit.PlanConfig{Tier: "free", Fallback: true, Limits: []tierlimit.Limit{{Name: "l", Max: 5, Window: tierlimit.Window{Length: time.Minute}}}})
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: always{plan}, Observer: m})
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := countOf(m.Degraded(), "none", "tier_unknown"); got != 40 {
		t.Errorf("%d degraded", got)
	}
	if got, _ := countOf(m.Limits(), "free", "l", "exceeded"); got != 35 {
		t.Errorf("%d times exceeded", got)
	}
}

// always resolves everybody to one plan.
type always struct{ plan *tierlimit.Plan }

func (a always) Resolve(context.Context, string, time.Time) (*tierlimit.Plan, error) {
	return a.plan, nil
}

// Regression test: fifteen denials of a customer were shown as one.
func TestHoldsAreCounted(t *testing.T) {
	m := observe.New(observe.Config{})
	lim := newLimiter(t, memstore.New(memstore.Config{}), m)
	var ids []string
	for range 3 {
		d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_1", Cost: 1, Hold: time.Minute})
		if err != nil || d.ID == "" {
			t.Fatalf("%+v, %v", d, err)
		}
		ids = append(ids, d.ID)
	}
	if _, err := lim.Renew(t.Context(), ids[0], time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, cost := range []int64{2, 0} { // the second finds no hold
		if _, err := lim.Settle(t.Context(), ids[0], cost, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := lim.Settle(t.Context(), ids[1], 0, nil); err != nil {
		t.Fatal(err)
	}
	for event, want := range map[string]uint64{"opened": 3, "settled": 1, "given_back": 1, "renewed": 1, "missing": 1} {
		if got, _ := countOf(m.Holds(), event); got != want {
			t.Errorf("%s: %d, want %d", event, got, want)
		}
	}
}

func TestFewDenialsAreObservedOneByOne(t *testing.T) {
	s := observe.New(observe.Config{}).Series("t", "", []string{"l"})
	var few, all int64
	for i := range 200_000 {
		weight := s.Count(false, false, tierlimit.Exceeded, tierlimit.SourceDenyCache)
		if all += weight; i < 100 {
			few += weight
		}
	}
	if few != 100 || all < 190_000 || all > 210_000 {
		t.Errorf("%d of 100, %d of 200,000", few, all)
	}
}

// Operators make tiers and limits; a metric must not grow without bound all the same.
func TestSeriesAreBounded(t *testing.T) {
	m := observe.New(observe.Config{Series: 3})
	for i := range 100 {
		m.Series(fmt.Sprint("tier", i), "", []string{"l"}).Count(true, false, tierlimit.OK, tierlimit.SourceMemory)
	}
	if got, all := countOf(m.Decisions(), observe.Other, "allowed", "ok", "memory"); got != 97 || all != 100 {
		t.Errorf("%d of others, %d in all: %v", got, all, m.Decisions())
	}
	s := m.Series("tier0", "", nil)
	for i := range 100 {
		m.Series("tier0", "", []string{fmt.Sprint("limit", i)})
	}
	s.Count(true, false, tierlimit.OK, tierlimit.SourceMemory)
	if got := len(m.Limits()); got > 3*(64+2) {
		t.Errorf("%d counts of limits", got)
	}
}

// Prometheus takes a counter that falls for one that began anew. A decision is counted before its
// limit is.
func TestCountersNeverFall(t *testing.T) {
	m := observe.New(observe.Config{})
	s := m.Series("t", "", []string{"l"})
	within := func() uint64 {
		got, _ := countOf(m.Limits(), "t", "l", "within")
		return got
	}
	for range 3 {
		s.Count(true, false, tierlimit.OK, tierlimit.SourceMemory)
	}
	s.Count(false, false, tierlimit.Exceeded, tierlimit.SourceMemory)
	before := within() // between the two
	s.Observe(tierlimit.Observation{Reason: tierlimit.Exceeded, Source: tierlimit.SourceMemory, Limit: "l", Weight: 1})
	if after := within(); after < before {
		t.Errorf("fell from %d to %d", before, after)
	}
	for range 3 {
		s.Count(true, false, tierlimit.OK, tierlimit.SourceMemory)
	}
	if got := within(); got != 6 {
		t.Errorf("%d", got)
	}
}

func TestPrometheusSeesWhatWasCounted(t *testing.T) {
	var denied []string
	c := prom.New(prom.Config{Denied: func(tier string, o *tierlimit.Observation) {
		denied = append(denied, tier+" "+o.Subject+" "+o.Limit)
	}})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	lim := newLimiter(t, memstore.New(memstore.Config{}), c)
	for range 6 {
		if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	want := `
# HELP tierlimit_decisions_total Decisions, whatever answered them.
# TYPE tierlimit_decisions_total counter
tierlimit_decisions_total{outcome="allowed",reason="ok",source="memory",tier="free"} 3
tierlimit_decisions_total{outcome="allowed",reason="shadow",source="memory",tier="free"} 2
tierlimit_decisions_total{outcome="denied",reason="exceeded",source="memory",tier="free"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "tierlimit_decisions_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if len(denied) != 1 || denied[0] != "free a per_minute" {
		t.Errorf("denied: %v", denied)
	}
}
