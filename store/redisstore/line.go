package redisstore

import (
	"context"
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
	// deep is how many subjects wait when one more call leaves beside those in
	// flight. While Redis works on one, the next is on its way; with fewer the
	// cost of a call is borne by too few. On two cores shared with Redis, 16 and
	// 8 calls gave 232,000 decisions a second to 64 callers, 64 and 8 calls
	// 165,000, 16 and 2 calls 178,000.
	deep = 16
	// maxCalls is how many calls are in flight at most.
	maxCalls = 8
	// slowCall is how long a batch waits for calls that do not return: their
	// connections may be stuck, or Redis far away. Then it leaves beside them.
	slowCall = 2 * time.Millisecond
)

// A line carries the charges of one process to Redis in batches. It holds none
// back: a lone charge leaves at once, and what arrives while a call is in flight
// forms the next batch.
type line struct {
	send    func(ctx context.Context, b *batch) // makes the call, and fills in what came of each entry
	timeout time.Duration                       // of a call

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
		b = l.gather(deadline)
		p = b.add(c, hash, deadline)
	}
	first := l.calls == 0
	leave := first || l.calls < maxCalls && l.queue[0].deep()
	if leave {
		l.calls++
	}
	l.mu.Unlock()
	switch {
	case first:
		l.lead(deadline)
	case leave:
		go l.run()
	}
	return p
}

// lead makes one call from its caller's own goroutine: to wake another one costs
// a lone charge a tenth. Whatever gathers meanwhile is not this caller's to send.
func (l *line) lead(deadline time.Time) {
	b, ctx := l.next(deadline)
	if b == nil {
		return
	}
	l.send(ctx, b)
	l.settle(b)
	l.mu.Lock()
	more := len(l.queue) > 0
	if !more {
		l.calls--
	}
	l.mu.Unlock()
	if more {
		go l.run()
	}
}

// gather begins a batch whose first charge has this deadline. mu is held.
func (l *line) gather(deadline time.Time) *batch {
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
	b.timer.Reset(min(slowCall, time.Until(deadline)))
	l.queue = append(l.queue, b)
	return b
}

// run sends batches until nothing waits for it.
func (l *line) run() {
	for {
		b, ctx := l.next(time.Time{})
		if b == nil {
			return
		}
		l.send(ctx, b)
		l.settle(b)
		runtime.Gosched() // those just answered may ask again, and go together
	}
}

// next takes the oldest batch, to be sent until the deadline or, where there is
// none, the timeout of a call. A call beside others is for many, or for when the
// others do not return.
func (l *line) next(deadline time.Time) (*batch, context.Context) {
	if deadline.IsZero() {
		deadline = time.Now().Add(l.timeout)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.calls > 1 && !l.queue[0].deep() && !l.queue[0].late {
		l.calls--
		return nil, nil
	}
	b := l.queue[0]
	n := copy(l.queue, l.queue[1:])
	l.queue[n] = nil
	l.queue = l.queue[:n]
	b.state, b.until, b.cut = sent, deadline, make(chan struct{})
	b.timer.Reset(time.Until(b.deadline))
	return b, callContext{context.Background(), deadline, b.cut}
}

// A callContext ends a call by the timer its batch has anyway. It is not a
// caller's: one who gives up must not take the others along.
type callContext struct {
	context.Context //nolint:containedctx // it is one
	deadline        time.Time
	cut             <-chan struct{}
}

func (c callContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c callContext) Done() <-chan struct{} { return c.cut }

func (c callContext) Err() error {
	select {
	case <-c.cut:
		return context.DeadlineExceeded
	default:
		return nil
	}
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
// not return leaves beside them; once callers' deadlines pass they are woken, and
// a call that has had its time is cut off. It is harmless on a batch that has
// settled, or is on its next journey by now.
func (l *line) alarm(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.state == resting || b.settled.Load() {
		return
	}
	if b.state == gathering {
		b.late = true
		if l.calls < maxCalls {
			l.calls++
			go l.run()
		}
	}
	now := time.Now()
	if b.state == sent && b.cut != nil && !now.Before(b.until) {
		close(b.cut)
		b.cut = nil
	}
	if !now.Before(b.deadline) {
		// Those who came later are woken too, and wait on.
		close(b.signal)
		b.signal = make(chan struct{})
	}
	// How often this happens is bounded, and a deadline missed by no more.
	wait := slowCall
	if b.state == sent {
		wait = max(wait, b.deadline.Sub(now))
	}
	b.timer.Reset(wait)
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
