package guard

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxTiers bounds what a caller who invents tiers can make the guard remember.
	maxTiers = 64
	// maxPriority is the greatest priority that is told apart.
	maxPriority = 1 << 16
	// demandMemory is the time constant of the smoothed demand, demandEvery how often it is updated.
	demandMemory = 500 * time.Millisecond
	demandEvery  = 50 * time.Millisecond
)

// A tier counts its requests. Tiers of equal priority share a rank.
type tier struct {
	name     string
	rank     *rank
	admitted atomic.Uint64
	refused  atomic.Uint64
}

// A rank has the demand of one priority by level.
type rank struct {
	priority uint64
	asked    [levels]atomic.Uint32 // since the last update
	demand   [levels]float64       // requests a second, smoothed; used by one goroutine at a time
}

// A demand knows what is asked for, by tier and level.
type demand struct {
	tiers atomic.Pointer[[]*tier] // by descending priority; copied when it grows
	grow  sync.Mutex

	span  time.Duration // since the last update; used by one goroutine at a time, as total
	total float64       // requests a second
}

// tier returns the tier with this name and priority. Beyond maxTiers it returns the one that is
// nearest below, or else the lowest.
func (d *demand) tier(name string, priority int) *tier {
	p := uint64(min(max(priority, 0), maxPriority))
	for {
		list := d.tiers.Load()
		if list == nil {
			d.add(name, p)
			continue
		}
		for _, t := range *list {
			if t.rank.priority == p && t.name == name {
				return t
			}
		}
		if len(*list) < maxTiers {
			d.add(name, p)
			continue
		}
		for _, t := range *list {
			if t.rank.priority <= p {
				return t
			}
		}
		return (*list)[len(*list)-1]
	}
}

func (d *demand) add(name string, priority uint64) {
	d.grow.Lock()
	defer d.grow.Unlock()
	t := &tier{name: name}
	var list []*tier
	if old := d.tiers.Load(); old != nil {
		for _, other := range *old {
			switch {
			case other.rank.priority == priority && other.name == name:
				return // somebody else was faster
			case other.rank.priority == priority:
				t.rank = other.rank
			}
		}
		list = slices.Clone(*old)
	}
	if t.rank == nil {
		t.rank = &rank{priority: priority}
	}
	list = append(list, t)
	slices.SortStableFunc(list, func(a, b *tier) int { return cmp.Compare(b.rank.priority, a.rank.priority) })
	d.tiers.Store(&list)
}

func (d *demand) list() []*tier {
	if list := d.tiers.Load(); list != nil {
		return *list
	}
	return nil
}

// update lets elapsed pass, takes in what was asked for, and returns the total demand in requests a
// second.
func (d *demand) update(elapsed time.Duration) float64 {
	if d.span += elapsed; d.span < demandEvery {
		return d.total
	}
	weight, seconds := smoothing(d.span, demandMemory), d.span.Seconds()
	d.span, d.total = 0, 0
	var last *rank
	for _, t := range d.list() {
		if t.rank == last {
			continue
		}
		last = t.rank
		for i := range last.asked {
			n := last.asked[i].Load()
			if n > 0 {
				n = last.asked[i].Swap(0)
			}
			last.demand[i] += weight * (float64(n)/seconds - last.demand[i])
			d.total += last.demand[i]
		}
	}
	return d.total
}

// smoothing returns the weight of a sample over elapsed in an exponential average.
func smoothing(elapsed, memory time.Duration) float64 {
	return 1 - math.Exp(-elapsed.Seconds()/memory.Seconds())
}

// A key orders requests: by priority, then by level. No request has the key 0.
type key = uint64

func keyOf(priority uint64, level int) key { return priority*levels + uint64(level) + 1 } //nolint:gosec // not negative

// cut returns the key at which rate is used up when requests are admitted in descending order of
// keys, and the part of rate that is left for the requests with that key. If the demand fits
// rate, cut returns 0 and +Inf.
func (d *demand) cut(rate float64) (at key, left float64) {
	var last *rank
	for _, t := range d.list() {
		if t.rank == last {
			continue
		}
		last = t.rank
		for level := levels - 1; level >= 0; level-- {
			if last.demand[level] > rate {
				return keyOf(last.priority, level), rate
			}
			rate -= last.demand[level]
		}
	}
	return 0, math.Inf(1)
}
