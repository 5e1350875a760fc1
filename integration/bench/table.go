package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// A table gathers the results of one workload, round by round.
type table struct {
	workload *workload
	callers  []int
	names    []string
	rounds   map[string][]map[int]result
}

func newTable(w *workload, callers []int) *table {
	return &table{workload: w, callers: callers, rounds: make(map[string][]map[int]result)}
}

func (t *table) add(name string, results map[int]result) {
	if !slices.Contains(t.names, name) {
		t.names = append(t.names, name)
	}
	t.rounds[name] = append(t.rounds[name], results)
}

// median of what f says of a contender's results.
func median[T cmp.Ordered](t *table, name string, callers int, f func(result) T) T {
	var list []T
	for _, results := range t.rounds[name] {
		list = append(list, f(results[callers]))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// ratio is the median over the rounds of a contender's decisions a second to
// another's in the same round.
func (t *table) ratio(name, to string, callers int) float64 {
	var list []float64
	for i, results := range t.rounds[name] {
		if i < len(t.rounds[to]) {
			list = append(list, results[callers].PerSecond/t.rounds[to][i][callers].PerSecond)
		}
	}
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n\n", t.workload.name, t.workload.title)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "callers\tcontender\ta second\tratio\tp50\tp99\tredis us\tclient us\tallocs\tadmitted\terrors\t")
	for _, n := range t.callers {
		for _, name := range t.names {
			fmt.Fprintf(tab, "%d\t%s\t%.0f\t%.2f\t%v\t%v\t%.2f\t%.2f\t%.1f\t%d\t%d\t\n", n, name,
				median(t, name, n, func(r result) float64 { return r.PerSecond }),
				t.ratio(name, t.workload.comparedWith(), n),
				median(t, name, n, func(r result) time.Duration { return r.P50 }).Round(100*time.Nanosecond),
				median(t, name, n, func(r result) time.Duration { return r.P99 }).Round(100*time.Nanosecond),
				median(t, name, n, func(r result) float64 { return r.RedisUS }),
				median(t, name, n, func(r result) float64 { return r.ClientUS }),
				median(t, name, n, func(r result) float64 { return r.Allocs }),
				slices.Max(admitted(t, name, n)),
				median(t, name, n, func(r result) int64 { return r.Errors }))
		}
	}
	tab.Flush()
}

func admitted(t *table, name string, callers int) []int64 {
	var list []int64
	for _, results := range t.rounds[name] {
		list = append(list, results[callers].Admitted)
	}
	return list
}
