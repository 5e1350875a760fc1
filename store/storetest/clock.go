package storetest

import (
	"time"

	"github.com/tierlimit/tierlimit"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02T15:04:05.999Z07:00", s)
	if err != nil {
		panic(err)
	}
	return t
}

var clockCases = []testCase{
	{"a window holds to its last millisecond and not beyond", func(s *subject) {
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(5, perMinute(5))
		s.clockAt(at("2026-03-01T12:00:59.999Z"))
		c := s.denied(1, perMinute(5))
		s.resetBy(c[0], 0, ms(1))
		s.clockAt(at("2026-03-01T12:01:00Z"))
		c = s.allowed(1, perMinute(5))
		s.used(c, 1)
		s.resetBy(c[0], time.Minute-ms(1), time.Minute)
	}},
	{"each window ends by itself", func(s *subject) {
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(2, perHour(10), perMinute(2))
		s.Advance(time.Minute)
		s.used(s.allowed(1, perHour(10), perMinute(2)), 3, 1)
		s.Advance(59 * time.Minute)
		s.used(s.allowed(1, perHour(10), perMinute(2)), 1, 1)
	}},
	{"calendar periods turn at their boundary", func(s *subject) {
		for _, c := range []struct {
			period     tierlimit.Period
			last, next string // the last instant of a period, and the end of the one after it
		}{
			{tierlimit.Day, "2026-02-28T23:59:59.999Z", "2026-03-02T00:00:00Z"},
			{tierlimit.Day, "2028-02-28T23:59:59.999Z", "2028-03-01T00:00:00Z"},
			{tierlimit.Week, "2026-11-22T23:59:59.999Z", "2026-11-30T00:00:00Z"},
			{tierlimit.Week, "2027-01-03T23:59:59.999Z", "2027-01-11T00:00:00Z"},
			{tierlimit.Month, "2026-01-31T23:59:59.999Z", "2026-03-01T00:00:00Z"},
			{tierlimit.Month, "2028-01-31T23:59:59.999Z", "2028-03-01T00:00:00Z"},
			{tierlimit.Month, "2026-12-31T23:59:59.999Z", "2027-02-01T00:00:00Z"},
			{tierlimit.Month, "2100-01-31T23:59:59.999Z", "2100-03-01T00:00:00Z"},
			{tierlimit.Month, "2026-03-30T23:59:59.999Z", "2026-04-01T00:00:00Z"},
		} {
			x, w := s.also(c.last), ceiling("quota", 5, period(c.period))
			x.clockAt(at(c.last))
			first := x.allowed(5, w)
			x.Advance(ms(first[0].Reset - 1))
			x.denied(1, w)
			x.Advance(ms(1))
			got := x.allowed(1, w)
			x.used(got, 1)
			if first[0].Reset > 1 {
				continue // the 30th of March: the month was not over
			}
			if end := x.Now().Add(ms(got[0].Reset)); !end.Equal(at(c.next)) {
				s.Errorf("%s after %s ends at %s, want %s", c.period, c.last, end.UTC(), c.next)
			}
		}
	}},
	{"no fresh quota on the 31st", func(s *subject) {
		w := ceiling("per_month", 5, period(tierlimit.Month))
		s.clockAt(at("2026-03-01T00:00:00Z")).allowed(5, w)
		s.clockAt(at("2026-03-31T23:59:59Z")).denied(1, w)
		s.clockAt(at("2026-04-01T00:00:00Z")).allowed(1, w)
	}},
	{"an anchored month turns at its own instant, and on the last day where it has no such day", func(s *subject) {
		w := ceiling("per_month", 5, monthly("2027-01-31T17:03:04Z"))
		for _, turn := range []string{
			"2027-01-31T17:03:04Z", "2027-02-28T17:03:04Z", "2027-03-31T17:03:04Z", "2027-04-30T17:03:04Z",
			"2027-12-31T17:03:04Z", "2028-01-31T17:03:04Z", "2028-02-29T17:03:04Z", "2028-03-31T17:03:04Z",
		} {
			x := s.also(turn)
			x.clockAt(at(turn).Add(-ms(1)))
			x.resetBy(x.allowed(5, w)[0], 0, ms(1))
			x.denied(1, w)
			x.clockAt(at(turn))
			x.used(x.allowed(1, w), 1)
		}
	}},
	{"an anchored month gives no fresh quota at the calendar's", func(s *subject) {
		w := ceiling("per_month", 5, monthly("2025-12-31T09:00:00Z"))
		s.clockAt(at("2026-03-30T00:00:00Z")).allowed(5, w)
		s.clockAt(at("2026-03-31T08:59:59.999Z")).denied(1, w)
		s.clockAt(at("2026-03-31T09:00:00Z"))
		if c := s.allowed(5, w); !s.Now().Add(ms(c[0].Reset)).Equal(at("2026-04-30T09:00:00Z")) {
			s.Fatalf("it ends in %v", ms(c[0].Reset))
		}
		s.clockAt(at("2026-04-01T00:00:00Z")).denied(1, w)
	}},
	{"anchored days and weeks turn at their own instant", func(s *subject) {
		anchor := at("2026-06-17T15:30:00Z").UnixMilli() // a Wednesday
		day, week := ceiling("day", 5, tierlimit.Window{Period: tierlimit.Day, Anchor: anchor}), ceiling("week", 5, tierlimit.Window{Period: tierlimit.Week, Anchor: anchor})
		c := s.clockAt(at("2026-03-01T12:00:00Z")).allowed(1, day, week) // a Sunday, before the anchor
		if end := s.Now().Add(ms(c[0].Reset)); !end.Equal(at("2026-03-01T15:30:00Z")) {
			s.Errorf("the day ends at %s", end)
		}
		if end := s.Now().Add(ms(c[1].Reset)); !end.Equal(at("2026-03-04T15:30:00Z")) {
			s.Errorf("the week ends at %s", end)
		}
	}},
	{"a sliding window admits no burst about its turn", func(s *subject) {
		w := sliding(perMinute(60))
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(1, w) // it turns at 12:01
		s.clockAt(at("2026-03-01T12:00:59Z")).allowed(59, w)
		s.clockAt(at("2026-03-01T12:01:00Z")).denied(1, w)
		s.clockAt(at("2026-03-01T12:01:30Z"))
		s.used(s.peek(w), 30)
		s.denied(31, w)
		s.used(s.allowed(30, w), 60)
		s.clockAt(at("2026-03-01T12:02:00Z")) // the 30 are of the window before now
		s.used(s.denied(31, w), 30)
		s.clockAt(at("2026-03-01T12:02:59.999Z"))
		s.used(s.peek(w), 1)
		s.clockAt(at("2026-03-01T12:03:00Z"))
		c := s.peek(w)
		s.used(c, 0)
		if c[0].Reset != 0 {
			s.Errorf("an empty sliding window resets in %v", ms(c[0].Reset))
		}
	}},
	{"a reset of a sliding window forgets the one before too", func(s *subject) {
		w := sliding(perMinute(5))
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(5, w)
		s.clockAt(at("2026-03-01T12:01:30Z"))
		s.used(s.allowed(1, w), 4)
		s.reset("per_minute")
		s.used(s.peek(w), 0)
	}},
	{"a previous window of another length does not count", func(s *subject) {
		minute, half := sliding(perMinute(100)), sliding(ceiling("per_minute", 100, length(30*time.Second)))
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(40, minute)
		s.clockAt(at("2026-03-01T12:01:00Z"))
		s.used(s.allowed(1, minute), 41)
		s.used(s.allowed(1, half), 2)
		s.used(s.allowed(1, minute), 3)
	}},
	{"an anchor that was wrong for a while moves no end that is only read", func(s *subject) {
		right, wrong := ceiling("per_month", 100, monthly("2026-01-20T00:00:00Z")), ceiling("per_month", 100, monthly("2026-01-11T00:00:00Z"))
		s.clockAt(at("2026-03-10T12:00:00Z")).allowed(50, right)
		s.used(s.peek(wrong), 50)
		if c := s.peek(right); c[0].End != at("2026-03-20T00:00:00Z").UnixMilli() {
			s.Errorf("it ends at %s", time.UnixMilli(c[0].End).UTC())
		}
	}},
	{"a sliding window of a fixed one keeps its usage", func(s *subject) {
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(10, perMinute(10))
		s.denied(1, sliding(perMinute(10)))
		s.denied(1, perMinute(10))
	}},
	{"a month shortened to a day ends with the day", func(s *subject) {
		s.clockAt(at("2026-03-10T12:00:00Z")).allowed(5, ceiling("quota", 5, period(tierlimit.Month)))
		daily := ceiling("quota", 5, period(tierlimit.Day))
		s.resetBy(s.denied(1, daily)[0], 12*time.Hour-ms(1), 12*time.Hour)
		s.clockAt(at("2026-03-10T23:59:59.999Z")).denied(1, daily)
		s.clockAt(at("2026-03-11T00:00:00Z")).allowed(1, daily)
	}},
	{"a clock that steps back does not lengthen a window", func(s *subject) {
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(5, perMinute(5))
		s.clockAt(at("2026-03-01T06:00:00Z"))
		s.resetBy(s.denied(1, perMinute(5))[0], 0, time.Minute)
		s.Advance(30 * time.Second)
		s.resetBy(s.denied(1, perMinute(5))[0], 0, 30*time.Second)
		s.Advance(30 * time.Second)
		s.used(s.allowed(1, perMinute(5)), 1)
	}},
	{"a clock that steps forward ends windows and no more", func(s *subject) {
		s.clockAt(at("2026-03-01T12:00:00Z")).allowed(5, perMinute(5))
		s.clockAt(at("2026-03-01T18:00:00Z"))
		s.used(s.allowed(1, perMinute(5)), 1)
	}},
}
