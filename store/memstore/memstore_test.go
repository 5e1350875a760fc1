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

func take(t *testing.T, s *memstore.Store, subject string) error {
	t.Helper()
	_, err := s.Take(t.Context(), tierlimit.Charge{
		Subject: subject, Cost: 1,
		Ceilings: []tierlimit.Ceiling{{Name: "per_minute", Max: 5, Window: tierlimit.Window{Length: time.Minute}}},
	})
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
	if held := s.Subjects(); held > 6400 || refused != 10_001-held {
		t.Fatalf("%d of 10,000 refused, %d subjects held; want at most 6,400 held and the others refused", refused, held)
	}
	o, err := s.Take(t.Context(), tierlimit.Charge{
		Subject: "acct_42", Cost: 1,
		Ceilings: []tierlimit.Ceiling{{Name: "per_minute", Max: 5, Window: tierlimit.Window{Length: time.Minute}}},
	})
	if err != nil || o.Counts[0].Used != 4 {
		t.Fatalf("after the flood: %+v, %v; want 4 used", o, err)
	}
	c.Advance(time.Minute)
	if err := take(t, s, "newcomer"); err != nil {
		t.Fatalf("once windows have ended there is room again: %v", err)
	}
}
