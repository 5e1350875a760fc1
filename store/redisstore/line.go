package redisstore

import (
	"runtime"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

const (
	// maxBatch is how many subjects travel in one call: from there on one more
	// costs as much as the last, and a call of 256 keeps Redis for half a
	// millisecond.
	maxBatch = 256
	// maxCalls is how many calls are in flight at most. One is enough until a
	// whole batch is waiting.
	maxCalls = 4
	// slowCall is how long a batch waits for calls that do not return: their
	// connections may be stuck, or Redis far away. Then it leaves beside them.
	slowCall = 2 * time.Millisecond
)

// A line carries the charges of one process to Redis in batches. It holds none
// back: a lone charge leaves at once, and what arrives while a call is in flight
// forms the next batch.
type line struct {
	send func(b *batch) // makes the call, and fills in what came of each entry

	mu    sync.Mutex
	queue []*batch // guarded by mu: not sent, the oldest first; the last one gathers
	calls int      // guarded by mu: in flight
	idle  []*batch // guarded by mu: at rest, for the next charges
}

// join puts a charge on its way. The caller looks for its outcome in the place
// it gets, and leaves it.
func (l *line) join(c *tierlimit.Charge, deadline time.Time) place {
	hash := hashOf(c.Subject)
	l.mu.Lock()
	var b *batch
	var p place
	if n := len(l.queue); n > 0 {
		b = l.queue[n-1]
		p = b.add(c, hash, deadline)
	}
	if p.batch == nil { // none gathers, or it is full
		b = l.gather()
		p = b.add(c, hash, deadline)
	}
	leave := l.calls == 0 || l.calls < maxCalls && l.queue[0].full()
	if leave {
		l.calls++
	}
	l.mu.Unlock()
	if leave {
		go l.run()
	}
	return p
}

// gather begins a batch. mu is held.
func (l *line) gather() *batch {
	var b *batch
	if n := len(l.idle); n > 0 {
		b, l.idle[n-1] = l.idle[n-1], nil
		l.idle = l.idle[:n-1]
	} else {
		b = &batch{}
		b.timer = time.AfterFunc(time.Hour, func() { l.alarm(b) })
		b.timer.Stop()
	}
	b.begin()
	if l.calls > 0 {
		b.timer.Reset(slowCall)
	}
	l.queue = append(l.queue, b)
	return b
}

// run sends batches until nothing waits for it.
func (l *line) run() {
	for {
		b := l.next()
		if b == nil {
			return
		}
		l.send(b)
		l.settle(b)
		runtime.Gosched() // those just answered may ask again, and go together
	}
}

// next takes the oldest batch. A call beside others is for a whole batch, or for
// when they do not return.
func (l *line) next() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.calls > 1 && !l.queue[0].full() && !l.queue[0].late {
		l.calls--
		return nil
	}
	b := l.queue[0]
	n := copy(l.queue, l.queue[1:])
	l.queue[n] = nil
	l.queue = l.queue[:n]
	b.state = sent
	b.timer.Reset(time.Until(b.deadline))
	return b
}

// settle lets everybody know that the outcomes are there.
func (l *line) settle(b *batch) {
	b.timer.Stop()
	l.mu.Lock()
	b.settled.Store(true)
	signal := b.signal
	l.mu.Unlock()
	close(signal)
	l.leave(b)
}

// alarm is what a batch's timer does: a batch that waits behind calls which do
// not return leaves beside them; once callers' deadlines pass they are woken. It
// is harmless on a batch that has settled, or is on its next journey by now.
func (l *line) alarm(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.state == resting || b.settled.Load() {
		return
	}
	left := time.Until(b.deadline)
	if b.state == gathering {
		b.late = true
		if l.calls < maxCalls {
			l.calls++
			go l.run()
		}
		left = min(left, slowCall)
	}
	if time.Until(b.deadline) <= 0 {
		// Those who came later are woken too, and wait on. How often that
		// happens is bounded, and a deadline missed by no more.
		left = slowCall
		close(b.signal)
		b.signal = make(chan struct{})
	}
	b.timer.Reset(left)
}

// await returns nil once the batch of p is settled, or says what is known of
// the charge at its deadline.
func (l *line) await(p *place, deadline time.Time) error {
	for {
		<-p.signal
		if p.batch.settled.Load() {
			return nil
		}
		passed := !time.Now().Before(deadline)
		l.mu.Lock()
		switch {
		case p.batch.settled.Load():
			l.mu.Unlock()
			return nil
		case passed && p.batch.state == gathering:
			p.withdraw()
			l.mu.Unlock()
			return errNotSent
		case passed:
			l.mu.Unlock()
			return errNoReply
		}
		p.signal = p.batch.signal
		l.mu.Unlock()
	}
}

// leave is called by all who looked at b, its sender included. The last one
// puts it to rest.
func (l *line) leave(b *batch) {
	if b.looking.Add(-1) > 0 {
		return
	}
	b.rest()
	l.mu.Lock()
	defer l.mu.Unlock()
	b.state = resting
	if len(l.idle) < 2*maxCalls {
		l.idle = append(l.idle, b)
	}
}
