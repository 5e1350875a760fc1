package httplimit_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load/guard"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A guarded handler is on a clock of the test's, and its process waits for a processor as the test
// says.
type guarded struct {
	*testing.T
	guard *guard.Guard
	now   time.Time
	wait  time.Duration
	taken atomic.Int64 // requests that reached the store
	h     http.Handler
}

func newGuarded(t *testing.T, h http.HandlerFunc, change func(*httplimit.Config)) *guarded {
	t.Helper()
	g := &guarded{T: t, now: noon}
	g.guard = guard.New(guard.Config{Now: func() time.Time { return g.now }, Wait: func() (time.Duration, bool) { return g.wait, true }})
	resolver, err := tiers.Static(tiers.Builtin(), func(subject string) string {
		tier, _, _ := strings.Cut(subject, "_")
		return tier
	})
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: &counting{memstore.New(memstore.Config{}), &g.taken}, Tiers: resolver})
	if err != nil {
		t.Fatal(err)
	}
	cfg := httplimit.Config{
		Subject: func(r *http.Request) (string, error) { return r.Header.Get("X-Account"), nil },
		Guard:   g.guard, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	limit, err := httplimit.New(lim, cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.h = limit(h)
	return g
}

func (g *guarded) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.h.ServeHTTP(w, r)
	return w
}

// counting counts the charges that a store is asked for.
type counting struct {
	tierlimit.Store
	taken *atomic.Int64
}

func (c *counting) Take(ctx context.Context, charge tierlimit.Charge) (tierlimit.Outcome, error) {
	c.taken.Add(1)
	return c.Store.Take(ctx, charge)
}

// saturate lets work wait for a processor for two seconds in which a thousand requests come.
func (g *guarded) saturate() {
	g.Helper()
	g.wait = 10 * time.Second
	for i := range 1000 {
		g.now = g.now.Add(2 * time.Millisecond)
		g.serve(get("X-Account", "free_"+strconv.Itoa(i)))
	}
	if !g.guard.Status().Refusing {
		g.Fatalf("the guard refuses nothing: %+v", g.guard.Status())
	}
}

func TestASaturatedProcessRefusesTheLowestTierFirst(t *testing.T) {
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, nil)
	g.saturate()
	before := g.taken.Load()
	w := g.serve(get("X-Account", "free_1"))
	seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if w.Code != 503 || err != nil || seconds < 1 || seconds > 3 || w.Header().Get("Content-Type") != "application/problem+json" ||
		w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(w.Body.String(), "#temporary-reduced-capacity") {
		t.Errorf("free: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if n := g.taken.Load(); n != before {
		t.Errorf("the store was asked about %d refused requests", n-before)
	}
	if w := g.serve(get("X-Account", "enterprise_1")); w.Code != 200 {
		t.Errorf("enterprise: %d", w.Code)
	}
	status := g.guard.Status()
	for _, tier := range status.Tiers {
		if tier.Tier == "free" && tier.Refused == 0 || tier.Tier == "enterprise" && (tier.Refused > 0 || tier.Admitted != 1) {
			t.Errorf("%+v", tier)
		}
	}
	if status.InFlight != 0 {
		t.Errorf("%d in flight", status.InFlight)
	}
}

func TestTheGuardIsNotAskedAboutWhatIsSkipped(t *testing.T) {
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(cfg *httplimit.Config) {
		cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/healthz" }
	})
	g.saturate()
	r := get("X-Account", "free_1")
	r.URL.Path = "/healthz"
	if w := g.serve(r); w.Code != 200 {
		t.Errorf("skipped: %d", w.Code)
	}
}

// A response that lasts is not a slow one: only its beginning is the service's work.
func TestAStreamIsInFlightUntilItBegins(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"a header": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
		"a body":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "data: 1\n\n") },
		"a flush":  func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"an upgrade": func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		},
	} {
		begun, end := make(chan struct{}), make(chan struct{})
		g := newGuarded(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints) // no beginning
			begun <- struct{}{}
			<-begun
			begin(w)
			begun <- struct{}{}
			<-end
		}, nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.h.ServeHTTP(hijackable{httptest.NewRecorder()}, get("X-Account", "pro_1"))
		}()
		<-begun
		if n := g.guard.Status().InFlight; n != 1 {
			t.Errorf("%s: %d in flight before it", name, n)
		}
		begun <- struct{}{}
		<-begun
		if n := g.guard.Status().InFlight; n != 0 {
			t.Errorf("%s: %d in flight after it", name, n)
		}
		close(end)
		<-done
	}
}

type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	ours, theirs := net.Pipe()
	theirs.Close()
	return ours, nil, nil
}

func TestARequestThatIsDeniedOrPanicsLeaves(t *testing.T) {
	g := newGuarded(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panics" {
			panic(http.ErrAbortHandler)
		}
	}, nil)
	for range 10 { // the sixth is denied
		g.serve(get("X-Account", "free_1"))
	}
	r := get("X-Account", "pro_1")
	r.URL.Path = "/panics"
	func() {
		defer func() { _ = recover() }()
		g.serve(r)
	}()
	g.serve(get("X-Account", "")) // does not say who is asking
	if status := g.guard.Status(); status.InFlight != 0 || len(status.Tiers) != 2 {
		t.Errorf("%+v", status)
	}
}

func TestAGuardedRequestCanHaveAHold(t *testing.T) {
	held := 0
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(cfg *httplimit.Config) {
		cfg.Settle = func(*http.Request, int, http.Header) (int64, map[string]int64) {
			held++
			return tierlimit.Keep, nil
		}
	})
	if w := g.serve(get("X-Account", "pro_1")); w.Code != 200 || held != 1 || g.guard.Status().InFlight != 0 {
		t.Errorf("with a hold: %d, settled %d times, %+v", w.Code, held, g.guard.Status())
	}
}

func TestAGuardNeedsALimiterThatKnowsPlans(t *testing.T) {
	_, err := httplimit.New(limiterFunc(func(tierlimit.Request) {}), httplimit.Config{Guard: guard.New(guard.Config{})})
	if err == nil || !strings.Contains(err.Error(), "Guard") {
		t.Error(err)
	}
}

func ExampleConfig_guard() {
	resolver, err := tiers.Static(tiers.Builtin(), nil)
	if err != nil {
		panic(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		panic(err)
	}
	overload := guard.New(guard.Config{}) // one for all handlers of the process
	limit, err := httplimit.New(lim, httplimit.Config{Guard: overload})
	if err != nil {
		panic(err)
	}
	handler := limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	for _, tier := range overload.Status().Tiers {
		fmt.Println(tier.Tier, tier.Admitted, tier.Refused)
	}
	// Output: free 1 0
}
