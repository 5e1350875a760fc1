package storetest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// newHold returns a hold of d with a random id.
func newHold(d time.Duration) *tierlimit.Hold {
	h := &tierlimit.Hold{For: d}
	for i := range h.ID {
		h.ID[i] = byte(rand.Uint32())
	}
	return h
}

func concurrent(name string, most int64) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: name, Max: most, Concurrent: true}
}

func releasing(c tierlimit.Ceiling) tierlimit.Ceiling {
	c.Release = true
	return c
}

// hold charges cost with a hold of d, and fails the test on an error.
func (s *subject) hold(d time.Duration, cost int64, c ...tierlimit.Ceiling) (tierlimit.HoldID, tierlimit.Outcome) {
	s.Helper()
	return s.holdCosts(d, cost, nil, c...)
}

// holdCosts is like hold with a cost for each ceiling; -1 stands for cost.
func (s *subject) holdCosts(d time.Duration, cost int64, costs []int64, c ...tierlimit.Ceiling) (tierlimit.HoldID, tierlimit.Outcome) {
	s.Helper()
	charge := Charge(s.name, cost, c...)
	charge.Hold, charge.Costs = newHold(d), costs
	o, err := s.Store.Take(s.Context(), charge)
	if err != nil {
		s.Fatalf("hold %d: %v", cost, err)
	}
	return charge.Hold.ID, o
}

// held is like hold, and fails the test if the charge is denied.
func (s *subject) held(d time.Duration, cost int64, c ...tierlimit.Ceiling) tierlimit.HoldID {
	s.Helper()
	id, o := s.hold(d, cost, c...)
	if !o.Allowed {
		s.Fatalf("a hold of %d was denied at %+v", cost, o)
	}
	return id
}

// settle settles a hold and fails the test unless Found is found.
func (s *subject) settle(found bool, c tierlimit.Correction) tierlimit.Settlement {
	s.Helper()
	c.Subject = s.name
	got, err := s.Store.Settle(s.Context(), c)
	if err != nil || got.Found != found || got.At == 0 {
		s.Fatalf("settle %+v: %+v, %v; want found %v", c, got, err, found)
	}
	return got
}

// cost settles an open hold with the same cost for all limits.
func (s *subject) cost(id tierlimit.HoldID, cost int64) tierlimit.Settlement {
	s.Helper()
	return s.settle(true, tierlimit.Correction{ID: id, Cost: cost})
}

func (s *subject) renew(found bool, id tierlimit.HoldID, d time.Duration) {
	s.Helper()
	got, err := s.Store.Renew(s.Context(), tierlimit.Renewal{Subject: s.name, ID: id, For: d})
	if err != nil || got != found {
		s.Fatalf("renew: %v, %v; want %v", got, err, found)
	}
}

// look returns the counts, with held usage.
func (s *subject) look(c ...tierlimit.Ceiling) []tierlimit.Count {
	s.Helper()
	charge := Charge(s.name, 0, c...)
	charge.Held = true
	o, err := s.Store.Take(s.Context(), charge)
	if err != nil {
		s.Fatal(err)
	}
	return o.Counts
}

func (s *subject) holds(c []tierlimit.Count, want ...int64) {
	s.Helper()
	for i := range want {
		if c[i].Held != want[i] {
			s.Fatalf("window %d: %d held, want %d (all: %+v)", i, c[i].Held, want[i], c)
		}
	}
}

