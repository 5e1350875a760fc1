package memstore

import (
	"slices"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/window"
)

// A record is one subject's windows. A plan has a few, so a slice that is searched
// beats a map.
type record struct {
	unknown bool // see tierlimit.Charge.Unknown
	windows []counted
	holds   map[tierlimit.HoldID]*hold
	seen    map[string]places // by concurrent limit: open holds in the shared store

	nextExpiry int64 // no hold expires before this instant
}

// A counted window is one of a limit.
type counted struct {
	limit string
	window.Stored
	// own is what this process granted by itself: the rest of Used is what the store had
	// counted, at an instant of its clock.
	own int64
	at  int64
}

// sameWindow is how far two views of one window's end may lie apart: clocks differ, and
// answers take a while.
const sameWindow = 2000 // milliseconds

// stepBack is how far an answer may be older than the one before: further back it was the
// clock of the store that was set.
const stepBack = 10_000 // milliseconds

// see brings r to what the store had counted at an instant. What this process granted of
// the same window stays granted; an answer that was overtaken changes nothing.
func (r *record) see(limit string, stored window.Stored, at, now int64) {
	w := counted{limit: limit, Stored: stored, at: at}
	if i := r.index(limit); i >= 0 && r.windows[i].End > now {
		old := &r.windows[i]
		if late := old.at - at; late > 0 && late < stepBack || late == 0 && stored.Used < old.Used-old.own {
			return
		}
		if apart := old.End - stored.End; -sameWindow < apart && apart < sameWindow {
			w.own = old.own
			w.Used = min(w.Used+w.own, window.MaxUsed)
		}
	}
	r.put(w)
}

// find returns the window of a limit as it stands at now; its limit is "" if it is not
// in r.
func (r *record) find(limit string, spec window.Spec, now int64) counted {
	i := r.index(limit)
	if i < 0 {
		return counted{}
	}
	w := r.windows[i]
	stored := spec.Advance(w.Stored, now)
	if stored.Used == 0 || stored.End > w.End { // it has ended, or turned
		w.own = 0
	}
	w.Stored = stored
	return w
}

func (r *record) index(limit string) int {
	return slices.IndexFunc(r.windows, func(w counted) bool { return w.limit == limit })
}

// put keeps a window.
func (r *record) put(w counted) {
	if i := r.index(w.limit); i >= 0 {
		r.windows[i] = w
		return
	}
	r.windows = append(r.windows, w)
}

// shorten keeps an end that was brought forward, and leaves everything else as it is.
// Without it a window that is full would be shortened anew with each charge that is
// denied, and never end.
func (r *record) shorten(limit string, spec window.Spec, now int64) {
	if i := r.index(limit); i >= 0 && r.windows[i].End > now {
		r.windows[i].End = min(r.windows[i].End, spec.Latest(now))
	}
}

func (r *record) dropEnded(now int64) {
	r.windows = slices.DeleteFunc(r.windows, func(w counted) bool { return w.End <= now })
}

// forget deletes the windows of limits, or of all limits if limits is empty. The charges of
// open holds to these windows are forgiven.
func (r *record) forget(limits []string) {
	named := func(limit string) bool { return len(limits) == 0 || slices.Contains(limits, limit) }
	r.windows = slices.DeleteFunc(r.windows, func(w counted) bool { return named(w.limit) })
	for _, h := range r.holds {
		for i := range h.limits {
			if c := &h.limits[i]; named(c.limit) {
				c.end, c.turns = 0, 0
			}
		}
	}
}

// ended reports whether nothing in r matters any more.
func (r *record) ended(now int64) bool {
	for i := range r.windows {
		if r.windows[i].End > now {
			return false
		}
	}
	for _, h := range r.holds {
		if h.expires > now {
			return false
		}
	}
	for _, p := range r.seen {
		if p.until > now {
			return false
		}
	}
	return true
}
