package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// A promise is a line of the bar: what was asked of an arm, what was found, and whether that holds.
type promise struct {
	text  string
	found func(e *experiment, a arm) (found string, held bool)
}

// at returns the phase with a load, and whether there is one.
func (e *experiment) at(load float64) (int, bool) {
	i := slices.Index(e.loads, load)
	return i, i >= 0
}

var bar = []promise{
	goodputOf(2, 0.95), goodputOf(5, 0.9), topTierAt(2), topTierAt(5),
	{"no bucket of five seconds is out of order", func(e *experiment, a arm) (string, bool) {
		n := of(e, a, func(r *result) int { n, _ := r.disorder(); return n })
		return fmt.Sprint(n), n == 0
	}},
	latencyAt(2), latencyAt(5),
	{"at most 6 reversals a minute", func(e *experiment, a arm) (string, bool) {
		n := of(e, a, (*result).reversals)
		return fmt.Sprintf("%.1f", n), n <= 6
	}},
	{"recovered within 30 s", func(e *experiment, a arm) (string, bool) {
		return e.recovery(a), of(e, a, (*result).recovery) < e.idle+e.after
	}},
	{"nothing is refused at 0.7 of the capacity", func(e *experiment, a arm) (string, bool) {
		if _, ok := e.at(0.7); !ok {
			return "", true
		}
		n := of(e, a, (*result).refusedEarly)
		return fmt.Sprint(n), n == 0
	}},
	{"the multiplier is 1 after 20 s below 70 % CPU", func(e *experiment, a arm) (string, bool) {
		m := of(e, a, (*result).leastMultiplier)
		if m == 0 {
			return "", true
		}
		return fmt.Sprintf("%.2f", m), m == 1
	}},
	notBehind(2), notBehind(5),
	{"a refusal costs at most 0.05 of a request's processor time", func(e *experiment, _ arm) (string, bool) {
		cost := e.refusal.Seconds() / meanCost.Seconds()
		return fmt.Sprintf("%.3f", cost), cost <= 0.05
	}},
}

func goodputOf(load, least float64) promise {
	return promise{fmt.Sprintf("at %gx goodput is at least %g", load, least), func(e *experiment, a arm) (string, bool) {
		i, ok := e.at(load)
		if !ok {
			return "", true
		}
		g := of(e, a, func(r *result) float64 { return r.goodput(i) })
		return fmt.Sprintf("%.3f", g), g >= least
	}}
}

func topTierAt(load float64) promise {
	return promise{fmt.Sprintf("at %gx at least 0.999 of enterprise is served", load), func(e *experiment, a arm) (string, bool) {
		i, ok := e.at(load)
		if !ok {
			return "", true
		}
		s := of(e, a, func(r *result) float64 { return r.served(i, enterprise) })
		return fmt.Sprintf("%.4f", s), s >= 0.999
	}}
}

func latencyAt(load float64) promise {
	return promise{fmt.Sprintf("at %gx p99 is at most 3 times that at 0.8x with nothing before the service", load), func(e *experiment, a arm) (string, bool) {
		usual, ok := e.at(0.8)
		i, there := e.at(load)
		none, measured := e.results["none"]
		if !ok || !there || !measured || len(none) == 0 {
			return "", true
		}
		ratio := of(e, a, func(r *result) float64 { return r.latency(i, 0.99).Seconds() }) /
			of(e, arms[0], func(r *result) time.Duration { return r.latency(usual, 0.99) }).Seconds()
		return fmt.Sprintf("%.1f times", ratio), ratio <= 3
	}}
}

func notBehind(load float64) promise {
	return promise{fmt.Sprintf("at %gx goodput is at least failsafe-go's", load), func(e *experiment, a arm) (string, bool) {
		i, ok := e.at(load)
		if !ok || len(e.results["failsafe-go"]) == 0 {
			return "", true
		}
		theirs, err := find("failsafe-go")
		if err != nil {
			return "", true
		}
		good := func(r *result) float64 { return r.goodput(i) }
		own, other := of(e, a, good), of(e, theirs, good)
		return fmt.Sprintf("%.2f, theirs %.2f", own, other), own >= other
	}}
}

// judge compares our arms with the bar.
func (e *experiment) judge(w io.Writer) {
	fmt.Fprint(w, "\n## The bar\n\n| |")
	rule := "\n|---|"
	var ours []arm
	for _, a := range e.arms {
		if a.ours {
			ours = append(ours, a)
			fmt.Fprintf(w, " %s |", a.name)
			rule += "---|"
		}
	}
	fmt.Fprintln(w, rule)
	for _, p := range bar {
		fmt.Fprintf(w, "| %s |", p.text)
		for _, a := range ours {
			found, held := p.found(e, a)
			switch {
			case found == "":
			case held:
				found += ": held"
			default:
				found += ": **missed**"
			}
			fmt.Fprintf(w, " %s |", found)
		}
		fmt.Fprintln(w)
	}
	late := time.Duration(0)
	for _, a := range e.arms {
		late = max(late, of(e, a, (*result).delay))
	}
	fmt.Fprintf(w, `
The multiplier alone cannot hold this bar: it lowers limits, and many customers within lowered limits are
still too many. It is here to show what it does.

The generator sent 99 %% of its requests within %v of when they were due, in the worst phase of the worst
arm: what it adds to latencies.

What this does not show: more than one process. Three replicas of a service with a guard each decide for
themselves, and do not agree on who is refused beyond the common order of tiers, weights and the hash of
the hour.
`, short(late))
}
