// Package window is the arithmetic of windows: when they end, what counts at an
// instant, whether a charge fits, and how long until it does.
//
// The package is pure: instants and lengths are whole milliseconds, instants since
// the Unix epoch, and nothing here reads a clock or keeps anything. It is for those
// who write a tierlimit.Store; the engine, its deny cache and store/memstore use it.
// scripts/take.lua is its twin in Lua, and a fuzz test in store/redisstore holds the
// two against each other. Programs that only ask for decisions do not need it.
package window

import (
	"math/bits"
	"time"
)

// MaxUsed is where counts stop: the largest number that Lua holds exactly, so that
// all stores stop at the same one.
const MaxUsed = 1<<53 - 1

// A Kind is how a window runs. The numbers are those of scripts/take.lua.
type Kind uint8

// The kinds.
const (
	Fixed   Kind = 0 // of a fixed length, from the first charge on
	Day     Kind = 1 // a calendar day, or 24 hours from the anchor's time of day
	Week    Kind = 2 // a calendar week from Monday on, or from the anchor's weekday
	Month   Kind = 3 // a calendar month, or from the anchor's day of the month
	Sliding Kind = 4 // of a fixed length; the window before counts too, by Weighted

	// Concurrent is no window: it counts open holds. Only Later and Wait of this package
	// support it.
	Concurrent Kind = 5
)

// A Spec says how a limit counts over time. The zero Spec is not valid: a fixed
// window needs a length.
type Spec struct {
	Kind   Kind
	Length int64 // of Fixed and Sliding, in milliseconds
	Anchor int64 // of the periods: an instant at which one begins; 0 is the calendar
}

const (
	day    = 24 * 60 * 60 * 1000
	monday = 4 * day // began a week; day 0 was a Thursday
)

// End returns when a window that begins at now ends. For a period that is the
// first instant of the next one: an instant on the boundary belongs to the new
// period. A sliding window turns then: see State.
func (s Spec) End(now int64) int64 {
	switch s.Kind {
	case Day:
		return turn(now, s.Anchor, day)
	case Week:
		anchor := s.Anchor
		if anchor == 0 {
			anchor = monday
		}
		return turn(now, anchor, 7*day)
	case Month:
		at := time.UnixMilli(now).UTC()
		if end := s.month(at.Year(), at.Month()); end > now {
			return end
		}
		return s.month(at.Year(), at.Month()+1)
	default:
		return now + s.Length
	}
}

// turn returns the first instant after now that is a whole number of lengths from
// the anchor.
func turn(now, anchor, length int64) int64 {
	past := ((now-anchor)%length + length) % length
	return now + length - past
}

// month returns when the period of a month begins: on the anchor's day, or on the
// last day of a month that lacks it.
func (s Spec) month(year int, month time.Month) int64 {
	anchor := time.UnixMilli(s.Anchor).UTC()
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC)
	return time.Date(last.Year(), last.Month(), min(anchor.Day(), last.Day()),
		anchor.Hour(), anchor.Minute(), anchor.Second(), anchor.Nanosecond(), time.UTC).UnixMilli()
}

// A Stored window is what a store keeps of one. The zero Stored has not begun.
type Stored struct {
	Used int64 // since it began; of a sliding window, since it last turned
	// End is when the window ends. A sliding window turns one length before its end:
	// what was used since the last turn still counts, in part, until the end.
	End int64
	// Of a sliding window: what was used in the window before, and when that ended. It
	// counts only if that was one length before End: else it is of another length.
	Previous, PreviousEnd int64
}

// A State is what counts of a window at an instant.
type State struct {
	Used     int64 // what counts: for a sliding window Since and the weighted part of Previous
	Since    int64 // used since the window began, or last turned
	Reset    int64 // milliseconds until nothing counts; 0 for a fixed window that has not begun
	End      int64 // when the window ends, or a sliding one turns; 0 if it has not begun
	Previous int64 // of a sliding window: used in the window before
	Turn     int64 // of a sliding window: milliseconds until it turns; 0 if it has not begun
}

// Latest returns the latest end that a window of s may have at now. A window never
// lasts longer than its limit says now.
func (s Spec) Latest(now int64) int64 {
	end := s.End(now)
	if s.Kind == Sliding {
		end += s.Length
	}
	return end
}

