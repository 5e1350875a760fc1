package httplimit_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// limiterOn returns a limiter that applies limits to every subject.
func limiterOn(t *testing.T, limits tiers.Limits) *tierlimit.Limiter {
	t.Helper()
	tier := tiers.Builtin()[0]
	tier.Limits = limits
	resolver, err := tiers.Static([]tiers.Tier{tier}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Local: memstore.New(memstore.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

func perMinute(most int64) tiers.Limit {
	return tiers.Limit{Max: most, Window: tierlimit.Window{Length: time.Minute}}
}

// A heldSite is a handler behind the middleware, with one subject.
type heldSite struct {
	*testing.T
	lim httplimit.Limiter
	h   http.Handler
}

func newHeldSite(t *testing.T, lim httplimit.Limiter, cfg httplimit.Config, handle http.HandlerFunc) *heldSite {
	t.Helper()
	cfg.Subject = func(*http.Request) (string, error) { return "acct_42", nil }
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	mw, err := httplimit.New(lim, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &heldSite{t, lim, mw(handle)}
}

func (s *heldSite) get() *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w
}

func (s *heldSite) used(want ...int64) {
	s.Helper()
	u, err := s.lim.(*tierlimit.Limiter).Usage(s.Context(), "acct_42")
	if err != nil {
		s.Fatal(err)
	}
	for i := range want {
		if u.Windows[i].Used != want[i] || u.Windows[i].Held != 0 {
			s.Fatalf("%+v, want %d", u.Windows, want)
		}
	}
}

func TestARequestIsChargedWhatItReallyCost(t *testing.T) {
	lim := limiterOn(t, tiers.Limits{"per_minute": perMinute(100), "tokens": perMinute(1000)})
	s := newHeldSite(t, lim, httplimit.Config{
		Costs: func(*http.Request) map[string]int64 { return map[string]int64{"tokens": 500} },
		Settle: func(_ *http.Request, status int, h http.Header) (int64, map[string]int64) {
			if status != http.StatusCreated || h.Get("X-Tokens") != "731" {
				t.Errorf("%d %v", status, h)
			}
			return tierlimit.Keep, map[string]int64{"tokens": 731}
		},
	}, func(w http.ResponseWriter, r *http.Request) {
		if d, ok := tierlimit.FromContext(r.Context()); !ok || d.ID == "" || d.Windows[1].Held != 500 {
			t.Errorf("%+v", d)
		}
		w.Header().Set("X-Tokens", "731")
		w.WriteHeader(http.StatusCreated)
	})
	s.get()
	s.used(1, 731)
	if w := s.get(); w.Code != http.StatusTooManyRequests { // an estimate of 500 does not fit
		t.Errorf("%d", w.Code)
	}
	s.used(1, 731)
}

func TestWhatTheServerCouldNotServeCostsNothing(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"502":                 func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a panic":             func(http.ResponseWriter, *http.Request) { panic("in the handler") },
		"an aborted response": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"an early hint, a 500": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusInternalServerError)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newHeldSite(t, limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), httplimit.Config{Settle: httplimit.GiveBackOn5xx}, handle)
			for range 10 {
				func() {
					defer func() { _ = recover() }()
					s.get()
				}()
			}
			s.used(0)
		})
	}
	for name, handle := range map[string]http.HandlerFunc{
		"404":                    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"nothing written":        func(http.ResponseWriter, *http.Request) {},
		"written without status": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") },
		"a panic after a status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK); panic("late") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newHeldSite(t, limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), httplimit.Config{Settle: httplimit.GiveBackOn5xx}, handle)
			func() {
				defer func() { _ = recover() }()
				s.get()
			}()
			s.used(1)
		})
	}
}

