package guard

import (
	"sync/atomic"
	"time"
)

const (
	// A low reading is the shortest latency of so many answers, over at least so long. A queue
	// delays all requests, the fastest too; a few slow requests are no queue.
	lowCount = 32
	lowSpan  = 250 * time.Millisecond
	// baseSpan is how long a base latency holds before it is measured again, and settleSpan how long
	// after requests begin to be refused.
	baseSpan   = 10 * time.Second
	settleSpan = time.Second
	// fewest is the number of requests in flight below which no latency is a sign of a queue.
	fewest = 16
	// stalledAfter is how long nothing may be answered while requests are in flight.
	stalledAfter = time.Second
)

// answers collects the latencies of answered requests between two readings. It is safe for
// concurrent use.
type answers struct {
	count    atomic.Int64
	shortest atomic.Int64 // nanoseconds, plus 1; 0: none
}

func (a *answers) add(latency time.Duration) {
	a.count.Add(1)
	l := int64(max(latency, 0)) + 1
	for {
		old := a.shortest.Load()
		if old != 0 && old <= l || a.shortest.CompareAndSwap(old, l) {
			return
		}
	}
}

// drain returns what was collected since the last call. shortest is 0 if count is.
func (a *answers) drain() (count int64, shortest time.Duration) {
	return a.count.Swap(0), time.Duration(max(a.shortest.Swap(0)-1, 0))
}

// A latencies tells the delay of a queue behind this process from the latency of requests. It is
// used by one goroutine at a time.
//
// The base is the latency without a queue: the least low reading of the last baseSpan or two. BBR
// measures the round trip in this way (Cardwell et al., BBR: Congestion-Based Congestion Control,
// 2016). While requests are refused for their latency, the queue is drained at the end of each
// baseSpan, because else its delay would become part of the base. What is still slow then has no
// queue: the base was wrong.
type latencies struct {
	count    int64         // of the reading under way
	shortest time.Duration // of the reading under way
	span     time.Duration // of the reading under way
	silent   time.Duration // since something was answered

	low    time.Duration // the last complete reading; 0: none yet
	least  time.Duration // the least of the running baseSpan; 0: none yet
	former time.Duration // the base of the one before; 0: none yet
	age    time.Duration // of the running baseSpan
}

// observe takes in the count answers of the last elapsed. delay is how long a request that comes
// now will take, by Little's law; refusing says whether requests are refused for their latency.
func (l *latencies) observe(elapsed time.Duration, count int64, shortest, delay time.Duration, refusing bool) {
	l.age += elapsed
	l.span += elapsed
	if l.silent += elapsed; count == 0 {
		return
	}
	if l.silent = 0; l.count == 0 || shortest < l.shortest {
		l.shortest = shortest
	}
	if l.count += count; l.count < lowCount || l.span < lowSpan {
		return
	}
	l.low, l.count, l.span = max(l.shortest, 1), 0, 0
	if l.least == 0 || l.low < l.least {
		l.least = l.low
	}
	switch {
	case l.age < baseSpan:
	case !refusing:
		l.age, l.former, l.least = 0, l.least, 0
	case delay >= l.low-l.low/10: // else the queue is not empty yet: the answers come from when it was longer
		l.age, l.former, l.least = 0, l.low, 0
	}
}

// base returns the latency without a queue, 0 if it is not known yet.
func (l *latencies) base() time.Duration {
	if l.least == 0 || l.former != 0 && l.former < l.least {
		return l.former
	}
	return l.least
}

// target is the longest acceptable delay of a request in a queue behind this process.
func (l *latencies) target(perSecond float64) time.Duration {
	return max(targetOf(perSecond), min(l.base(), longestTarget))
}

// drainSpan returns how long it takes to drain a queue and to take a reading then.
func drainSpan(target time.Duration) time.Duration { return lowSpan + 3*target }

// draining reports whether the queue should be drained, so that the base can be measured.
func (l *latencies) draining(target time.Duration) bool { return l.age > baseSpan-drainSpan(target) }

// doubt lets the base be measured soon: requests begin to be refused for their latency.
func (l *latencies) doubt(target time.Duration) {
	l.former, l.least, l.age = l.base(), 0, baseSpan-drainSpan(target)-settleSpan
}

// pressure returns the delay of the queue behind this process as a part of the target: more than
// 1 is too long. Unless requests are refused for their latency already, the shortest latencies must
// show the delay too, so that slow requests are not taken for a queue.
func (l *latencies) pressure(inFlight int64, delay, target time.Duration, refusing bool) float64 {
	base := l.base()
	switch {
	case base == 0 || inFlight < fewest && !refusing:
		return 0
	case l.silent > max(stalledAfter, 4*base):
		return maxPressure
	case !refusing:
		delay = min(delay, l.low)
	}
	return (delay - base).Seconds() / target.Seconds()
}
