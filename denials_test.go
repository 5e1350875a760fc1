package tierlimit_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// A farStore is a store that one would rather not ask twice: it lets denials
// stand for a second.
type farStore struct {
	*memstore.Store
	asked   int
	onReply func() // between a decision and its reply
}

func (s *farStore) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	s.asked++
	o, err := s.Store.Take(ctx, c)
	o.StandsFor = time.Second
	if s.onReply != nil {
		s.onReply()
	}
	return o, err
}

// A shelf holds one plan, in memory.
type shelf struct{ plan *tierlimit.Plan }

func (s *shelf) Resolve(context.Context, string, time.Time) (*tierlimit.Plan, error) {
	return s.plan, nil
}

type fixedLoad struct{ multiplier float64 }

func (l *fixedLoad) Multiplier(string) float64 { return l.multiplier }

// A counter is a limiter before a far store.
type counter struct {
	*testing.T
	lim   *tierlimit.Limiter
	store *farStore
	shelf *shelf
	load  *fixedLoad
}

func newCounter(t *testing.T, denials int, limits ...tierlimit.Limit) *counter {
	t.Helper()
	c := &counter{
		T: t, store: &farStore{Store: memstore.New(memstore.Config{})},
		shelf: &shelf{newPlan(t, tierlimit.PlanConfig{Tier: "free", Limits: limits})}, load: &fixedLoad{1},
	}
	var err error
	c.lim, err = tierlimit.New(tierlimit.Config{Store: c.store, Tiers: c.shelf, Load: c.load, Denials: denials})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *counter) on(tier string, limits ...tierlimit.Limit) {
	c.Helper()
	c.shelf.plan = newPlan(c.T, tierlimit.PlanConfig{Tier: tier, Limits: limits})
}

// take decides, and fails unless the store was asked, or was not.
func (c *counter) take(req tierlimit.Request, asked bool) tierlimit.Decision {
	c.Helper()
	if req.Subject == "" {
		req.Subject = "acct_42"
	}
	before := c.store.asked
	d, err := c.lim.Take(c.Context(), req)
	if err != nil {
		c.Fatal(err)
	}
	if (c.store.asked > before) != asked {
		c.Fatalf("the store was asked %d times for %+v", c.store.asked-before, d)
	}
	if (d.Source == tierlimit.SourceDenyCache) == asked || d.Source == tierlimit.SourceDenyCache && d.Allowed {
		c.Fatalf("answered from %s: %+v", d.Source, d)
	}
	return d
}

// fill uses a limit up and is denied once.
func (c *counter) fill(n int64) {
	c.Helper()
	c.take(cost(n), true)
	if d := c.take(cost(1), true); d.Allowed {
		c.Fatalf("not full: %+v", d)
	}
}

