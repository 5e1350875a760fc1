package memstore

import (
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
)

// maxUsed is where the count of an unlimited window stops: the largest number
// Lua holds exactly, so that both stores stop at the same.
const maxUsed = 1<<53 - 1

// A record is one subject's windows. A plan has a few, so a slice that is
// searched beats a map.
type record struct {
	windows  []window
	refunded []refunded
	resets   []window // when windows that still run were reset, in used
}

// A window counts until its end. A sliding one is two: what was used since it
// last turned, which counts until the turn after the next, and before that what
// was used in the window before.
type window struct {
	limit  string
	before bool
	used   int64
	end    int64 // epoch milliseconds
}

// A refunded charge is remembered for as long as it could be refunded again.
type refunded struct {
	nonce uint64
	end   int64
}

// A view is a ceiling's window at one instant.
type view struct {
	used     int64 // since it began, or last turned
	end      int64 // 0: it has not begun
	previous int64 // of a sliding window: used in the window before
	turn     int64 // of a sliding window: when it turns
}

// look returns the window of ceiling at now.
func (r *record) look(ceiling *tierlimit.Ceiling, now time.Time) view {
	nowMS := now.UnixMilli()
	w := r.find(ceiling.Name, false)
	if w == nil || w.end <= nowMS {
		return view{}
	}
	// A window never lasts longer than its limit says now. A shortened end is
	// kept, charge or not: else a window that is full would be shortened anew at
	// every look, and never end.
	w.end = min(w.end, latest(ceiling, now))
	v := view{used: w.used, end: w.end}
	if !ceiling.Sliding {
		return v
	}
	length := ceiling.Window.Length.Milliseconds()
	v.turn = v.end - length
	if v.turn <= nowMS {
		return view{previous: v.used, turn: v.end, end: v.end + length}
	}
	if before := r.find(ceiling.Name, true); before != nil && before.end == v.turn {
		v.previous = before.used
	}
	return v
}

// latest is when a window that begins now ends, and with it the one before that
// a sliding window looks at.
func latest(ceiling *tierlimit.Ceiling, now time.Time) int64 {
	end := ceiling.Window.End(now)
	if ceiling.Sliding {
		end = end.Add(ceiling.Window.Length)
	}
	return end.UnixMilli()
}

// count is v as a store answers it.
func (v *view) count(ceiling *tierlimit.Ceiling, now time.Time) tierlimit.Count {
	nowMS := now.UnixMilli()
	c := tierlimit.Count{Used: v.used, End: v.end}
	switch {
	case v.end == 0:
		if ceiling.Window.Period != "" {
			c.Reset = time.Duration(latest(ceiling, now)-nowMS) * time.Millisecond
		}
	case ceiling.Sliding:
		c.End = v.turn
		c.Previous, c.Turn = v.previous, time.Duration(v.turn-nowMS)*time.Millisecond
		c.Used = min(c.Used+tierlimit.Weighted(c.Previous, c.Turn, ceiling.Window.Length), maxUsed)
		c.Reset = c.Turn
		if v.used > 0 {
			c.Reset = time.Duration(v.end-nowMS) * time.Millisecond
		}
	default:
		c.Reset = time.Duration(v.end-nowMS) * time.Millisecond
	}
	return c
}

// charge adds cost to a window that was looked at, and keeps it.
func (r *record) charge(ceiling *tierlimit.Ceiling, cost int64, v *view, now time.Time) {
	if v.end == 0 {
		v.end = latest(ceiling, now)
		v.turn = v.end - ceiling.Window.Length.Milliseconds()
	}
	v.used = min(v.used+cost, maxUsed)
	r.put(window{limit: ceiling.Name, used: v.used, end: v.end})
	if ceiling.Sliding && v.previous > 0 {
		r.put(window{limit: ceiling.Name, before: true, used: v.previous, end: v.turn})
	}
}

func (r *record) put(w window) {
	if old := r.find(w.limit, w.before); old != nil {
		*old = w
		return
	}
	r.windows = append(r.windows, w)
}

func (r *record) find(limit string, before bool) *window {
	for i := range r.windows {
		if r.windows[i].limit == limit && r.windows[i].before == before {
			return &r.windows[i]
		}
	}
	return nil
}

// refund takes off what f still can, and reports whether that is anything.
func (r *record) refund(f *tierlimit.Refund, nowMS int64) bool {
	r.refunded = slices.DeleteFunc(r.refunded, func(old refunded) bool { return old.end <= nowMS })
	if slices.ContainsFunc(r.refunded, func(old refunded) bool { return old.nonce == f.Nonce }) {
		return false
	}
	done := false
	for i := range f.Windows {
		asked := &f.Windows[i]
		w := r.find(asked.Limit, false)
		if w != nil && w.end == asked.End+asked.Length && asked.End > nowMS && w.used > 0 && f.At > r.resetAt(asked.Limit) {
			w.used = max(w.used-f.Cost, 0)
			done = true
		}
	}
	if done {
		r.refunded = append(r.refunded, refunded{f.Nonce, f.LastEnd()})
	}
	return done
}

func (r *record) dropEnded(nowMS int64) {
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool { return w.end <= nowMS })
}

// forget drops the windows of the limits, or of all where none is named, and
// remembers when: a period that goes on has the same end as before, and a refund
// must not give back what was forgiven.
func (r *record) forget(limits []string, nowMS int64) {
	r.resets = slices.DeleteFunc(r.resets, func(w window) bool { return w.end <= nowMS })
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool {
		if len(limits) > 0 && !slices.Contains(limits, w.limit) {
			return false
		}
		if w.end > nowMS {
			r.resets = append(r.resets, window{limit: w.limit, used: nowMS, end: w.end})
		}
		return true
	})
}

// resetAt is when the limit's window was reset last, 0 if it was not.
func (r *record) resetAt(limit string) (at int64) {
	for i := range r.resets {
		if r.resets[i].limit == limit {
			at = max(at, r.resets[i].used)
		}
	}
	return at
}

func (r *record) ended(nowMS int64) bool {
	runs := func(w window) bool { return w.end > nowMS }
	return !slices.ContainsFunc(r.windows, runs) && !slices.ContainsFunc(r.resets, runs) &&
		!slices.ContainsFunc(r.refunded, func(f refunded) bool { return f.end > nowMS })
}
