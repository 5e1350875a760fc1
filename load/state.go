package load

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

const (
	// stepEvery is the time between two steps of the state.
	stepEvery = 500 * time.Millisecond
	// smoothing is the weight of a new value (an EWMA with a time constant of ten seconds). A limit
	// lowers the load that lowers it: with a curve g times as steep as the load answers, the loop
	// swings unless smoothing < 2/(1+g). The built-in curve of free falls by .9 within .2 of load,
	// so g is 5.4 when greedy customers of free ask for 1.2 of the capacity; and what a raised
	// limit lets in comes at once, as denied customers wait for it. TestTheLoopSettles measures it:
	// with .3 multipliers turn 60 times a minute, with .1 12 times, with .05 5 times.
	smoothing = 0.05
	// grid is the smallest difference of two multipliers, so that a window sees few changes.
	grid = 0.05
	// restSteps is the number of steps that a multiplier rests before it rises: a second.
	restSteps = 2
	// margin is how much lower the load must be to raise a multiplier than it was to lower it.
	margin = 0.02
)

// A state is what a step of the law needs of the steps before, and the multipliers that follow.
// Replicas with the same state have the same multipliers, so the state is what they share: the
// readings alone would not do, because replicas that started at different times, or missed a
// reading, smooth them to different values. A state has no instants: it counts steps.
type state struct {
	Step     int64                `json:"step"`     // the number of steps before
	CPU      float64              `json:"cpu"`      // the load at the last step that knew it
	Smoothed float64              `json:"smoothed"` // what the curves follow
	Known    bool                 `json:"known"`    // whether there was a fresh reading
	Tiers    map[string]tierState `json:"tiers"`
}

type tierState struct {
	Multiplier float64 `json:"multiplier"`
	Before     float64 `json:"before"` // the multiplier of the step before
	Rested     int     `json:"rested"` // steps since the multiplier moved, at most restSteps
}

// next returns the state after one more step: each tier moves towards its curve, down at once and
// up by one step of the grid at a time. A tier never has more than a tier of higher priority.
// known is false if no reading is fresh: then multipliers rise to 1. next does not change s.
func (s state) next(cpu float64, known bool, list []tiers.Tier) state {
	n := state{Step: s.Step + 1, CPU: s.CPU, Smoothed: s.Smoothed, Known: known, Tiers: make(map[string]tierState, len(list))}
	if known {
		n.CPU = cpu
		n.Smoothed = cpu
		if s.Known {
			n.Smoothed = s.Smoothed + smoothing*(cpu-s.Smoothed)
		}
	}
	ordered := slices.Clone(list)
	slices.SortStableFunc(ordered, func(a, b tiers.Tier) int { return cmp.Compare(b.Priority, a.Priority) })
	above, level := 1.0, 1.0 // the least of higher priorities, and of this one
	for i := range ordered {
		t := &ordered[i]
		if i > 0 && ordered[i-1].Priority != t.Priority {
			above = level
		}
		old, there := s.Tiers[t.Key]
		if !there {
			old = tierState{Multiplier: 1, Rested: restSteps}
		}
		down, up := n.aims(t.Load)
		moved := old.move(min(down, above), min(up, above))
		n.Tiers[t.Key] = moved
		level = min(level, moved.Multiplier)
	}
	return n
}

// aims returns the multiplier that a tier falls to if it has more, and the multiplier that it rises
// to if it has less.
func (s state) aims(curve *tiers.Curve) (down, up float64) {
	if !s.Known {
		return 1, 1
	}
	down, up = onGrid(curve, s.Smoothed), onGrid(curve, s.Smoothed+margin)
	if s.Smoothed < margin {
		up = down // idle is idle, also for a curve that starts at 0
	}
	return down, up
}

func (t tierState) move(down, up float64) tierState {
	m := tierState{Multiplier: t.Multiplier, Before: t.Multiplier, Rested: min(t.Rested+1, restSteps)}
	switch {
	case down < t.Multiplier:
		m.Multiplier, m.Rested = down, 0
	case up > t.Multiplier && m.Rested >= restSteps:
		m.Multiplier, m.Rested = min(up, snap(t.Multiplier+grid)), 0
	}
	return m
}

// valid reports whether s can be the result of next. A text on a Board may be of anybody.
func (s state) valid() bool {
	ok := s.CPU >= 0 && s.CPU <= 1 && s.Smoothed >= 0 && s.Smoothed <= 1
	for _, t := range s.Tiers {
		ok = ok && t.Multiplier > 0 && t.Multiplier <= 1 && t.Before > 0 && t.Before <= 1 && t.Rested >= 0
	}
	return ok
}

// onGrid is the curve rounded down to the grid, and never below its floor.
func onGrid(curve *tiers.Curve, u float64) float64 {
	if curve == nil {
		return 1
	}
	return max(snap(curve.Multiplier(u)), curve.Floor)
}

// snap rounds down to the grid. The small addend keeps 0.3 on it, which in
// binary is a little less than six twentieths.
func snap(m float64) float64 {
	return math.Floor(m/grid+1e-9) * 5 / 100
}