// Advance returns the window that w is at now: empty once it has ended, turned if it
// slides and its turn has come, and with its end brought forward to Latest.
func (s Spec) Advance(w Stored, now int64) Stored {
	if w.End <= now {
		return Stored{}
	}
	w.End = min(w.End, s.Latest(now))
	turns := w.End - s.Length
	switch {
	case s.Kind != Sliding:
		w.Previous, w.PreviousEnd = 0, 0
	case turns <= now:
		return Stored{Previous: w.Used, PreviousEnd: w.End, End: w.End + s.Length}
	case w.PreviousEnd != turns:
		w.Previous, w.PreviousEnd = 0, 0
	}
	return w
}

// Charge returns w, as Advance left it, with cost added.
func (s Spec) Charge(w Stored, cost, now int64) Stored {
	if w.End == 0 {
		w.End = s.Latest(now)
	}
	w.Used = min(w.Used+cost, MaxUsed)
	return w
}

// State returns what counts at now of w, as Advance left it.
func (s Spec) State(w Stored, now int64) State {
	c := State{Used: w.Used, Since: w.Used, End: w.End, Reset: w.End - now}
	switch {
	case w.End == 0 && s.Kind != Fixed && s.Kind != Sliding:
		c.Reset = s.End(now) - now
	case w.End == 0:
		c.Reset = 0
	case s.Kind == Sliding:
		c.End = w.End - s.Length
		c.Previous, c.Turn = w.Previous, c.End-now
		c.Used = min(w.Used+Weighted(w.Previous, c.Turn, s.Length), MaxUsed)
		if w.Used == 0 {
			c.Reset = c.Turn
		}
	}
	return c
}

// Later returns c as it is elapsed milliseconds later, if nothing is charged
// meanwhile. ok is false once the window has ended or turned.
func (s Spec) Later(c State, elapsed int64) (later State, ok bool) {
	if c.Reset > 0 {
		if c.Reset -= elapsed; c.Reset <= 0 {
			return c, false
		}
	}
	if c.Turn > 0 {
		if c.Turn -= elapsed; c.Turn <= 0 {
			return c, false
		}
		c.Used = min(c.Since+Weighted(c.Previous, c.Turn, s.Length), MaxUsed)
	}
	return c, true
}

// Wait returns after how many milliseconds a charge of cost fits under most; at c it does
// not fit. A fixed window is empty again at its end. In a sliding one the charges of the
// window before lose weight with time, and from the turn on those of the current window.
// For a cost that never fits Wait returns c.Reset, when the window is empty.
func (s Spec) Wait(c State, most, cost int64) int64 {
	if s.Kind != Sliding || c.Turn == 0 {
		return c.Reset
	}
	if room := most - cost - c.Since; room >= 0 {
		return c.Turn - longest(c.Previous, room, c.Turn, s.Length)
	}
	room := max(most-cost, 0)
	return min(c.Turn+s.Length-longest(c.Since, room, s.Length, s.Length), c.Reset)
}

// longest returns the longest time before its turn, and at most turn, at which no
// more than room counts of a sliding window's previous charges: the largest t with
// Weighted(previous, t, length) <= room.
func longest(previous, room, turn, length int64) int64 {
	if previous <= room {
		return turn
	}
	hi, lo := bits.Mul64(uint64(room), uint64(length)) //nolint:gosec // neither is negative
	t, _ := bits.Div64(hi, lo, uint64(previous))       //nolint:gosec // room < previous, so that it fits
	return min(int64(t), turn)                         //nolint:gosec // below length
}

// Weighted returns the part of a sliding window's previous charges that counts turn
// milliseconds before the window turns: previous * turn / length, rounded up. It is
// the usual approximation by two counters; see for instance
// https://blog.cloudflare.com/counting-things-a-lot-of-different-things/.
func Weighted(previous, turn, length int64) int64 {
	if turn <= 0 || previous <= 0 {
		return 0
	}
	if turn >= length {
		return previous
	}
	hi, lo := bits.Mul64(uint64(previous), uint64(turn))
	lo, carry := bits.Add64(lo, uint64(length)-1, 0)    //nolint:gosec // length is above turn, which is positive
	part, _ := bits.Div64(hi+carry, lo, uint64(length)) //nolint:gosec // as above
	return int64(part)                                  //nolint:gosec // at most previous
}
