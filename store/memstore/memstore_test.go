package memstore_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// A clock stands still until it is told otherwise.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

func (c *clock) Advance(d time.Duration) { c.Set(c.Now().Add(d)) }

func start(*testing.T) storetest.Harness {
	c := newClock()
	return storetest.Harness{
		Store:   memstore.New(memstore.Config{Now: c.Now}),
		Now:     c.Now,
		Advance: c.Advance,
		SetNow:  c.Set,
	}
}

func TestConformance(t *testing.T) { storetest.Run(t, start) }
func TestClock(t *testing.T)       { storetest.RunClock(t, start) }

func perMinute(subject string, most int64) tierlimit.Charge {
	return storetest.Charge(subject, 1, tierlimit.Ceiling{Name: "per_minute", Max: most, Window: tierlimit.Window{Length: time.Minute}})
}

func take(t *testing.T, s *memstore.Store, subject string) error {
	t.Helper()
	_, err := s.Take(t.Context(), perMinute(subject, 5))
	return err
}

func TestEndedSubjectsAreSwept(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now})
	for round := range 20 {
		for i := range 20_000 {
			if err := take(t, s, fmt.Sprintf("made-up-%d-%d", round, i)); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance(time.Minute)
	}
	if n := s.Subjects(); n > 150_000 {
		t.Fatalf("%d subjects held after 400,000 came and all but 20,000 ended", n)
	}
	c.Advance(2 * time.Minute)
	for i := range 1000 { // enough to touch every shard
		if err := take(t, s, fmt.Sprint("later-", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Subjects(); n > 1000 {
		t.Fatalf("%d subjects held when only 1,000 are live", n)
	}
}

func TestAFloodLeavesLiveCountersAlone(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now, MaxSubjects: 6400})
	for range 3 {
		if err := take(t, s, "acct_42"); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for i := range 10_000 {
		err := take(t, s, fmt.Sprint("made-up-", i))
		if errors.Is(err, tierlimit.ErrStoreUnavailable) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if held := s.Subjects(); held != 6400 || refused != 10_001-held {
		t.Fatalf("%d of 10,000 refused, %d subjects held; want 6,400 held and the others refused", refused, held)
	}
	o, err := s.Take(t.Context(), perMinute("acct_42", 5))
	if err != nil || o.Counts[0].Used != 4 {
		t.Fatalf("after the flood: %+v, %v; want 4 used", o, err)
	}
	c.Advance(time.Minute)
	if err := take(t, s, "newcomer"); err != nil {
		t.Fatalf("once windows have ended there is room again: %v", err)
	}
}

func TestMaxSubjects64Holds64(t *testing.T) {
	s := memstore.New(memstore.Config{Now: newClock().Now, MaxSubjects: 64})
	for i := range 64 {
		if err := take(t, s, fmt.Sprint("acct_", i)); err != nil {
			t.Fatalf("subject %d of 64: %v", i+1, err)
		}
	}
	if err := take(t, s, "one_more"); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		t.Errorf("the 65th: %v", err)
	}
}

// After a clock stepped back, room was looked for only once it had caught up. The windows
// end sooner than a shard is swept by itself.
func TestAFullStoreWhoseClockStepsBackTakesNewcomers(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now, MaxSubjects: 10})
	take := func(subject string) error {
		_, err := s.Take(t.Context(), storetest.Charge(subject, 1, tierlimit.Ceiling{Name: "burst", Max: 5, Window: tierlimit.Window{Length: 10 * time.Second}}))
		return err
	}
	for i := range 10 {
		if err := take(fmt.Sprint("acct_", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("newcomer"); err == nil {
		t.Fatal("not full")
	}
	c.Advance(-time.Hour)
	for i := range 10 { // no window outlasts its length
		if err := take(fmt.Sprint("acct_", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.Advance(20 * time.Second)
	if err := take("newcomer"); err != nil {
		t.Errorf("all windows have ended: %v", err)
	}
}

func TestMadeUpSubjectsLeaveHalfOfThePlacesToCustomers(t *testing.T) {
	s := memstore.New(memstore.Config{Now: newClock().Now, MaxSubjects: 1000})
	for i := range 5000 {
		c := perMinute(fmt.Sprint("made-up-", i), 5)
		c.Unknown = true
		if _, err := s.TakeShare(c, 1); err != nil && !errors.Is(err, tierlimit.ErrStoreUnavailable) {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		if err := take(t, s, fmt.Sprint("acct_", i)); err != nil {
			t.Fatalf("customer %d: %v", i, err)
		}
	}
}

// A share begins at what the store had counted: what was left is divided.
func TestAShareBeginsWhereTheStoreWas(t *testing.T) {
	for name, c := range map[string]struct{ seen, most, replicas, want int64 }{
		"nothing was used":                  {0, 100, 4, 25},
		"half was used":                     {50, 100, 2, 25},
		"all was used":                      {100, 100, 2, 0},
		"more than the max now":             {100, 10, 2, 0},
		"less is left than replicas":        {99, 100, 3, 1},
		"the max is less than replicas":     {0, 2, 3, 1},
		"one replica gets all that is left": {97, 100, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := memstore.New(memstore.Config{Now: newClock().Now})
			charge := perMinute("acct_42", c.most)
			o := tierlimit.Outcome{Counts: make([]tierlimit.Count, 1)}
			if c.seen > 0 {
				o.Counts[0].Used, o.Counts[0].Since = c.seen, c.seen
				o.Counts[0].Reset, o.Counts[0].End = 40_000, 1
			}
			s.Saw(charge, o)
			admitted := int64(0)
			for range c.most + 5 {
				o, err := s.TakeShare(charge, int(c.replicas))
				if err != nil {
					t.Fatal(err)
				}
				if o.Allowed {
					admitted++
				}
			}
			if admitted != c.want {
				t.Errorf("%d admitted, want %d", admitted, c.want)
			}
		})
	}
}

// What was used in a sliding window before an outage counts in it.
func TestASlidingWindowIsNotWholeWhenAnOutageBegins(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now})
	charge := storetest.Charge("acct_42", 1, tierlimit.Ceiling{Name: "per_minute", Max: 100, Window: tierlimit.Window{Length: time.Minute}, Sliding: true})
	o := tierlimit.Outcome{Counts: make([]tierlimit.Count, 1)}
	// Half a minute until it turns: half of 80 counts, and 10 since.
	o.Counts[0].Used, o.Counts[0].Since, o.Counts[0].Previous = 50, 10, 80
	o.Counts[0].Turn, o.Counts[0].Reset, o.Counts[0].End = 30_000, 90_000, 1
	s.Saw(charge, o)
	got, err := s.TakeShare(charge, 1)
	if err != nil || !got.Allowed || got.Counts[0].Used != 51 || got.Counts[0].Turn != 30_000 || got.Maxes[0] != 100 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Each window of an outage grants a whole share again.
func TestEachWindowOfAnOutageGrantsAShare(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now})
	for window := range 4 {
		admitted := 0
		for range 20 {
			o, err := s.TakeShare(storetest.Charge("acct_42", 1, tierlimit.Ceiling{Name: "per_10s", Max: 20, Window: tierlimit.Window{Length: 10 * time.Second}}), 2)
			if err != nil {
				t.Fatal(err)
			}
			if o.Allowed {
				admitted++
			}
		}
		if admitted != 10 {
			t.Errorf("window %d: %d admitted of a share of 10", window, admitted)
		}
		c.Advance(10 * time.Second) // before anything is swept
	}
}

// The places of subjects that nobody knows are given back: when their windows have ended,
// and when they turn out to be customers.
func TestPlacesOfTheUnknownAreGivenBack(t *testing.T) {
	c := newClock()
	s := memstore.New(memstore.Config{Now: c.Now, MaxSubjects: 20})
	unknown := func(name string) error {
		charge := perMinute(name, 5)
		charge.Unknown = true
		_, err := s.Take(t.Context(), charge)
		return err
	}
	for round := range 3 {
		for i := range 10 {
			if err := unknown(fmt.Sprint("made_up_", round, i)); err != nil {
				t.Fatalf("round %d, name %d: %v", round, i, err)
			}
		}
		if err := unknown("one_more"); err == nil {
			t.Fatal("more than half of the places")
		}
		if err := take(t, s, fmt.Sprint("made_up_", round, 0)); err != nil { // a customer
			t.Fatal(err)
		}
		if err := unknown("one_more"); err != nil {
			t.Errorf("a place was given back: %v", err)
		}
		c.Advance(2 * time.Minute)
	}
}

// Charges that travel together wake in any order: the answer that was given last counts,
// and not the one that arrives last.
func TestAnswersThatComeInAnotherOrder(t *testing.T) {
	s := memstore.New(memstore.Config{Now: newClock().Now})
	charge := perMinute("acct_42", 100)
	saw := func(used, at int64) {
		o := tierlimit.Outcome{Counts: make([]tierlimit.Count, 1), At: at}
		o.Counts[0].Used, o.Counts[0].Since, o.Counts[0].Reset, o.Counts[0].End = used, used, 40_000, at+40_000
		s.Saw(charge, o)
	}
	const at = 1_700_000_000_000
	for _, step := range []struct{ used, at, want int64 }{
		{50, at, 50}, {100, at, 100}, {70, at, 100}, // of one batch
		{60, at - 3, 100}, {20, at + 1, 20}, // given before, and after a reset
		{30, at - 3_600_000, 30}, // the store's clock was set back
	} {
		saw(step.used, step.at)
		if o, err := s.Take(t.Context(), tierlimit.Charge{Subject: "acct_42", Ceilings: charge.Ceilings}); err != nil || o.Counts[0].Used != step.want {
			t.Errorf("after %d at %d: %+v, %v; want %d", step.used, step.at-at, o.Counts, err, step.want)
		}
	}
}