func TestADenialIsRepeatedFromMemory(t *testing.T) {
	bubble := func(name string, run func(c *counter)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				run(newCounter(t, 0, perDay(1000), perMinute(5)))
			})
		})
	}
	bubble("as the store would give it", func(c *counter) {
		c.fill(5)
		time.Sleep(400 * time.Millisecond)
		got := c.take(cost(1), false)
		want, err := c.store.Store.Take(c.Context(), storetest.Charge("acct_42", 1,
			tierlimit.Ceiling{Name: "per_day", Max: 1000, Window: perDay(1).Window},
			tierlimit.Ceiling{Name: "per_minute", Max: 5, Window: perMinute(1).Window},
		))
		if err != nil {
			c.Fatal(err)
		}
		for i, w := range got.Windows {
			if w.Used != want.Counts[i].Used || w.Reset.Milliseconds() != want.Counts[i].Reset {
				c.Errorf("remembered %+v, the store says %+v", w, want.Counts[i])
			}
		}
		if got.Reason != tierlimit.Exceeded || got.Limit != "per_minute" || got.RetryAfter != 59600*time.Millisecond {
			c.Errorf("got %+v", got)
		}
	})
	bubble("for a second", func(c *counter) {
		c.fill(5)
		time.Sleep(999 * time.Millisecond)
		c.take(cost(1), false)
		time.Sleep(time.Millisecond)
		c.take(cost(1), true)
		c.take(cost(1), false)
	})
	bubble("until its window ends", func(c *counter) {
		c.take(cost(5), true)
		time.Sleep(59500 * time.Millisecond)
		c.take(cost(1), true)
		time.Sleep(499 * time.Millisecond)
		c.take(cost(1), false)
		time.Sleep(time.Millisecond)
		if d := c.take(cost(1), true); !d.Allowed {
			c.Errorf("the window has ended: %+v", d)
		}
	})
	bubble("but a raised max passes at once", func(c *counter) {
		c.fill(5)
		c.on("pro", perDay(1000), perMinute(6))
		if d := c.take(cost(1), true); !d.Allowed || d.Windows[1].Used != 6 {
			c.Errorf("after the upgrade: %+v", d)
		}
		c.take(cost(1), true)
		c.on("free", perDay(1000), perMinute(2))
		if d := c.take(cost(1), false); d.Tier != "free" || d.Windows[1].Max != 2 {
			c.Errorf("after the downgrade: %+v", d)
		}
	})
	bubble("but a raised multiplier passes at once", func(c *counter) {
		c.load.multiplier = 0.2
		c.fill(1)
		if d := c.take(cost(1), false); d.Reason != tierlimit.LoadScaled {
			c.Errorf("under load: %+v", d)
		}
		c.load.multiplier = 1
		c.take(cost(1), true)
	})
	bubble("but a smaller cost is asked about", func(c *counter) {
		c.take(cost(3), true)
		c.take(cost(3), true)
		c.take(cost(4), false)
		if d := c.take(cost(2), true); !d.Allowed {
			c.Errorf("it fits: %+v", d)
		}
	})
	bubble("but not to a peek", func(c *counter) {
		c.fill(5)
		before := c.store.asked
		if d, err := c.lim.Peek(c.Context(), tierlimit.Request{Subject: "acct_42"}); err != nil || d.Allowed || c.store.asked == before {
			c.Errorf("%+v, %v", d, err)
		}
	})
	bubble("but not after a reset", func(c *counter) {
		c.fill(5)
		if err := c.lim.Reset(c.Context(), "acct_42", "per_minute"); err != nil {
			c.Fatal(err)
		}
		if d := c.take(cost(1), true); !d.Allowed {
			c.Errorf("after a reset: %+v", d)
		}
	})
	bubble("but not if it was reset before it arrived", func(c *counter) {
		c.take(cost(5), true)
		c.store.onReply = func() {
			c.store.onReply = nil
			if err := c.lim.Reset(c.Context(), "acct_42"); err != nil {
				c.Fatal(err)
			}
		}
		c.take(cost(1), true)
		if d := c.take(cost(1), true); !d.Allowed {
			c.Errorf("after a reset: %+v", d)
		}
	})
	bubble("also if somebody else was reset before it arrived", func(c *counter) {
		c.take(cost(5), true)
		kept := 0
		for i := range 4 { // one in 4,096 subjects is taken for another
			c.store.onReply = func() {
				c.store.onReply = nil
				if err := c.lim.Reset(c.Context(), fmt.Sprint("somebody_else_", i)); err != nil {
					c.Fatal(err)
				}
			}
			time.Sleep(time.Second) // so that the store is asked
			c.take(cost(1), true)
			before := c.store.asked
			if _, err := c.lim.Take(c.Context(), tierlimit.Request{Subject: "acct_42"}); err == nil && c.store.asked == before {
				kept++
			}
		}
		if kept < 3 {
			c.Errorf("%d of 4 denials outlived the reset of somebody else", kept)
		}
	})
	bubble("but not for a window of another length", func(c *counter) {
		c.fill(5)
		shorter := perMinute(5)
		shorter.Window.Length = time.Second
		c.on("free", perDay(1000), shorter)
		c.take(cost(1), true)
	})
	bubble("but not to somebody else", func(c *counter) {
		c.fill(5)
		c.take(tierlimit.Request{Subject: "acct_43"}, true)
	})
}

func TestADenialInOneScopeIsNoneInAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		search := tierlimit.Limit{Name: "search", Scope: "search", Max: 1, Window: tierlimit.Window{Length: time.Minute}}
		c := newCounter(t, 0, perMinute(5), search)
		c.take(tierlimit.Request{Scope: "search"}, true)
		c.take(tierlimit.Request{Scope: "search"}, true)
		c.take(tierlimit.Request{Scope: "search"}, false)
		if d := c.take(tierlimit.Request{}, true); !d.Allowed {
			t.Errorf("outside of search: %+v", d)
		}
		// Scopes that no limit names share what is remembered, and keep their name.
		c.take(cost(3), true)
		c.take(tierlimit.Request{Scope: "exports"}, true)
		if d := c.take(tierlimit.Request{Scope: "reports"}, false); d.Scope != "reports" {
			t.Errorf("asked about reports, answered about %q", d.Scope)
		}
	})
}

