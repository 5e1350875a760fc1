package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func (e *experiment) save(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer){"overload.md": e.write, "overload.svg": e.draw} {
		f, err := os.Create(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		write(f)
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// of returns the median over the rounds of an arm.
func of[T int | float64 | time.Duration](e *experiment, a arm, value func(*result) T) T {
	var list []T
	for _, r := range e.results[a.name] {
		list = append(list, value(r))
	}
	return middle(list)
}

func (e *experiment) write(w io.Writer) {
	fmt.Fprintf(w, `# More is asked than the service can do

Written by `+"`make overload`"+`: %s, %d processors, Linux %s, %s; %d rounds, %v for each load. Figures
are medians over the rounds; the arms take turns.%s

![What each answers in time](overload.svg)

A service whose requests cost %v of processor time on average (from half to one and a half of
that, with a wait of %v) runs on one processor, GOMAXPROCS 1. With nothing before it and eight clients
that wait for their answers it does %.0f requests a second: the capacity. A generator on another processor
sends requests at random instants, whatever becomes of them. An answer is good if it comes within %v of the
instant at which its request was to be sent; a client hangs up after %v.

`, processor(), runtime.NumCPU(), kernel(), runtime.Version(), e.rounds, e.length, e.noted(), meanCost, pause, middle(e.capacities), inTime, patience)
	fmt.Fprintln(w, "| customers | | of all requests | limit in 10 s |\n|---|--:|--:|--:|")
	for _, c := range population {
		fmt.Fprintf(w, "| %s | %d | %.0f %% | %s |\n", c.name, c.customers, c.share*100, limitOf(c.tier))
	}
	fmt.Fprintln(w, "\nLight customers are within their limits at five times the capacity. What stands before the service:\n\n| | |\n|---|---|")
	for _, a := range e.arms {
		fmt.Fprintf(w, "| **%s** | %s |\n", a.name, a.about)
	}
	fmt.Fprint(w, `
Counters are in memory, as Redis would take part of a processor. aegis and go-zero read the CPU of
the machine, and are told that the service has one of two processors; go-zero's log is discarded.

## Goodput

Good answers a second as a part of the capacity, and below it the part of the requests of light
customers that got a good answer: enterprise, pro, free.

`)
	e.table(w, func(a arm, i int) string {
		return fmt.Sprintf("**%.2f**<br>%s %s %s", of(e, a, func(r *result) float64 { return r.goodput(i) }),
			part(of(e, a, func(r *result) float64 { return r.served(i, enterprise) })),
			part(of(e, a, func(r *result) float64 { return r.served(i, pro) })), part(of(e, a, func(r *result) float64 { return r.served(i, free) })))
	})
	fmt.Fprint(w, "\n## Latency of answers\n\np50 and p99 of all answers, also of those that are too late, and p99 of enterprise.\n\n")
	e.table(w, func(a arm, i int) string {
		return fmt.Sprintf("%v, %v<br>%v", short(of(e, a, func(r *result) time.Duration { return r.latency(i, 0.5) })),
			short(of(e, a, func(r *result) time.Duration { return r.latency(i, 0.99) })), short(of(e, a, func(r *result) time.Duration { return r.latency(i, 0.99, enterprise) })))
	})
	fmt.Fprintf(w, `
## Order and calm

*Disorder*: buckets of five seconds, of all, in which light customers of a lower tier are served better than
those of a higher one, by more than %.0f points. *Reversals*: how often in a minute the part that is served of
a tier's light customers, from second to second, turns by more than %.0f points, of the tier where it does so
most, at a load of 1 or more. *Recovery*: how long after the end of the overload (%v without a request, then
half of the capacity) each tier is served again; 0: when the first request comes. *Refused*: requests
at a load of 0.7 that nothing but a shedder refused.

| | disorder | reversals a minute | recovery | refused at 0.7 | turns of the multiplier a minute |
|---|--:|--:|--:|--:|--:|
`, tolerance*100, turn*100, e.idle)
	for _, a := range e.arms {
		_, all := e.results[a.name][0].disorder()
		fmt.Fprintf(w, "| %s | %d of %d | %.1f | %s | %s | %s |\n", a.name, of(e, a, func(r *result) int { n, _ := r.disorder(); return n }), all,
			of(e, a, (*result).reversals), e.recovery(a), e.early(a), e.turns(a))
	}
	fmt.Fprintf(w, "\nA refusal of the guard takes %v of processor time, of which reading the request and writing the answer is nearly all.\n", short(e.refusal))
	e.judge(w)
}

func (e *experiment) noted() string {
	if e.note == "" {
		return ""
	}
	return " " + e.note
}

func limitOf(tier string) string {
	for _, t := range plans(true) {
		if t.Key == tier {
			return fmt.Sprint(t.Limits["per_10s"].Max)
		}
	}
	return ""
}

// table writes a row for each arm and a column for each load.
func (e *experiment) table(w io.Writer, cell func(a arm, phase int) string) {
	fmt.Fprint(w, "| |")
	for _, l := range e.loads {
		fmt.Fprintf(w, " %gx |", l)
	}
	fmt.Fprintln(w, "\n|---|"+strings.Repeat("--:|", len(e.loads)))
	for _, a := range e.arms {
		fmt.Fprintf(w, "| %s |", a.name)
		for i := range e.loads {
			fmt.Fprintf(w, " %s |", cell(a, i))
		}
		fmt.Fprintln(w)
	}
}

// part writes a part of a whole without rounding up to all.
func part(f float64) string {
	if f < 1 && f >= 0.9995 {
		return "0.999"
	}
	return fmt.Sprintf("%.3f", f)
}

func (e *experiment) recovery(a arm) string {
	d := of(e, a, (*result).recovery)
	if d >= e.idle+e.after {
		return fmt.Sprintf("more than %v", d)
	}
	return d.String()
}

func (e *experiment) early(a arm) string {
	if e.results[a.name][0].phaseAt(0.7) < 0 {
		return ""
	}
	return fmt.Sprint(of(e, a, (*result).refusedEarly))
}

func (e *experiment) turns(a arm) string {
	if !e.results[a.name][0].scales() {
		return ""
	}
	return fmt.Sprintf("%.1f", of(e, a, (*result).multiplierTurns))
}
