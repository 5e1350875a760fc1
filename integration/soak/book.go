package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit/integration/rig"
)

// A book is what clients were told. It is safe for concurrent use.
type book struct {
	accounts map[string]*account // by subject; the map does not change

	asked, degraded, failed atomic.Int64
	lately                  atomic.Int64 // the slowest answer since the last look, nanoseconds

	mu     sync.Mutex
	counts [len(edges) + 1]int64 // guarded by mu: answers no slower than each edge
	worst  rig.Answer            // guarded by mu
}

// An account is what was told of one subject.
type account struct{ confirmed, unknown atomic.Int64 }

// edges are latencies that answers are counted by.
var edges = [...]time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 110 * time.Millisecond, 150 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
}

func newBook(subjects []string) *book {
	b := &book{accounts: make(map[string]*account)}
	for _, id := range subjects {
		b.accounts[id] = &account{}
	}
	return b
}

func (b *book) write(a rig.Answer) {
	b.asked.Add(1)
	switch one := b.accounts[a.Subject]; {
	case a.Counted():
		one.confirmed.Add(1)
	case a.Err != nil:
		b.failed.Add(1)
		one.unknown.Add(1)
	case a.Degraded:
		b.degraded.Add(1)
		one.unknown.Add(1)
	}
	for lately := b.lately.Load(); int64(a.Took) > lately; lately = b.lately.Load() {
		if b.lately.CompareAndSwap(lately, int64(a.Took)) {
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := 0
	for i < len(edges) && a.Took > edges[i] {
		i++
	}
	b.counts[i]++
	if a.Took > b.worst.Took {
		b.worst = a
	}
}

// within is the edge that a part of all answers were no slower than.
func (b *book) within(part float64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all, sum int64
	for _, n := range b.counts {
		all += n
	}
	for i, n := range b.counts {
		if sum += n; float64(sum) >= part*float64(all) {
			return append(edges[:], b.worst.Took)[i]
		}
	}
	return b.worst.Took
}
