package redisstore

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

const (
	// maxBatch is how many charges travel in one call: from 64 on a charge
	// costs Redis no less, and a call of 128 keeps it for about a millisecond.
	maxBatch = 128
	// maxCalls is how many calls are in flight at most. One is enough until a
	// whole batch is waiting.
	maxCalls = 4
	// slowCall is when a call that has not returned no longer holds up others:
	// its connection may be stuck, or Redis far away. It is looked at when a
	// charge arrives: one alone behind a stuck call waits, within its budget.
	slowCall = 2 * time.Millisecond
)

// A line carries the charges of one process to Redis in batches. There is no
// timer: a lone charge leaves at once, and what arrives while a call is in
// flight forms the next batch.
type line struct {
	send func(batch []*ticket) // settles every ticket

	mu    sync.Mutex
	queue []*ticket // guarded by mu: gathered and not sent
	calls int       // guarded by mu: in flight
	left  time.Time // guarded by mu: when the last call did
}

// A ticket is one charge on its way.
type ticket struct {
	charge  *tierlimit.Charge
	key     string
	fate    atomic.Int32
	settled chan struct{} // closed once outcome or err is set
	outcome tierlimit.Outcome
	err     error
}

// What became of a ticket: the sender takes it, or its caller gives it up,
// whoever is first.
const (
	waiting int32 = iota
	taken
	givenUp
)

func newTicket(c *tierlimit.Charge) *ticket {
	return &ticket{charge: c, key: Key(c.Subject), settled: make(chan struct{})}
}

// giveUp reports whether the charge had not left: then it is never made.
func (t *ticket) giveUp() bool { return t.fate.CompareAndSwap(waiting, givenUp) }

// answer is what came for a settled ticket.
func (t *ticket) answer() (tierlimit.Outcome, error) {
	if t.err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("take on %s: %w", t.key, t.err)
	}
	return t.outcome, nil
}

func (t *ticket) unanswered(ctx context.Context, what string) error {
	return fmt.Errorf("take on %s, %s: %w: %w", t.key, what, tierlimit.ErrStoreUnavailable, ctx.Err())
}

func (t *ticket) settle(o tierlimit.Outcome, err error) {
	t.outcome, t.err = o, err
	close(t.settled)
}

func (l *line) join(t *ticket) {
	l.mu.Lock()
	l.queue = append(l.queue, t)
	leave := l.calls == 0 ||
		l.calls < maxCalls && (len(l.queue) >= maxBatch || time.Since(l.left) > slowCall)
	if leave {
		l.calls++
		l.left = time.Now()
	}
	l.mu.Unlock()
	if leave {
		go l.run()
	}
}

// run sends batches until nothing waits.
func (l *line) run() {
	for {
		batch := l.next()
		if batch == nil {
			return
		}
		l.send(batch)
		runtime.Gosched() // those just answered may ask again, and go together
	}
}

func (l *line) next() []*ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), maxBatch)
	batch := make([]*ticket, 0, n)
	for _, t := range l.queue[:n] {
		if t.fate.CompareAndSwap(waiting, taken) {
			batch = append(batch, t)
		}
	}
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	if len(batch) == 0 && rest == 0 {
		l.calls--
		return nil
	}
	l.left = time.Now()
	return batch
}
