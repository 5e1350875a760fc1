package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

// What holds for charges that come at the same time, whether a store sends them
// one by one or together.
var togetherCases = []testCase{
	{"exactly the max is admitted to many at once", func(s *subject) {
		const most, callers, each = 100, 64, 16
		var admitted atomic.Int64
		s.together(callers, each, func(int, int) {
			if s.take(1, perHour(1<<40), perMinute(most)).Allowed {
				admitted.Add(1)
			}
		})
		if admitted.Load() != most {
			s.Fatalf("%d of %d admitted, want %d", admitted.Load(), callers*each, most)
		}
		s.used(s.peek(perHour(1<<40), perMinute(most)), most, most)
	}},
	{"each of many at once sees a count of its own", func(s *subject) {
		const callers, each = 64, 8
		var seen [callers*each + 1]atomic.Int64
		s.together(callers, each, func(int, int) {
			seen[s.allowed(1, perMinute(1<<40))[0].Used].Add(1)
		})
		for used := 1; used < len(seen); used++ {
			if seen[used].Load() != 1 {
				s.Fatalf("%d callers saw %d used", seen[used].Load(), used)
			}
		}
	}},
	{"charges of many sizes at once are each made whole or not", func(s *subject) {
		const most, callers, each = 500, 48, 12
		var charged atomic.Int64
		s.together(callers, each, func(caller, i int) {
			cost := int64((caller + i) % 6) // 0 peeks
			o := s.take(cost, perMinute(most))
			if o.Counts[0].Used > most {
				s.Errorf("%d used of %d", o.Counts[0].Used, most)
			}
			if o.Allowed {
				charged.Add(cost)
			} else if o.Counts[0].Used+cost <= most {
				s.Errorf("a charge of %d was denied at %d used of %d", cost, o.Counts[0].Used, most)
			}
			if used := o.Counts[0].Used; o.Allowed && used < cost {
				s.Errorf("a charge of %d left %d used", cost, used)
			}
		})
		s.used(s.peek(perMinute(most)), charged.Load())
	}},
	{"a sliding window is charged to its max by many at once, and not beyond", func(s *subject) {
		const most, callers, each = 100, 32, 8
		var admitted atomic.Int64
		s.together(callers, each, func(caller, _ int) {
			cost := int64(1 + caller%3)
			if s.take(cost, perHour(1<<40), sliding(perMinute(most))).Allowed {
				admitted.Add(cost)
			}
		})
		s.used(s.peek(perHour(1<<40), sliding(perMinute(most))), admitted.Load(), admitted.Load())
		if n := admitted.Load(); n > most || n < most-2 { // the last charge may be of three
			s.Fatalf("%d of %d admitted", n, most)
		}
	}},
	{"charges in many scopes at once share what they share", func(s *subject) {
		const callers, each = 48, 10
		scopes := [][]tierlimit.Ceiling{
			{perMinute(1 << 40)},
			{perMinute(1 << 40), ceiling("search", 60, length(time.Minute))},
			{ceiling("exports", 1<<40, length(time.Hour)), perMinute(1 << 40)},
		}
		var admitted [3]atomic.Int64
		s.together(callers, each, func(caller, _ int) {
			if s.take(1, scopes[caller%3]...).Allowed {
				admitted[caller%3].Add(1)
			}
		})
		if n := admitted[1].Load(); n != 60 {
			s.Errorf("%d searches admitted, want 60", n)
		}
		all := admitted[0].Load() + admitted[1].Load() + admitted[2].Load()
		exports := admitted[2].Load()
		s.used(s.peek(ceiling("exports", 1<<40, length(time.Hour)), perMinute(1<<40), ceiling("search", 60, length(time.Minute))), exports, all, 60)
	}},
	{"many subjects at once are counted apart", func(s *subject) {
		const callers, each = 64, 10
		s.together(callers, each, func(caller, i int) {
			x := s.also(fmt.Sprint("-", caller))
			x.used(x.allowed(1, perHour(1<<40), perMinute(1<<40)), int64(i+1), int64(i+1))
		})
	}},
	{"as many limits as a plan may have", func(s *subject) {
		var ceilings []tierlimit.Ceiling
		for i := range tierlimit.MaxLimits {
			ceilings = append(ceilings, ceiling(fmt.Sprintf("limit_%02d", i), int64(10+i), length(time.Minute)))
		}
		for n := int64(1); n <= 10; n++ {
			for i, c := range s.allowed(1, ceilings...) {
				if c.Used != n {
					s.Fatalf("limit %d: %d used, want %d", i, c.Used, n)
				}
			}
		}
		s.denied(1, ceilings...)
		s.used(s.allowed(6, ceilings[6:]...), 16)
		s.used(s.peek(ceilings[5], ceilings[15]), 10, 16)
	}},
}

// together runs do each times in every caller at once, until one fails.
func (s *subject) together(callers, each int, do func(caller, i int)) {
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := 0; i < each && !s.Failed(); i++ {
				do(caller, i)
			}
		})
	}
	wg.Wait()
}