// The charge is kept even if the handler panics after the response has begun.
func TestAResponseThatWasSentIsCharged(t *testing.T) {
	for name, send := range map[string]func(http.ResponseWriter){
		"copied": func(w http.ResponseWriter) {
			_, _ = io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<16)), 1<<16))
		},
		"flushed": func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"taken over": func(w http.ResponseWriter) {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newHeldSite(t, limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), httplimit.Config{Settle: httplimit.GiveBackOn5xx}, func(w http.ResponseWriter, _ *http.Request) {
				send(w)
				panic(http.ErrAbortHandler)
			})
			returned := make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				s.h.ServeHTTP(w, r)
			}))
			defer srv.Close()
			resp, err := http.Post(srv.URL, "", nil) // the client does not retry a POST
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			<-returned
			s.used(1)
		})
	}
}

// The hold is closed even if Config.Settle panics or returns an invalid cost.
func TestASettleFuncThatIsWrongLeavesTheCharge(t *testing.T) {
	many := make(map[string]int64)
	for c := range 17 {
		many["limit_"+string(rune('a'+c))] = 1
	}
	for name, settle := range map[string]httplimit.SettleFunc{
		"a negative cost": func(*http.Request, int, http.Header) (int64, map[string]int64) { return -7, nil },
		"a negative cost of one": func(*http.Request, int, http.Header) (int64, map[string]int64) {
			return 1, map[string]int64{"per_minute": -1}
		},
		"a cost without bounds": func(*http.Request, int, http.Header) (int64, map[string]int64) { return 1 << 60, nil },
		"too many costs":        func(*http.Request, int, http.Header) (int64, map[string]int64) { return 1, many },
		"a panic":               func(*http.Request, int, http.Header) (int64, map[string]int64) { panic("in Settle") },
	} {
		t.Run(name, func(t *testing.T) {
			lim := limiterOn(t, tiers.Limits{"at_once": {Max: 1, Algorithm: tierlimit.Concurrent}, "per_minute": perMinute(50)})
			s := newHeldSite(t, lim, httplimit.Config{Settle: settle}, func(http.ResponseWriter, *http.Request) {})
			for range 3 {
				func() {
					defer func() { _ = recover() }()
					if w := s.get(); w.Code != 200 {
						t.Errorf("%d", w.Code)
					}
				}()
			}
			s.used(0, 3)
		})
	}
}

func TestACostHeaderSettles(t *testing.T) {
	for header, want := range map[string]int64{"": 1, "7": 7, "0": 0, "-1": 1, "1e3": 1, "9999999999999999": 1} {
		s := newHeldSite(t, limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), httplimit.Config{Settle: httplimit.CostHeader("X-Cost")}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Cost", header)
		})
		s.get()
		s.used(want)
	}
}

// A concurrent limit works with the zero Config. Its place is freed whether the handler
// returns or panics.
func TestNoMoreRequestsRunAtATimeThanThePlanAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := limiterOn(t, tiers.Limits{"at_once": {Max: 3, Algorithm: tierlimit.Concurrent}, "per_minute": perMinute(1000)})
		var mu sync.Mutex
		running, most := 0, 0
		s := newHeldSite(t, lim, httplimit.Config{}, func(http.ResponseWriter, *http.Request) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(10 * time.Second)
			mu.Lock()
			running--
			n := running
			mu.Unlock()
			if n == 1 {
				panic("one of them")
			}
		})
		codes := make(map[int]int)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				defer func() { _ = recover() }()
				w := s.get()
				mu.Lock()
				defer mu.Unlock()
				codes[w.Code]++
				if w.Code == 429 && (w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "at_once")) {
					t.Errorf("%v %s", w.Header(), w.Body)
				}
			})
		}
		wg.Wait()
		if most != 3 || codes[429] != 7 {
			t.Errorf("%d ran at a time, %v", most, codes)
		}
		s.used(0, 3)
		s.get()
		s.used(0, 4)
	})
}