var holdCases = []testCase{
	{"a hold is settled to what it cost, up or down, once", func(s *subject) {
		down, up := s.held(time.Minute, 5, perMinute(20)), s.held(time.Minute, 5, perMinute(20))
		s.used(s.look(perMinute(20)), 10)
		s.holds(s.look(perMinute(20)), 10)
		got := s.cost(down, 2)
		if len(got.Limits) != 1 || got.Limits[0].Estimate != 5 || got.Limits[0].Cost != 2 || got.Limits[0].Used != 7 || got.Limits[0].Ended {
			s.Errorf("settled: %+v", got)
		}
		s.cost(up, 9)
		s.used(s.look(perMinute(20)), 11)
		s.holds(s.look(perMinute(20)), 0)
		s.settle(false, tierlimit.Correction{ID: down, Cost: 0})
		s.settle(false, tierlimit.Correction{ID: up, Cost: 100})
		s.renew(false, up, time.Minute)
		s.used(s.peek(perMinute(20)), 11)
	}},
	{"more than was left is charged, and the next request is denied", func(s *subject) {
		s.allowed(900, perMinute(1000))
		id := s.held(time.Minute, 50, perMinute(1000))
		s.cost(id, 500)
		s.used(s.denied(1, perMinute(1000)), 1400)
	}},
	{"a cost of nothing gives everything back", func(s *subject) {
		id, _ := s.holdCosts(time.Minute, 1, []int64{-1, 500}, perMinute(10), ceiling("tokens", 1000, length(time.Minute)))
		s.cost(id, 0)
		s.used(s.peek(perMinute(10), ceiling("tokens", 1000, length(time.Minute))), 0, 0)
	}},
	{"a limit that is not named keeps its charge", func(s *subject) {
		tokens := ceiling("tokens", 1000, length(time.Minute))
		take := func() tierlimit.HoldID {
			id, o := s.holdCosts(time.Minute, 1, []int64{-1, 500}, perMinute(10), tokens)
			if !o.Allowed {
				s.Fatalf("%+v", o)
			}
			return id
		}
		s.settle(true, tierlimit.Correction{ID: take(), Cost: tierlimit.Keep, Costs: map[string]int64{"tokens": 730}})
		s.used(s.peek(perMinute(10), tokens), 1, 730)
		s.reset()
		s.settle(true, tierlimit.Correction{ID: take(), Cost: 3})
		s.used(s.peek(perMinute(10), tokens), 3, 500)
		s.reset()
		s.settle(true, tierlimit.Correction{ID: take(), Cost: 0, Costs: map[string]int64{"tokens": 20}})
		s.used(s.peek(perMinute(10), tokens), 0, 20)
		s.reset()
		s.settle(true, tierlimit.Correction{ID: take(), Cost: tierlimit.Keep})
		s.used(s.peek(perMinute(10), tokens), 1, 500)
	}},
	{"costs by limit are charged all or none", func(s *subject) {
		tokens := ceiling("tokens", 1000, length(time.Minute))
		take := func(costs ...int64) tierlimit.Outcome {
			c := Charge(s.name, 1, perMinute(10), tokens)
			c.Costs = costs
			o, err := s.Store.Take(s.Context(), c)
			if err != nil {
				s.Fatal(err)
			}
			return o
		}
		s.used(take(-1, 600).Counts, 1, 600)
		if o := take(-1, 600); o.Allowed {
			s.Errorf("1,200 of 1,000: %+v", o)
		}
		s.used(s.peek(perMinute(10), tokens), 1, 600)
		s.used(take(2, 400).Counts, 3, 1000)
	}},
	{"a limit that a request costs nothing neither denies it nor begins a window", func(s *subject) {
		full, fresh := perMinute(3), ceiling("tokens", 10, length(time.Minute))
		s.allowed(3, full)
		c := Charge(s.name, 1, full, ceiling("quota", 5, length(time.Hour)), fresh)
		c.Costs = []int64{0, 2, 0}
		o, err := s.Store.Take(s.Context(), c)
		if err != nil || !o.Allowed || o.Counts[2].Reset != 0 || o.Counts[2].Began || !o.Counts[1].Began {
			s.Fatalf("%+v, %v", o, err)
		}
		s.used(o.Counts, 3, 2, 0)
	}},
	{"what is not known at all beforehand is held as nothing, and settled", func(s *subject) {
		tokens := ceiling("tokens", 1000, length(time.Minute))
		id, o := s.holdCosts(time.Minute, 1, []int64{-1, 0}, perMinute(10), tokens)
		if !o.Allowed || !o.Counts[1].Began {
			s.Fatalf("%+v", o)
		}
		s.settle(true, tierlimit.Correction{ID: id, Cost: tierlimit.Keep, Costs: map[string]int64{"tokens": 731}})
		s.used(s.look(perMinute(10), tokens), 1, 731)
	}},
	{"a denied hold charges and holds nothing", func(s *subject) {
		s.allowed(5, perHour(10), perMinute(5))
		if _, o := s.hold(time.Minute, 1, concurrent("at_once", 3), perHour(10), perMinute(5)); o.Allowed {
			s.Fatalf("%+v", o)
		}
		counts := s.look(concurrent("at_once", 3), perHour(10), perMinute(5))
		s.used(counts, 0, 5, 5)
		s.holds(counts, 0, 0, 0)
	}},
	{"a concurrent limit counts the holds that are open", func(s *subject) {
		c := []tierlimit.Ceiling{concurrent("at_once", 2), perMinute(100)}
		first := s.held(time.Minute, 7, c...)
		s.held(30*time.Second, 7, c...)
		_, o := s.hold(time.Minute, 7, c...)
		if o.Allowed || o.Counts[0].Used != 2 || ms(o.Counts[0].Reset) > 30*time.Second || ms(o.Counts[0].Reset) < 30*time.Second-slack {
			s.Fatalf("the third: %+v", o)
		}
		s.used(o.Counts, 2, 14) // all or none: the minute is not charged
		s.used(s.allowed(1, c...), 2, 15)
		s.cost(first, 1)
		s.used(s.look(c...), 1, 9)
		s.held(time.Minute, 7, c...)
	}},
	{"a concurrent limit of its own needs no window", func(s *subject) {
		id := s.held(time.Minute, 1, concurrent("at_once", 1))
		if _, o := s.hold(time.Minute, 1, concurrent("at_once", 1)); o.Allowed {
			s.Errorf("%+v", o)
		}
		s.settle(true, tierlimit.Correction{ID: id, Cost: tierlimit.Keep})
		s.held(time.Minute, 1, concurrent("at_once", 1))
	}},
	{"a hold is found by its own subject and id alone", func(s *subject) {
		id := s.held(time.Minute, 5, perMinute(10))
		made := id
		made[15]++
		s.settle(false, tierlimit.Correction{ID: made, Cost: 0})
		other := s.also("-other")
		other.allowed(5, perMinute(10))
		other.settle(false, tierlimit.Correction{ID: id, Cost: 0})
		other.used(other.peek(perMinute(10)), 5)
		s.also("-unknown").settle(false, tierlimit.Correction{ID: id, Cost: 0})
		s.cost(id, 1)
	}},
	{"a reset forgives what is held", func(s *subject) {
		c := []tierlimit.Ceiling{concurrent("at_once", 2), perHour(100), perMinute(10)}
		id := s.held(time.Minute, 5, c...)
		s.reset("per_minute")
		s.allowed(3, perMinute(10))
		s.holds(s.look(c...), 0, 5, 0)
		got := s.cost(id, 0)
		if len(got.Limits) != 2 || got.Limits[0].Ended || !got.Limits[1].Ended {
			s.Errorf("settled: %+v", got)
		}
		s.used(s.look(c...), 0, 0, 3)
		again := s.held(time.Minute, 5, c...)
		s.reset()
		s.used(s.look(c...), 1, 0, 0) // it still runs
		s.cost(again, 9)
		s.used(s.look(c...), 0, 0, 0)
	}},
	{"as many holds are open as may be", func(s *subject) {
		ids := make([]tierlimit.HoldID, tierlimit.DefaultMaxHolds)
		for i := range ids {
			ids[i] = s.held(time.Minute, 1, perMinute(10_000))
		}
		_, o := s.hold(time.Hour, 1, perMinute(10_000))
		if o.Allowed || !o.TooManyHolds || ms(o.FirstExpiry) > time.Minute || o.FirstExpiry <= 0 {
			s.Fatalf("%+v", o)
		}
		s.used(s.allowed(1, perMinute(10_000)), int64(len(ids)+1))
		s.cost(ids[500], 0)
		s.held(time.Minute, 1, perMinute(10_000))
		list, err := s.Store.Holds(s.Context(), s.name)
		if err != nil || len(list) != len(ids) {
			s.Fatalf("%d holds, %v", len(list), err)
		}
	}},
	{"a concurrent limit says when the first of its open holds expires", func(s *subject) {
		c := concurrent("at_once", 3)
		first := s.held(2*time.Second, 1, c)
		s.held(time.Minute, 1, c)
		s.cost(first, 0)
		_, o := s.hold(time.Minute, 1, c)
		s.resetBy(o.Counts[0], time.Minute-slack, time.Minute)
		s.resetBy(s.look(c)[0], time.Minute-slack, time.Minute)
	}},
	{"open holds can be listed", func(s *subject) {
		late := s.held(time.Minute, 5, concurrent("at_once", 2), perMinute(10))
		soon := s.held(2*time.Second, 3, perMinute(10))
		list, err := s.Store.Holds(s.Context(), s.name)
		if err != nil || len(list) != 2 || list[0].ID != soon || list[1].ID != late {
			s.Fatalf("%+v, %v", list, err)
		}
		want := []tierlimit.HeldLimit{{Limit: "at_once", Cost: 1, Concurrent: true}, {Limit: "per_minute", Cost: 5}}
		if !slices.Equal(list[1].Limits, want) || list[1].Expires < s.Now().UnixMilli() {
			s.Errorf("%+v", list[1])
		}
	}},
	{"what expires keeps its charge and frees its place", func(s *subject) {
		c := []tierlimit.Ceiling{concurrent("at_once", 1), perMinute(10)}
		id := s.held(time.Second, 4, c...)
		s.Advance(time.Second + 10*time.Millisecond)
		s.settle(false, tierlimit.Correction{ID: id, Cost: 0})
		s.used(s.look(c...), 0, 4)
		s.holds(s.look(c...), 0, 0)
		s.held(time.Second, 1, c...)
	}},
	{"what expires is given back where the limit says so", func(s *subject) {
		c := []tierlimit.Ceiling{perHour(10), releasing(perMinute(10))}
		s.held(time.Second, 4, c...)
		kept := s.held(time.Minute, 3, c...)
		s.Advance(time.Second + 10*time.Millisecond)
		s.used(s.allowed(1, c...), 8, 4)
		s.cost(kept, 0)
		s.used(s.peek(c...), 5, 1)
	}},
	{"five at once that settle above their estimate pass the max by what the last ones cost", func(s *subject) {
		tokens := ceiling("tokens", 100, length(time.Hour))
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				for range 20 {
					id, o := s.hold(time.Minute, 20, tokens)
					if o.Allowed {
						s.cost(id, 25)
					}
				}
			})
		}
		wg.Wait()
		if used := s.peek(tokens)[0].Used; used < 81 || used > 125 {
			s.Errorf("%d used of 100, in holds of 20 that cost 25", used)
		}
	}},
}

