package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"
)

// A workload says who asks, and what holds for them.
type workload struct {
	name    string
	title   string
	draws   func() []int32 // subjects in the order they ask; callers begin at different places
	windows []window
	settled bool          // every subject is asked once before, so that no window begins in the measurement
	warm    time.Duration // how long it runs before it is measured, at least
	sample  int           // one of so many decisions is timed
	among   []contender

	reference string // whom ratios are to; default reference
}

// comparedWith returns the name of the contender that ratios are to.
func (w *workload) comparedWith() string { return cmp.Or(w.reference, reference) }

const (
	subjects = 100_000
	drawn    = 1 << 20
	huge     = 1_000_000_000
)

var names = func() []string {
	list := make([]string, subjects)
	for i := range list {
		list[i] = fmt.Sprintf("acct_%06d", i)
	}
	return list
}()

func uniform() []int32 {
	r := rand.New(rand.NewPCG(1, 2))
	draws := make([]int32, drawn)
	for i := range draws {
		draws[i] = int32(r.IntN(subjects))
	}
	return draws
}

// zipf is what traffic looks like: of 100,000 subjects the busiest asks 13 of a
// hundred times.
func zipf() []int32 {
	z := rand.NewZipf(rand.New(rand.NewPCG(3, 4)), 1.1, 1, subjects-1)
	draws := make([]int32, drawn)
	for i := range draws {
		draws[i] = int32(z.Uint64())
	}
	return draws
}

func one() []int32 { return make([]int32, drawn) }

func perMinute(most int64) []window { return []window{{"per_minute", most, time.Minute}} }

func threeWindows(most int64) []window {
	return []window{{"per_day", most, 24 * time.Hour}, {"per_hour", most, time.Hour}, {"per_minute", most, time.Minute}}
}

func workloads() []workload {
	plain := contender{"plain EVALSHA", openScript}
	two := contenders[:2]
	hourly := []window{{"per_hour", huge, time.Hour}}
	return []workload{
		{"uniform", "100,000 subjects alike, one window", uniform, perMinute(huge), true, 0, 1, append([]contender{plain}, contenders...), ""},
		{"warm", "100,000 subjects alike, whose windows all run", uniform, []window{{"per_hour", huge, time.Hour}}, true, 0, 1, two, ""},
		{"new", "100,000 subjects alike, whose windows last 50 ms: nearly every charge begins one", uniform, []window{{"burst", huge, 50 * time.Millisecond}}, false, 0, 1, two, ""},
		{"three", "100,000 subjects alike, three windows", uniform, threeWindows(huge), true, 0, 1, two, ""},
		{"zipf", "100,000 subjects, Zipf 1.1, 100 a minute", zipf, perMinute(100), false, 0, 16, contenders, ""},
		{"held", "100,000 subjects alike, an estimate and a correction: hold and settle, AllowN twice", uniform, perMinute(huge), true, 0, 1, correcting, ""},
		{"heldhot", "one subject, an estimate and a correction: hold and settle, AllowN twice", one, perMinute(huge), false, 0, 16, correcting, ""},
		{"denied", "one subject over its limit", one, perMinute(100), false, 0, 64, contenders, ""},
		{"allowed", "one subject, a limit it never reaches", one, perMinute(huge), false, 0, 16, two, ""},
		{"envoy", "over gRPC, 100,000 subjects alike, one window: Envoy's rate limit service", uniform, hourly, true, 0, 1, overGRPC(1), envoyReference},
		{"envoy3", "over gRPC, requests of three descriptors", uniform, hourly, false, 0, 1, overGRPC(3), envoyReference},
	}
}