// The hold of a request that runs longer than Config.Hold stays open and is settled.
func TestALongRequestIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := limiterOn(t, tiers.Limits{"at_once": {Max: 1, Algorithm: tierlimit.Concurrent}, "per_day": {Max: 100, Window: tierlimit.Window{Length: 24 * time.Hour}}})
		s := newHeldSite(t, lim, httplimit.Config{
			Hold:   2 * time.Second,
			Settle: func(*http.Request, int, http.Header) (int64, map[string]int64) { return 9, nil },
		}, func(http.ResponseWriter, *http.Request) { time.Sleep(time.Hour) })
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.get()
		}()
		for range 50 {
			time.Sleep(time.Minute)
			if w := s.get(); w.Code != http.StatusTooManyRequests {
				t.Fatalf("its place was given away: %d", w.Code)
			}
		}
		<-done
		s.used(0, 9)
	})
}

// A client that goes away cancels the request's context, but not the settlement.
func TestAClientThatGoesAwayIsSettled(t *testing.T) {
	lim := limiterOn(t, tiers.Limits{"per_minute": perMinute(5)})
	s := newHeldSite(t, heeding{lim}, httplimit.Config{Settle: httplimit.GiveBackOn5xx}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, leave := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	s.h.ServeHTTP(&leaving{ResponseRecorder: httptest.NewRecorder(), leave: leave}, r)
	s.lim = lim
	s.used(0)
}

// heeding is a limiter that returns an error if its context is done, like one on Redis.
type heeding struct{ *tierlimit.Limiter }

func (h heeding) Settle(ctx context.Context, id string, cost int64, costs map[string]int64) (tierlimit.Settlement, error) {
	if err := ctx.Err(); err != nil {
		return tierlimit.Settlement{}, err
	}
	return h.Limiter.Settle(ctx, id, cost, costs)
}

// leaving is a ResponseWriter whose client goes away when the response begins.
type leaving struct {
	*httptest.ResponseRecorder
	leave func()
}

func (l *leaving) WriteHeader(code int) {
	l.leave()
	l.ResponseRecorder.WriteHeader(code)
}

// Without Settle, plans without concurrent limits are charged without a hold.
func TestARequestIsHeldOnlyWhereThatIsOfUse(t *testing.T) {
	lim := limiterOn(t, tiers.Limits{"per_minute": perMinute(5)})
	s := newHeldSite(t, lim, httplimit.Config{}, func(_ http.ResponseWriter, r *http.Request) {
		if d, _ := tierlimit.FromContext(r.Context()); d.ID != "" {
			t.Errorf("%+v", d)
		}
	})
	s.get()
	s.used(1)
}

// The middleware preserves the optional interfaces of the server's ResponseWriter.
func TestAHeldResponseCanBeStreamed(t *testing.T) {
	lim := limiterOn(t, tiers.Limits{"per_minute": perMinute(5)})
	s := newHeldSite(t, lim, httplimit.Config{Settle: httplimit.GiveBackOn5xx}, func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Flusher); !ok {
			t.Error("it cannot flush")
		}
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Error("it cannot read from a file")
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(w, strings.NewReader("hello"))
	})
	srv := httptest.NewServer(s.h)
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
}

// A failed settlement is retried once.
func TestASettlementIsAskedForAgain(t *testing.T) {
	lim := &forgetful{Limiter: limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), fails: 1}
	s := newHeldSite(t, lim, httplimit.Config{Settle: httplimit.CostHeader("X-Cost")}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Cost", "3")
	})
	s.get()
	s.lim = lim.Limiter
	s.used(3)
}

type forgetful struct {
	*tierlimit.Limiter
	fails int
}

func (f *forgetful) Settle(ctx context.Context, id string, cost int64, costs map[string]int64) (tierlimit.Settlement, error) {
	if f.fails > 0 {
		f.fails--
		return tierlimit.Settlement{}, errors.New("no reply")
	}
	return f.Limiter.Settle(ctx, id, cost, costs)
}

func TestAHoldThatCannotBeIsRefused(t *testing.T) {
	for _, d := range []time.Duration{time.Millisecond, -time.Second, 2 * time.Hour, time.Second + 1} {
		if _, err := httplimit.New(limiterOn(t, tiers.Limits{"per_minute": perMinute(5)}), httplimit.Config{Hold: d}); err == nil {
			t.Errorf("%v is accepted", d)
		}
	}
}
