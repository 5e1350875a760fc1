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
	// maxRuns bounds the runs of a batch: it is as many subjects, each charged
	// in four different sizes.
	maxRuns = 4 * maxBatch
	// deep is how many subjects wait when one more call leaves beside those in
	// flight. While Redis works on one, the next is on its way; with fewer the
	// cost of a call is borne by too few. On two cores shared with Redis, 16 and
	// 8 calls gave 232,000 decisions a second to 64 callers, 64 and 8 calls
	// 165,000, 16 and 2 calls 178,000.
	deep = 16
	// manyCharges is how many charges are as good a reason, however few subjects
	// they are of: while their call is out, nobody else has anything to do.
	manyCharges = 2 * deep
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
	crowd bool     // guarded by mu: the last batch was of more than one
	idle  []*batch // guarded by mu: at rest, for the next charges
}

// join puts a charge on its way, and the lease that asks along, if there is one. The caller looks for its outcome in the place
// it gets, and leaves it.
func (l *line) join(c *tierlimit.Charge, hash uint64, lease *lease, deadline time.Time) place {
	l.mu.Lock()
	var b *batch
	var p place
	if n := len(l.queue); n > 0 {
		b = l.queue[n-1]
		p = b.add(c, hash, lease, deadline)
	}
	if p.batch == nil { // none gathers, or it is full
		b = l.gather(deadline)
		p = b.add(c, hash, lease, deadline)
	}
	first, crowd := l.calls == 0, l.crowd
	leave := first || l.calls < maxCalls && l.queue[0].deep()
	if leave {
		l.calls++
	}
	l.mu.Unlock()
	switch {
	case first:
		if crowd {
			runtime.Gosched() // who is about to ask comes along
		}
		l.lead(deadline)
	case leave:
		go l.run(nil)
	}
	return p
}

// lead makes one call from its caller's own goroutine: to wake another one costs
// a lone charge a tenth. The call then ends by this caller's deadline, so others
// who could wait longer must not be in it. Whatever gathers meanwhile is not this
// caller's to send.
func (l *line) lead(deadline time.Time) {
	b := l.next(deadline)
	switch {
	case b == nil:
		return
	case b.latest.After(deadline.Add(slowCall)):
		go l.run(b)
		return
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.queue) > 0 {
			go l.run(nil)
		} else {
			l.calls--
		}
	}()
	l.carry(b)
}

// carry makes the call for b.
func (l *line) carry(b *batch) {
	defer l.settle(b) // also if what is hooked into the client panics
	l.send(callContext{context.Background(), b.until, b.cut}, b)
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

// run sends b, if there is one, and then batches until nothing waits for it.
func (l *line) run(b *batch) {
	for {
		if b == nil {
			if b = l.next(time.Time{}); b == nil {
				return
			}
		}
		l.carry(b)
		b = nil
		runtime.Gosched() // those just answered may ask again, and go together
	}
}

// next takes the oldest batch, to be sent within the timeout of a call, and by
// the deadline of who leads it if there is one. A call beside others is for many,
// or for when the others do not return.
func (l *line) next(leader time.Time) *batch {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.calls > 1 && !l.queue[0].deep() && !l.queue[0].late {
		l.calls--
		return nil
	}
	b := l.queue[0]
	n := copy(l.queue, l.queue[1:])
	l.queue[n] = nil
	l.queue = l.queue[:n]
	l.crowd = len(b.entries) > 1
	b.state, b.until, b.cut, b.over = sent, now.Add(l.timeout), make(chan struct{}), false
	if !leader.IsZero() && !b.latest.After(leader.Add(slowCall)) && leader.Before(b.until) {
		b.until = leader
	}
	b.timer.Reset(min(b.deadline.Sub(now), b.until.Sub(now)))
	return b
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
			go l.run(nil)
		}
	}
	now := time.Now()
	if b.state == sent && !b.over && !now.Before(b.until) {
		close(b.cut)
		b.over = true
	}
	if !now.Before(b.deadline) {
		// Those who came later are woken too, and wait on.
		close(b.signal)
		b.signal = make(chan struct{})
	}
	// How often this happens is bounded, and a deadline missed by no more.
	wait := slowCall
	if b.state == sent {
		wait = max(wait, min(b.deadline.Sub(now), b.until.Sub(now)))
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
