package load

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

const (
	// smoothing is the weight of a new sample (an EWMA): a step shows to 90 %
	// after three seconds.
	smoothing = 0.3
	// grid is the step of multipliers, so that a window sees few changes.
	grid = 0.05
	// riseEvery is how long a multiplier rests between two steps up.
	riseEvery = time.Second
	// margin is how much lower the CPU must be to go up than it was to go down.
	margin = 0.02
	// staleAfter is when a sample is too old to hold anybody back.
	staleAfter = 5 * time.Second
)

// A governor turns samples into multipliers. It is used by one goroutine and
// knows time only as it is told.
type governor struct {
	last, smoothed float64
	sampledAt      time.Time
	tiers          map[string]*tierState
}

type tierState struct {
	multiplier float64
	movedAt    time.Time // the last step down, or up
}

func newGovernor() *governor { return &governor{tiers: make(map[string]*tierState)} }

func (g *governor) observe(u float64, now time.Time) {
	if math.IsNaN(u) || u < 0 {
		return
	}
	u = min(u, 1)
	if g.sampledAt.IsZero() || now.Sub(g.sampledAt) > staleAfter {
		g.smoothed = u
	} else {
		g.smoothed += smoothing * (u - g.smoothed)
	}
	g.last, g.sampledAt = u, now
}

// multipliers moves each tier towards its curve: down at once, up by one step
// of the grid at a time. A tier never has more than one of higher priority.
func (g *governor) multipliers(list []tiers.Tier, now time.Time) map[string]float64 {
	stale := g.sampledAt.IsZero() || now.Sub(g.sampledAt) > staleAfter
	ordered := slices.Clone(list)
	slices.SortStableFunc(ordered, func(a, b tiers.Tier) int { return cmp.Compare(b.Priority, a.Priority) })

	result := make(map[string]float64, len(list))
	states := make(map[string]*tierState, len(list)) // of the tiers there still are
	above, level := 1.0, 1.0                         // the least of higher priorities, and of this one
	for i := range ordered {
		t := &ordered[i]
		if i > 0 && ordered[i-1].Priority != t.Priority {
			above = level
		}
		s := g.tiers[t.Key]
		if s == nil {
			s = &tierState{multiplier: 1}
		}
		g.move(s, t.Load, above, stale, now)
		states[t.Key], result[t.Key] = s, s.multiplier
		level = min(level, s.multiplier)
	}
	g.tiers = states
	return result
}

func (g *governor) move(s *tierState, curve *tiers.Curve, above float64, stale bool, now time.Time) {
	down, up := onGrid(curve, g.smoothed), onGrid(curve, g.smoothed+margin)
	if g.smoothed < margin {
		up = down // idle is idle, also for a curve that starts at 0
	}
	if stale {
		down, up = 1, 1
	}
	down, up = min(down, above), min(up, above)
	switch {
	case down < s.multiplier:
		s.multiplier, s.movedAt = down, now
	case up > s.multiplier && now.Sub(s.movedAt) >= riseEvery:
		s.multiplier, s.movedAt = min(up, snap(s.multiplier+grid)), now
	}
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
