package redisstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

const (
	// maxBatch is the most subjects in one call. A larger batch saves nothing more for each
	// subject, and a call of 256 subjects already occupies Redis for half a millisecond.
	maxBatch = 256
	// maxRuns bounds the runs of a batch: it is as many subjects, each charged in four
	// different sizes.
	maxRuns = 4 * maxBatch
	// A batch of deep subjects, or of manyCharges charges, is sent while other calls are in
	// flight. A smaller batch waits for a call to return: the fixed cost of one more call
	// would be spread over too few charges.
	deep        = 16
	manyCharges = 24
	// maxCalls is the most calls in flight.
	maxCalls = 8
	// slowCall is how long a small batch waits for the calls in flight. After that the batch
	// is sent beside them: their connections may be stuck, or Redis may be far away.
	slowCall = 2 * time.Millisecond
	// A timer that fires more than late after its time shows that this process, and not
	// Redis, is slow. The line then extends the deadline of the batch, at most maxGraces
	// times.
	late      = 5 * time.Millisecond
	maxGraces = 2
	// A server that has sent nothing for this long, although calls were made, counts as lost,
	// even if this process is too busy to read in time.
	silence = time.Second
)

// A line sends the charges of one process to one server, in batches. A charge is sent at
// once when no call is in flight. Charges that arrive during a call form the next batch.
//
// Workers make the calls. A line starts at most maxCalls workers, each when the line first
// needs it; a worker then waits for batches until the line is closed.
type line struct {
	call    func(ctx context.Context, b *batch) error // makes the call; an error is one of the whole call
	timeout time.Duration                             // what a server may take for a call
	longest time.Duration                             // what a call may take with everything around it, such as dialling
	health  breaker
	poller  poller

	work    chan struct{} // one element for each worker that has a call to make
	workers sync.WaitGroup

	mu      sync.Mutex
	queue   []*batch  // guarded by mu: not sent, the oldest first; the last one gathers
	calls   int       // guarded by mu: calls in flight, or about to be
	waiting int       // guarded by mu: workers without a call
	asked   time.Time // guarded by mu: when the first call since the last reply, or since a pause, was sent
	left    time.Time // guarded by mu: when the last call was sent
	closed  bool      // guarded by mu
	idle    []*batch  // guarded by mu: free batches, for reuse

	crowd atomic.Bool // the last batch had more than one entry
}

func newLine(timeout, longest time.Duration, failures int, onChange func(open bool, cause error), call func(context.Context, *batch) error) *line {
	return &line{
		call: call, timeout: timeout, longest: longest,
		health: breaker{most: failures, onChange: onChange}, work: make(chan struct{}, maxCalls),
	}
}

// errClosed is returned for a charge after Close.
var errClosed = fmt.Errorf("%w: the store is closed", tierlimit.ErrStoreUnavailable)

// take charges c by the deadline, and returns what is known of the charge then.
func (l *line) take(c *tierlimit.Charge, hash uint64, deadline time.Time) (tierlimit.Outcome, error) {
	t, err := l.send(c, hash, nil, deadline)
	if err != nil {
		return tierlimit.Outcome{}, err
	}
	defer l.leave(t.batch)
	return t.outcome()
}

// run runs a command. If it returns nil before the deadline, c.reply is set.
func (l *line) run(c *command, deadline time.Time) error {
	t, err := l.send(nil, 0, c, deadline)
	if err != nil {
		return err
	}
	defer l.leave(t.batch)
	return c.err
}

// send queues a charge, or cmd if cmd is not nil, and blocks until its batch has settled or
// the deadline passes. Unless send fails, the caller reads the outcome and calls leave.
// c and cmd are separate parameters because a struct of both would move c to the heap.
func (l *line) send(c *tierlimit.Charge, hash uint64, cmd *command, deadline time.Time) (ticket, error) {
	try, err := l.health.allow()
	if err != nil {
		return ticket{}, fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, err)
	}
	t, err := l.join(c, hash, cmd, deadline)
	if err != nil {
		if try {
			l.health.report(nothing, err)
		}
		return ticket{}, err
	}
	if err := l.await(&t, deadline); err != nil {
		l.leave(t.batch)
		return ticket{}, err
	}
	return t, nil
}

// join queues a charge, or cmd if cmd is not nil. The caller must call await for the ticket
// and leave for its batch.
func (l *line) join(c *tierlimit.Charge, hash uint64, cmd *command, deadline time.Time) (t ticket, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return t, errClosed
	}
	if n := len(l.queue); n > 0 {
		t = l.queue[n-1].board(c, hash, cmd, deadline)
	}
	if t.batch == nil { // none gathers, or it is full
		t = l.gather(deadline).board(c, hash, cmd, deadline)
	}
	if l.calls == 0 || l.calls < maxCalls && l.queue[0].deep() {
		l.dispatch()
	}
	return t, nil
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
	b.arm(min(slowCall, time.Until(deadline)))
	l.queue = append(l.queue, b)
	return b
}

