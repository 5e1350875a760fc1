package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// summary is one line about r.
func (r *result) summary() string {
	var b strings.Builder
	for i, p := range r.phases {
		if p.Load == 0 {
			continue
		}
		fmt.Fprintf(&b, "%gx: %.2f (%.2f %.2f %.2f) p50 %v p99 %v top %v  ", p.Load, r.goodput(i), r.served(i, enterprise), r.served(i, pro), r.served(i, free),
			short(r.latency(i, 0.5)), short(r.latency(i, 0.99)), short(r.latency(i, 0.99, enterprise)))
	}
	fmt.Fprintf(&b, "recovery %v, the generator was late by %v", r.recovery(), short(r.delay()))
	return b.String()
}

// phaseAt returns the index of the phase with a load, -1 if there is none.
func (r *result) phaseAt(load float64) int {
	return slices.IndexFunc(r.phases, func(p phase) bool { return p.Load == load })
}

// goodput returns the answers in time of a phase as a part of the capacity.
func (r *result) goodput(phase int) float64 {
	good := 0
	for _, classes := range r.measured[phase].Seconds {
		for _, b := range classes {
			good += b.Good
		}
	}
	return float64(good) / r.phases[phase].Length.Seconds() / r.capacity
}

// served returns the part of the requests of a class in a phase that was answered in time.
func (r *result) served(phase, class int) float64 {
	return servedOf(r.measured[phase].Seconds, class)
}

func servedOf(seconds [][]bucket, class int) float64 {
	good, asked := 0, 0
	for _, classes := range seconds {
		good, asked = good+classes[class].Good, asked+classes[class].Asked
	}
	if asked == 0 {
		return 1
	}
	return float64(good) / float64(asked)
}

// latency returns a quantile of the latencies of answers in a phase.
func (r *result) latency(phase int, quantile float64, classes ...int) time.Duration {
	var all []time.Duration
	for of, list := range r.measured[phase].Latencies {
		if len(classes) == 0 || slices.Contains(classes, of) {
			all = append(all, list...)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(float64(len(all))*quantile), len(all)-1)]
}

// delay returns the delay that one of a hundred requests exceeded before it was sent, in the worst
// phase: a generator that is late measures itself.
func (r *result) delay() (worst time.Duration) {
	for _, m := range r.measured {
		if slices.Sort(m.Delays); len(m.Delays) > 0 {
			worst = max(worst, m.Delays[len(m.Delays)*99/100])
		}
	}
	return worst
}

// tolerance is what chance may add to the part of a tier that is served in five seconds.
const tolerance = 0.02

// disorder returns the number of five-second buckets of all phases in which light customers of a
// lower tier were served better than those of a higher one, and the number of all buckets.
func (r *result) disorder() (wrong, all int) {
	const n = int(bucketLength / time.Second)
	for i, m := range r.measured {
		for seconds := range slices.Chunk(m.Seconds, n) {
			if r.phases[i].Load == 0 {
				continue
			}
			all++
			e, p, f := servedOf(seconds, enterprise), servedOf(seconds, pro), servedOf(seconds, free)
			if p > e+tolerance || f > p+tolerance {
				wrong++
			}
		}
	}
	return wrong, all
}

// turn is how far the part of a tier that is served must move to count as a movement.
const turn = 0.2

// reversals returns how often in a minute the part of light customers that is served, from second
// to second, changes its direction by more than turn: that of the tier with most, in the phases
// with a load of 1 or more.
func (r *result) reversals() float64 {
	most := 0.0
	for _, of := range []int{enterprise, pro, free} {
		turns, minutes := 0, 0.0
		for i, m := range r.measured {
			if r.phases[i].Load < 1 {
				continue
			}
			var series []float64
			for _, second := range m.Seconds {
				series = append(series, servedOf([][]bucket{second}, of))
			}
			turns += countTurns(series, turn)
			minutes += r.phases[i].Length.Minutes()
		}
		if minutes > 0 {
			most = max(most, float64(turns)/minutes)
		}
	}
	return most
}

// countTurns returns how often a series changes its direction, where a movement of least or less
// is none.
func countTurns(series []float64, least float64) (turns int) {
	if len(series) == 0 {
		return 0
	}
	extreme, direction := series[0], 0
	for _, x := range series[1:] {
		switch {
		case direction == 0 && max(x-extreme, extreme-x) > least:
			direction, extreme = cmp.Compare(x, extreme), x
		case direction != 0 && cmp.Compare(x, extreme) == direction:
			extreme = x
		case direction > 0 && extreme-x > least, direction < 0 && x-extreme > least:
			direction, extreme = -direction, x
			turns++
		}
	}
	return turns
}

// scales reports whether r has multipliers.
func (r *result) scales() bool {
	return slices.ContainsFunc(r.states, func(s state) bool { return len(s.Multipliers) > 0 })
}

// multiplierTurns returns how often in a minute the multiplier of the tier free changed its
// direction, over the whole run.
func (r *result) multiplierTurns() float64 {
	var series []float64
	for _, s := range r.states {
		if m, ok := s.Multipliers["free"]; ok {
			series = append(series, m)
		}
	}
	return float64(countTurns(series, 0.001)) / (time.Duration(max(len(series), 1)) * stateEvery).Minutes()
}

// leastMultiplier returns the least multiplier of free while the service has used less than 70 % of
// its processor for 20 seconds, which a multiplier needs to rise from its floor at 0.05 a second; 0
// if that was never so.
func (r *result) leastMultiplier() float64 {
	const calm = int(20 * time.Second / stateEvery)
	least, quiet := 0.0, 0
	for _, s := range r.states {
		if quiet++; s.CPU >= 0.7 {
			quiet = 0
		}
		if m, ok := s.Multipliers["free"]; ok && quiet >= calm {
			least = min(cmp.Or(least, m), m)
		}
	}
	return least
}

// refusedEarly returns how many requests were refused at 70 % of the capacity, without those that
// a limit denied.
func (r *result) refusedEarly() (n int) {
	i := r.phaseAt(0.7)
	if i < 0 {
		return 0
	}
	for _, classes := range r.measured[i].Seconds {
		for _, b := range classes {
			n += b.Refused
		}
	}
	return n
}

// recovery returns how long after the end of the overload it took until in every later second all
// but 5 % of the light customers' requests were answered in time; 0 if that is so from the first
// request on.
func (r *result) recovery() time.Duration {
	last := len(r.phases) - 1
	seconds := r.measured[last].Seconds
	recovered := len(seconds)
	for recovered > 0 {
		s := seconds[recovered-1 : recovered]
		if servedOf(s, enterprise) < 0.95 || servedOf(s, pro) < 0.95 || servedOf(s, free) < 0.95 {
			break
		}
		recovered--
	}
	if recovered == 0 {
		return 0
	}
	return r.phases[last-1].Length + time.Duration(recovered)*time.Second
}

// short keeps three digits.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// middle returns the median.
func middle[T cmp.Ordered](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}
