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
	windows []window
}

type window struct {
	limit string
	used  int64
	end   int64 // epoch milliseconds
}

// read returns the state of each ceiling's window as if c were charged when it
// fits them all, and as found otherwise. ends receives the windows' ends, 0 for
// one that is not running.
func (r *record) read(c *tierlimit.Charge, now time.Time, ends []int64) (counts []tierlimit.Count, fits bool) {
	nowMS := now.UnixMilli()
	counts = c.Room()
	fits = true
	for i := range c.Ceilings {
		ceiling := &c.Ceilings[i]
		end := ceiling.Window.End(now).UnixMilli()
		used, running := int64(0), false
		if w := r.find(ceiling.Name); w != nil && w.end > nowMS {
			// A window never lasts longer than its limit says now. A shortened end
			// is kept, charge or not: else a window that is full would be
			// shortened anew at every look, and never end.
			w.end = min(w.end, end)
			used, running, end = w.used, true, w.end
		}
		counts[i] = tierlimit.Count{}
		if running || ceiling.Window.Period != "" {
			counts[i].Reset = time.Duration(end-nowMS) * time.Millisecond
		}
		if running {
			ends[i] = end
		}
		counts[i].Used = used
		if ceiling.Max != tierlimit.Unlimited && used+c.Cost > ceiling.Max {
			fits = false
		}
	}
	return counts, fits
}

// charge writes c, which fits, and brings counts up to date.
func (r *record) charge(c *tierlimit.Charge, now time.Time, ends []int64, counts []tierlimit.Count) {
	nowMS := now.UnixMilli()
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool { return w.end <= nowMS })
	for i := range c.Ceilings {
		ceiling := &c.Ceilings[i]
		if ends[i] == 0 {
			ends[i] = ceiling.Window.End(now).UnixMilli()
		}
		counts[i] = tierlimit.Count{
			Used:  min(counts[i].Used+c.Cost, maxUsed),
			Reset: time.Duration(ends[i]-nowMS) * time.Millisecond,
		}
		w := r.find(ceiling.Name)
		if w == nil {
			r.windows = append(r.windows, window{limit: ceiling.Name})
			w = &r.windows[len(r.windows)-1]
		}
		w.used, w.end = counts[i].Used, ends[i]
	}
}

func (r *record) find(limit string) *window {
	for i := range r.windows {
		if r.windows[i].limit == limit {
			return &r.windows[i]
		}
	}
	return nil
}

func (r *record) forget(limits []string) {
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool { return slices.Contains(limits, w.limit) })
}

func (r *record) ended(nowMS int64) bool {
	return !slices.ContainsFunc(r.windows, func(w window) bool { return w.end > nowMS })
}