// dispatch has a worker make one more call. mu is held.
func (l *line) dispatch() {
	l.calls++
	if l.waiting > 0 {
		l.waiting--
		l.work <- struct{}{} // never waits: there is room for each worker
		return
	}
	l.workers.Go(l.worker)
}

// worker makes calls until the line is closed.
func (l *line) worker() {
	for {
		for b := l.next(); b != nil; b = l.next() {
			l.carry(b)
		}
		if _, open := <-l.work; !open {
			return
		}
	}
}

// next returns the batch to send now, nil if the worker is to wait. A call beside others
// is for many, or for when the others do not return.
func (l *line) next() *batch {
	if l.crowd.Load() {
		runtime.Gosched() // callers who were just answered may ask again, and go together
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.calls > 1 && !l.queue[0].deep() && !l.queue[0].overdue {
		l.calls--
		l.waiting++
		return nil
	}
	b := l.queue[0]
	n := copy(l.queue, l.queue[1:])
	l.queue[n] = nil
	l.queue = l.queue[:n]
	l.crowd.Store(len(b.entries)+len(b.commands) > 1)
	now := time.Now()
	b.state, b.until = sent, now.Add(l.timeout)
	if l.asked.IsZero() || now.Sub(l.left) > silence {
		l.asked = now
	}
	l.left = now
	b.arm(min(b.deadline.Sub(now), l.timeout))
	return b
}

// carry makes the call for b, and settles it.
func (l *line) carry(b *batch) {
	err := error(nil)
	defer func() {
		if r := recover(); r != nil { // in a hook of the client's, such as one that traces
			err = fmt.Errorf("the Redis client panicked: %v\n%s", r, debug.Stack())
			b.fail(err)
		}
		l.settle(b, err)
	}()
	if !b.frame.prepare(b) && len(b.commands.leaving()) == 0 {
		err = ErrNotSent // everybody has given up
		return
	}
	err = l.call(callContext{context.Background(), time.Now().Add(l.longest)}, b)
}

// A callContext has the deadline of a call, and no timer: the client heeds deadlines by
// itself. It is not a caller's: callers and the breaker do not wait so long, and a
// connection that is slow to come about serves the next call.
type callContext struct {
	context.Context //nolint:containedctx // it is one
	deadline        time.Time
}

func (c callContext) Deadline() (time.Time, bool) { return c.deadline, true }

// settle lets everybody know that the outcomes are there. The breaker knows first: a
// caller may ask again at once.
func (l *line) settle(b *batch, err error) {
	b.timer.Stop()
	l.mu.Lock()
	if !l.silent(time.Now()) {
		err = b.blame(err)
	}
	b.settled.Store(true) // from here on the timer does nothing
	signal, reported := b.signal, b.reported
	v, cause := b.verdict(err)
	if v == answered || errors.Is(err, ErrNotSent) {
		l.asked = time.Time{}
	}
	l.mu.Unlock()
	if !reported {
		l.health.report(v, cause)
	}
	close(signal)
	l.leave(b)
}

// silent reports whether the server has sent nothing for so long that it counts as lost, even
// if this process is late. mu must be held.
func (l *line) silent(now time.Time) bool {
	return !l.asked.IsZero() && now.Sub(l.asked) > silence
}

// blame takes the failures of a call that timed out while this process was late off its
// server: the reply may have been there, and a deadline that passed while nobody ran is
// the first thing that is seen. It returns the error of the whole call. The line's mu is
// held.
func (b *batch) blame(err error) error {
	if b.graces == 0 && time.Since(b.due) <= late {
		return err
	}
	for i := range b.entries {
		if e := &b.entries[i]; isTimeout(e.err) {
			e.err = fmt.Errorf("%w: %v", ErrLate, e.err) //nolint:errorlint // what it wraps would open up
		}
	}
	for _, c := range b.commands {
		if isTimeout(c.err) {
			c.err = fmt.Errorf("%w: %v", ErrLate, c.err) //nolint:errorlint // as above
		}
	}
	if isTimeout(err) {
		return ErrLate
	}
	return err
}

// verdict returns what the call for b says about the server. The line's mu is held.
func (b *batch) verdict(err error) (verdict, error) {
	switch {
	case err != nil && !errors.Is(err, tierlimit.ErrStoreUnavailable):
		if isReply(err) {
			return answered, nil
		}
		return nothing, err
	case err != nil:
		return failing, err
	}
	busy := error(nil)
	for err := range b.results() {
		switch {
		case errors.Is(err, ErrLate):
			return nothing, err
		case err == nil || errors.Is(err, errMoved) || isBusy(err) || !errors.Is(err, tierlimit.ErrStoreUnavailable):
			return answered, nil
		default:
			busy = err
		}
	}
	if busy == nil {
		return answered, nil
	}
	return failing, busy
}

// results yields the error of each entry and command that was sent, or nil if it was
// answered.
func (b *batch) results() iter.Seq[error] {
	return func(yield func(error) bool) {
		for i := range b.entries {
			if e := &b.entries[i]; e.leaves() && !yield(e.err) {
				return
			}
		}
		for _, c := range b.commands {
			if !c.withdrawn && !yield(c.err) {
				return
			}
		}
	}
}

// fail sets the error of all entries and commands of b.
func (b *batch) fail(err error) {
	for i := range b.entries {
		b.entries[i].err = err
	}
	for _, c := range b.commands {
		c.err = err
	}
}

// arm has the timer fire after a while.
func (b *batch) arm(after time.Duration) {
	after = max(after, 0)
	b.due = time.Now().Add(after)
	b.timer.Reset(after)
}

// alarm is what a batch's timer does: a batch that waits behind calls which do not
// return leaves beside them; once callers' deadlines pass they are woken, and a call
// that has had its time is a failure of its server. It is harmless on a batch that has
// settled, or is on its next journey by now.
func (l *line) alarm(b *batch) {
	// The runtime runs a timer before runnable goroutines, including the one that reads the
	// reply, and before it polls the network. Let both go first, so that the alarm does not
	// overtake a reply that has arrived.
	l.poller.turn()
	runtime.Gosched()
	if l.failed(b) {
		l.health.report(failing, fmt.Errorf("%w: no reply within %v", tierlimit.ErrStoreUnavailable, l.timeout))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if b.state == resting || b.settled.Load() || now.Before(b.due) { // b was armed anew meanwhile
		return
	}
	if b.state == gathering {
		b.overdue = true
		if l.calls < maxCalls && !l.closed {
			l.dispatch()
		}
	}
	if now.Before(b.grace) {
		b.arm(b.grace.Sub(now))
		return
	}
	if !now.Before(b.deadline) {
		// Callers with later deadlines are woken too, and wait on.
		close(b.signal)
		b.signal = make(chan struct{})
	}
	if b.state == gathering || !b.reported && !b.late || now.Before(b.latest) {
		b.arm(b.pause(now)) // else nobody waits for the call any more
	}
}

// failed reports whether the call for b has just had its time. It grants that time first
// to whoever reads the reply, if the timer is late: then this process is slow, and the
// reply may have come long ago. If that was granted twice, and this process is late again,
// nothing is known of the server.
func (l *line) failed(b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if b.state == resting || b.settled.Load() || now.Before(b.due) {
		return false
	}
	if behind := now.Sub(b.due); behind > late {
		if b.late = b.graces == maxGraces && !l.silent(now); !b.late && b.graces < maxGraces {
			b.graces++
			b.grace = now.Add(min(2*behind, l.timeout))
		}
	}
	if b.state != sent || b.reported || b.late || now.Before(b.until) || now.Before(b.grace) {
		return false
	}
	b.reported = true
	return true
}

// pause returns when the timer is to fire next. How often is bounded, and a deadline is
// missed by no more. The line's mu is held.
func (b *batch) pause(now time.Time) time.Duration {
	wait := time.Duration(0)
	if b.state == sent {
		wait = b.deadline.Sub(now)
		if !b.reported {
			wait = min(wait, b.until.Sub(now))
		}
	}
	return max(wait, slowCall)
}

// await returns nil once the batch of t has settled, or says what is known of the charge
// at its deadline.
func (l *line) await(t *ticket, deadline time.Time) error {
	for {
		<-t.signal
		if t.batch.settled.Load() {
			return nil
		}
		if done, err := l.look(t, deadline); done {
			return err
		}
	}
}

// look reports whether the caller of t is done waiting, and how the wait ended.
func (l *line) look(t *ticket, deadline time.Time) (done bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := t.batch
	now := time.Now()
	passed := !now.Before(deadline) && !now.Before(b.grace)
	switch {
	case b.settled.Load():
		return true, nil
	case !passed:
		t.signal = b.signal
		return false, nil
	case b.state == gathering:
		t.withdraw()
		err = ErrNotSent
	default:
		err = errNoReply
	}
	if !l.silent(now) && (b.graces > 0 || now.Sub(deadline) > late) { // the reply may be there
		return true, fmt.Errorf("%w: %w", err, ErrLate)
	}
	return true, fmt.Errorf("%w: %w: %w", err, tierlimit.ErrStoreUnavailable, context.DeadlineExceeded)
}

// leave is called by all who looked at b, its sender included. The last one puts it to
// rest.
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

// close ends the workers once they have made the calls they are at, and refuses what
// comes after. What waits in the queue is given up at its deadline.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.work)
		l.poller.close()
	}
}
