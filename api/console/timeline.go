package console

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit/observe"
)

// Counts are the counters of decisions of this process: *observe.Metrics.
type Counts interface {
	Decisions() []observe.Count // by observe.DecisionLabels
	Degraded() []observe.Count
}

const (
	// sampleEvery is the length of one interval of the timeline.
	sampleEvery = 10 * time.Second
	// samples is how many intervals are kept: half an hour.
	samples = 180
)

// The outcomes of a timeline in the order in which they are drawn. Denied decisions are told apart
// by their reason.
var outcomes = []outcome{
	{"allowed", "Allowed"},
	{"shadow", "Allowed, shadow limit exceeded"},
	{"exceeded", "Denied, limit exceeded"},
	{"load", "Denied, load"},
	{"cost_too_large", "Denied, cost too large"},
	{"too_many_holds", "Denied, too many holds"},
	{"suspended", "Denied, suspended"},
	{"blocked", "Denied, blocked"},
	{"store_down", "Denied, store down"},
}

type outcome struct{ Key, Label string }

// degraded is the key of decisions that the store did not answer. They are also counted by outcome.
const degraded = "degraded"

// A sample is how many decisions one interval had, by outcome.
type sample struct {
	At     time.Time // when the interval ended
	Counts map[string]uint64
}

// Total returns the number of decisions.
func (s *sample) Total() (n uint64) {
	for _, o := range outcomes {
		n += s.Counts[o.Key]
	}
	return n
}

// Denied returns the number of denied decisions.
func (s *sample) Denied() uint64 { return s.Total() - s.Counts["allowed"] - s.Counts["shadow"] }

// A timeline remembers the decisions of this process over time, in bounded memory.
type timeline struct {
	counts Counts
	began  time.Time

	mu      sync.Mutex
	last    map[string]uint64 // the counters when the last interval ended
	samples []sample          // the latest at the end
}

func newTimeline(counts Counts) *timeline {
	return &timeline{counts: counts, began: time.Now(), last: totals(counts)}
}

// run samples until ctx ends.
func (t *timeline) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			t.sample(now)
		}
	}
}

// sample ends an interval.
func (t *timeline) sample(now time.Time) {
	sum := totals(t.counts)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.samples = append(t.samples, sample{now, difference(sum, t.last)})
	t.last = sum
	if extra := len(t.samples) - samples; extra > 0 {
		t.samples = append(t.samples[:0], t.samples[extra:]...)
	}
}

// recent returns the intervals that have ended, the latest at the end, and the one that has not.
func (t *timeline) recent() (ended []sample, current sample) {
	sum := totals(t.counts)
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]sample(nil), t.samples...), sample{time.Now(), difference(sum, t.last)}
}

// difference returns by how much counters have grown.
func difference(now, before map[string]uint64) map[string]uint64 {
	grown := maps.Clone(now)
	for key, n := range before {
		grown[key] -= min(n, grown[key])
	}
	return grown
}

// totals returns the counters by outcome. Peeks are no decisions about a request.
func totals(counts Counts) map[string]uint64 {
	sum := make(map[string]uint64)
	for _, c := range counts.Decisions() {
		result, reason := c.Labels[1], c.Labels[2]
		switch {
		case result == "allowed" && reason == "shadow":
			sum[reason] += c.Value
		case result == "allowed":
			sum[result] += c.Value
		case result == "denied":
			sum[reason] += c.Value
		}
	}
	for _, c := range counts.Degraded() {
		sum[degraded] += c.Value
	}
	return sum
}