var holdClockCases = []testCase{
	{"a hold is open until it expires and no longer", func(s *subject) {
		id := s.clockAt(at("2026-03-10T12:00:00Z")).held(time.Second, 4, perMinute(10))
		s.Advance(999 * time.Millisecond)
		s.renew(true, id, 2*time.Second)
		s.Advance(1999 * time.Millisecond)
		s.holds(s.look(perMinute(10)), 4)
		s.Advance(time.Millisecond)
		s.renew(false, id, time.Minute)
		s.holds(s.look(perMinute(10)), 0)
		s.used(s.look(perMinute(10)), 4)
	}},
	{"a settlement changes nothing in the window after", func(s *subject) {
		s.clockAt(at("2026-03-10T12:00:00Z"))
		id := s.held(time.Hour, 5, perHour(20), perMinute(10))
		s.Advance(time.Minute)
		s.allowed(2, perHour(20), perMinute(10))
		got := s.cost(id, 1)
		if got.Limits[0].Ended || !got.Limits[1].Ended || got.Limits[0].Used != 3 || got.Limits[1].Cost != 5 {
			s.Errorf("settled: %+v", got)
		}
		s.used(s.peek(perHour(20), perMinute(10)), 3, 2)
	}},
	{"a window that ended takes what was held along", func(s *subject) {
		s.clockAt(at("2026-03-10T12:00:00Z"))
		s.held(time.Hour, 5, perMinute(10))
		s.Advance(time.Minute)
		counts := s.look(perMinute(10))
		s.used(counts, 0)
		s.holds(counts, 0)
		s.held(time.Hour, 3, perMinute(10))
		s.holds(s.look(perMinute(10)), 3)
	}},
	{"a sliding window that has turned is settled no more", func(s *subject) {
		c := sliding(perMinute(10))
		s.clockAt(at("2026-03-10T12:00:00Z"))
		id := s.held(time.Hour, 6, c)
		again := s.held(time.Hour, 2, c)
		s.Advance(59 * time.Second)
		s.cost(again, 1)
		s.used(s.peek(c), 7)
		s.Advance(time.Second)
		if got := s.cost(id, 0); !got.Limits[0].Ended {
			s.Errorf("settled: %+v", got)
		}
		s.used(s.peek(c), 7)
	}},
	{"what expires is given back in its own window only", func(s *subject) {
		c := releasing(perMinute(10))
		s.clockAt(at("2026-03-10T12:00:00Z"))
		s.held(90*time.Second, 4, c)
		s.Advance(time.Minute)
		s.allowed(5, c)
		s.Advance(31 * time.Second)
		s.used(s.peek(c), 5)
	}},
	{"a place is free when the longest of its renewals is over", func(s *subject) {
		c := concurrent("at_once", 1)
		s.clockAt(at("2026-03-10T12:00:00Z"))
		id := s.held(time.Second, 1, c)
		for range 10 {
			s.Advance(900 * time.Millisecond)
			s.renew(true, id, time.Second)
			if _, o := s.hold(time.Second, 1, c); o.Allowed {
				s.Fatal("the place was given twice")
			}
		}
		s.Advance(time.Second)
		s.held(time.Second, 1, c)
		s.settle(false, tierlimit.Correction{ID: id, Cost: 0})
		if _, o := s.hold(time.Second, 1, c); o.Allowed {
			s.Error("a hold that had expired gave somebody else's place away")
		}
	}},
	{"a hold of a window that was shortened corrects none that begins then", func(s *subject) {
		s.clockAt(at("2026-03-10T12:00:00Z"))
		id := s.held(time.Hour, 5, perHour(10))
		short := ceiling("per_hour", 10, length(time.Minute))
		s.allowed(1, short)
		s.Advance(time.Minute)
		s.allowed(3, short)
		if got := s.cost(id, 0); !got.Limits[0].Ended {
			s.Errorf("settled: %+v", got)
		}
		s.used(s.peek(short), 3)
	}},
	{"a reset forgives what is held of a period, which goes on", func(s *subject) {
		day := ceiling("per_day", 10, period(tierlimit.Day))
		id := s.clockAt(at("2026-03-10T12:00:00Z")).held(time.Hour, 5, day)
		s.reset()
		s.allowed(3, day)
		if got := s.cost(id, 0); !got.Limits[0].Ended {
			s.Errorf("settled: %+v", got)
		}
		s.used(s.peek(day), 3)
	}},
}
