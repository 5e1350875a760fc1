package guard

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A probe measures how long goroutines of this process that are ready to run wait for a processor. It
// sends a goroutine to the end of the run queue and takes the time until that runs again, one at a
// time. The runtime's own histogram (/sched/latencies:seconds) was no substitute: most of its samples
// are of goroutines that are woken by the one that runs and take its place without a wait.
type probe struct {
	out   atomic.Bool  // whether a goroutine is on its way
	began atomic.Int64 // when it entered the queue, in nanoseconds since start; 0: not yet
	last  atomic.Int64 // nanoseconds; -1: none yet
	start time.Time
}

func newProbe() *probe {
	p := &probe{start: time.Now()}
	p.last.Store(-1)
	return p
}

// Wait returns the last wait, or that of the goroutine in the queue if it is longer already, and sends
// the next goroutine.
func (p *probe) Wait() (wait time.Duration, known bool) {
	last := p.last.Load()
	if p.out.Swap(true) {
		if began := p.began.Load(); began > 0 {
			last = max(last, int64(time.Since(p.start))-began)
		}
	} else {
		go p.queue()
	}
	return time.Duration(last), last >= 0
}

func (p *probe) queue() {
	began := int64(time.Since(p.start))
	p.began.Store(began)
	runtime.Gosched()
	p.last.Store(int64(time.Since(p.start)) - began)
	p.began.Store(0)
	p.out.Store(false)
}
