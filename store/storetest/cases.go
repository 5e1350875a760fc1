package storetest

import (
	"math"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
)

// slack is how long a case may take on a busy machine before a window of a
// minute has visibly aged.
const slack = 30 * time.Second

var cases = []testCase{
	{"count and time left come back together", func(s *subject) {
		for n := int64(1); n <= 3; n++ {
			c := s.allowed(1, perMinute(3))
			s.used(c, n)
			s.resetBy(c[0], time.Minute-slack, time.Minute)
		}
		c := s.denied(1, perMinute(3))
		s.used(c, 3)
		s.resetBy(c[0], time.Minute-slack, time.Minute)
	}},
	{"a denied charge consumes nothing", func(s *subject) {
		s.allowed(3, perMinute(5))
		s.used(s.denied(5, perMinute(5)), 3)
		s.used(s.allowed(2, perMinute(5)), 5)
	}},
	{"all windows are charged or none", func(s *subject) {
		s.allowed(2, perHour(10), perMinute(2))
		s.used(s.denied(1, perHour(10), perMinute(2)), 2, 2)
		s.used(s.peek(perHour(10), perMinute(2)), 2, 2)
		s.used(s.denied(9, perHour(10), perMinute(100)), 2, 2)
		s.used(s.allowed(8, perHour(10), perMinute(100)), 10, 10)
	}},
	{"a denied charge begins no window", func(s *subject) {
		c := s.denied(6, perMinute(5))
		s.used(c, 0)
		if c[0].Reset != 0 {
			s.Fatalf("a window that has not begun resets in %v", ms(c[0].Reset))
		}
	}},
	{"a charge of exactly what is left fits", func(s *subject) {
		s.used(s.allowed(5, perMinute(5)), 5)
		s.denied(1, perMinute(5))
	}},
	{"a max of 0 denies and is no fault", func(s *subject) {
		s.used(s.denied(1, perMinute(0)), 0)
	}},
	{"unlimited counts and never denies", func(s *subject) {
		s.used(s.allowed(tierlimit.MaxCount, perMinute(tierlimit.Unlimited)), tierlimit.MaxCount)
		s.used(s.allowed(7, perMinute(tierlimit.Unlimited)), tierlimit.MaxCount+7)
	}},
	{"the count of an unlimited window stops where Lua stops being exact", func(s *subject) {
		for range 9 {
			s.allowed(tierlimit.MaxCount, perMinute(tierlimit.Unlimited))
		}
		s.used(s.allowed(tierlimit.MaxCount, perMinute(tierlimit.Unlimited)), 1<<53-1)
		s.used(s.allowed(1, perMinute(tierlimit.Unlimited)), 1<<53-1)
		s.used(s.denied(1, perMinute(tierlimit.MaxCount)), 1<<53-1)
	}},
	{"the largest max is exact", func(s *subject) {
		s.used(s.allowed(tierlimit.MaxCount-1, perMinute(tierlimit.MaxCount)), tierlimit.MaxCount-1)
		s.denied(2, perMinute(tierlimit.MaxCount))
		s.used(s.allowed(1, perMinute(tierlimit.MaxCount)), tierlimit.MaxCount)
		s.denied(1, perMinute(tierlimit.MaxCount))
	}},
	{"a charge of nothing reads and begins no window", func(s *subject) {
		c := s.peek(perMinute(5))
		s.used(c, 0)
		if c[0].Reset != 0 {
			s.Fatalf("a peek began a window that resets in %v", ms(c[0].Reset))
		}
		s.allowed(2, perMinute(5))
		s.used(s.peek(perMinute(5)), 2)
		s.used(s.peek(perMinute(5)), 2)
	}},
	{"a raised max acts at once and keeps usage", func(s *subject) {
		s.allowed(5, perMinute(5))
		s.denied(1, perMinute(5))
		s.used(s.allowed(1, perMinute(100)), 6)
	}},
	{"a lowered max leaves what was used, and no less than nothing", func(s *subject) {
		s.allowed(50, perMinute(100))
		s.used(s.denied(1, perMinute(5)), 50)
		s.used(s.allowed(1, perMinute(100)), 51)
	}},
	{"a window ends on time however often it is charged", func(s *subject) {
		w := ceiling("burst", 1000, length(300*time.Millisecond))
		first := s.allowed(1, w)[0].Reset
		s.Advance(150 * time.Millisecond)
		if c := s.allowed(1, w); c[0].Used == 2 && c[0].Reset > first-140 {
			s.Fatalf("a charge moved the window's end from %v to %v", ms(first), ms(c[0].Reset))
		}
		s.Advance(151 * time.Millisecond)
		s.used(s.allowed(1, w), 1)
	}},
	{"a client that keeps retrying is released on time", func(s *subject) {
		w := ceiling("burst", 1, length(200*time.Millisecond))
		s.allowed(1, w)
		for range 5 {
			s.take(1, w)
		}
		s.Advance(201 * time.Millisecond)
		s.used(s.allowed(1, w), 1)
	}},
	{"a window shorter than a second holds its max", func(s *subject) {
		w := ceiling("burst", 3, length(900*time.Millisecond))
		allowed := 0
		for range 50 {
			if s.take(1, w).Allowed {
				allowed++
			}
		}
		if allowed != 3 {
			s.Fatalf("%d of 50 allowed in one window of 3", allowed)
		}
	}},
	{"limits that are not asked for keep their count", func(s *subject) {
		search := ceiling("search", 10, length(time.Hour))
		s.allowed(4, perMinute(10), search)
		s.allowed(1, perMinute(10))
		s.used(s.peek(perMinute(10), search), 5, 4)
	}},
	{"a shortened window acts at once", func(s *subject) {
		s.allowed(5, perHour(5))
		short := ceiling("per_hour", 5, length(100*time.Millisecond))
		s.resetBy(s.denied(1, short)[0], 0, 100*time.Millisecond)
		// What is stored still ends in an hour; the limit in force decides.
		s.allowed(1, ceiling("per_hour", 6, length(100*time.Millisecond)))
		s.Advance(101 * time.Millisecond)
		s.used(s.allowed(1, short), 1)
	}},
	{"a read shortens no window", func(s *subject) {
		s.allowed(5, perHour(5))
		s.resetBy(s.peek(ceiling("per_hour", 5, length(100*time.Millisecond)))[0], 0, 100*time.Millisecond)
		s.resetBy(s.peek(perHour(5))[0], time.Hour-slack, time.Hour)
		s.resetBy(s.denied(1, perHour(5))[0], time.Hour-slack, time.Hour)
	}},
	{"a shortened window ends although it is full and asked all the time", func(s *subject) {
		s.allowed(5, perHour(5))
		short := ceiling("per_hour", 5, length(150*time.Millisecond))
		s.denied(1, short)
		s.Advance(100 * time.Millisecond)
		s.take(1, short)
		s.Advance(51 * time.Millisecond)
		s.used(s.allowed(1, short), 1)
	}},
	{"a lengthened window leaves the running end", func(s *subject) {
		s.allowed(1, perMinute(5))
		s.resetBy(s.allowed(1, ceiling("per_minute", 5, length(time.Hour)))[0], time.Minute-slack, time.Minute)
	}},
	{"a calendar period ends where the calendar says", func(s *subject) {
		for _, p := range []tierlimit.Period{tierlimit.Day, tierlimit.Week, tierlimit.Month} {
			w := period(p)
			before := s.Now()
			c := s.allowed(1, ceiling(string(p), 5, w))
			latest := w.End(before).Sub(before.Truncate(time.Millisecond))
			if w.End(before) != w.End(s.Now()) {
				s.Logf("%s turned during the test: only the new one can be checked", p)
				latest = w.End(s.Now()).Sub(before)
			}
			s.resetBy(c[0], latest-slack, latest+ms(1))
		}
	}},
	{"reset forgets everything", func(s *subject) {
		s.allowed(5, perHour(5), perMinute(5))
		s.reset()
		s.used(s.peek(perHour(5), perMinute(5)), 0, 0)
		s.reset()
	}},
	{"reset of one limit leaves the others", func(s *subject) {
		s.allowed(5, perHour(9), perMinute(5))
		s.reset("per_minute", "no_such_limit")
		s.used(s.allowed(1, perHour(9), perMinute(5)), 6, 1)
		s.reset("per_hour", "per_minute")
		s.used(s.peek(perHour(9), perMinute(5)), 0, 0)
	}},
	{"names that locales order in their own way", func(s *subject) {
		for n := int64(1); n <= 2; n++ {
			s.used(s.allowed(1, ceiling("api_writes", 2, length(time.Minute)), ceiling("apikeys", 5, length(time.Minute))), n, n)
			s.used(s.allowed(1, ceiling("per-minute", 5, length(time.Minute)), ceiling("per_day", 2, length(time.Hour))), n, n)
		}
		s.denied(1, ceiling("api_writes", 2, length(time.Minute)), ceiling("apikeys", 5, length(time.Minute)))
	}},
	{"subjects never share a counter", func(s *subject) {
		names := []string{
			"a}{b", "{a}", "}", "{", "a}", "tl:{a}", "a%7Db", "a}b", "a%257Db", "a b", "a+b", "a%20b", "*", "a*", "?",
			"ü", "u\u0308", "\u202eabc", "😀", "a/b", "a\\b", "a'b", `a"b`, "a;b", "-1", "0", "nil", strings.Repeat("x", tierlimit.MaxSubject),
		}
		for i, name := range names {
			s.as(name).reset()
			s.used(s.as(name).allowed(int64(i+1), perMinute(100)), int64(i+1))
		}
		for i, name := range names {
			s.used(s.as(name).peek(perMinute(100)), int64(i+1))
			s.as(name).reset()
		}
	}},
	{"what no store should see is refused and changes nothing", func(s *subject) {
		s.allowed(2, perMinute(5))
		for name, c := range map[string]tierlimit.Charge{
			"negative cost":    Charge(s.name, -1, perMinute(5)),
			"huge cost":        Charge(s.name, tierlimit.MaxCount+1, perMinute(5)),
			"largest integer":  Charge(s.name, math.MaxInt64, perMinute(5)),
			"no ceilings":      {Subject: s.name, Cost: 1},
			"an empty subject": Charge("", 1, perMinute(5)),
			"a long subject":   Charge(strings.Repeat("x", 10_000), 1, perMinute(5)),
			"a newline":        Charge("a\nb", 1, perMinute(5)),
		} {
			if o, err := s.Store.Take(s.Context(), c); err == nil {
				s.Errorf("%s: answered %+v", name, o)
			}
		}
		s.used(s.peek(perMinute(5)), 2)
	}},
}