func TestAFloodOfDeniedSubjectsIsForgottenAndStaysDenied(t *testing.T) {
	for _, denials := range []int{-1, 1, 64} {
		c := newCounter(t, denials, perMinute(0))
		for i := range 10_000 {
			req := tierlimit.Request{Subject: fmt.Sprint("made_up_", i%3000)}
			if d, err := c.lim.Take(t.Context(), req); err != nil || d.Allowed || d.Subject != req.Subject {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		if denials < 0 && c.store.asked != 10_000 {
			t.Errorf("%d of 10,000 asked with nothing to remember them", c.store.asked)
		}
	}
}

func TestARepeatedDenialAllocatesNothing(t *testing.T) {
	c := newCounter(t, 0, perDay(1000), perMinute(5))
	c.fill(5)
	if n := testing.AllocsPerRun(100_000, func() {
		if d, err := c.lim.Take(context.Background(), tierlimit.Request{Subject: "acct_42"}); err != nil || d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Many who are denied, admitted, reset and upgraded at once: nobody is told what is of
// somebody else, and no denial outlives the reset that its goroutine made.
func TestDenialsOfManyAtOnce(t *testing.T) {
	store := memstore.New(memstore.Config{})
	far := takeFunc(func(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
		o, err := store.Take(ctx, c)
		o.StandsFor = time.Second
		return o, err
	})
	small, large := newPlan(t, tierlimit.PlanConfig{Tier: "free", Limits: []tierlimit.Limit{perMinute(2)}}),
		newPlan(t, tierlimit.PlanConfig{Tier: "pro", Limits: []tierlimit.Limit{perMinute(1 << 40)}})
	resolver := planFunc(func(subject string) *tierlimit.Plan {
		if strings.HasPrefix(subject, "pro") {
			return large
		}
		return small
	})
	lim, err := tierlimit.New(tierlimit.Config{Store: &storeWith{store, far}, Tiers: resolver, Denials: 64})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			own := fmt.Sprint("own_", g) // nobody else asks for it
			for i := range 5000 {
				for _, subject := range []string{own, fmt.Sprint("shared_", i%100), fmt.Sprint("pro_", i%100)} {
					d, err := lim.Take(context.Background(), tierlimit.Request{Subject: subject})
					if err != nil || d.Subject != subject || strings.HasPrefix(subject, "pro") != (d.Tier == "pro") || d.Tier == "pro" && !d.Allowed {
						t.Errorf("%s is told %+v, %v", subject, d, err)
						return
					}
				}
				if i%50 != 0 {
					continue
				}
				if err := lim.Reset(context.Background(), own); err != nil {
					t.Error(err)
				}
				for n := range 3 {
					d, _ := lim.Take(context.Background(), tierlimit.Request{Subject: own})
					if d.Allowed != (n < 2) {
						t.Errorf("request %d after a reset: %+v", n+1, d)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

type takeFunc func(context.Context, tierlimit.Charge) (tierlimit.Outcome, error)

type planFunc func(subject string) *tierlimit.Plan

func (f planFunc) Resolve(_ context.Context, subject string, _ time.Time) (*tierlimit.Plan, error) {
	return f(subject), nil
}

// storeWith is a store with another Take.
type storeWith struct {
	tierlimit.Store
	take takeFunc
}

func (s *storeWith) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	return s.take(ctx, c)
}

func TestNewRefusesDenialsItCannotHold(t *testing.T) {
	for _, n := range []int{-2, 1<<24 + 1} {
		_, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: &shelf{}, Denials: n})
		if err == nil {
			t.Errorf("%d: no error", n)
		}
	}
}

func TestADenialDoesNotOutliveASettlement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, 0, perMinute(5))
		d := c.take(held(5), true)
		c.take(cost(1), true)
		if s, err := c.lim.Settle(t.Context(), d.ID, 0, nil); err != nil || !s.Found {
			t.Fatalf("%+v, %v", s, err)
		}
		if d := c.take(cost(1), true); !d.Allowed {
			t.Errorf("%+v", d)
		}
	})
}

func TestADenialNamesTheScopeThatWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		search := tierlimit.Limit{Name: "search", Scope: "search", Max: 1, Window: tierlimit.Window{Length: time.Minute}}
		c := newCounter(t, 0, perMinute(2), search)
		c.take(tierlimit.Request{Scope: "search"}, true)
		c.take(tierlimit.Request{Scope: "search"}, true) // denied
		c.take(cost(1), true)
		c.take(cost(1), true) // denied, without a scope
		for _, scope := range []string{"a", "b", "b", "search", "a"} {
			if d := c.take(tierlimit.Request{Scope: scope}, false); d.Scope != scope || d.Allowed {
				t.Errorf("asked in %s: %+v", scope, d)
			}
		}
	})
}

func TestADenialByOneLimitIsNoneByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, 0, perMinute(5))
		c.fill(5)
		renamed := perMinute(5)
		renamed.Name = "per_60s"
		c.on("free", renamed)
		if d := c.take(cost(1), true); !d.Allowed {
			t.Errorf("%+v", d)
		}
	})
}
