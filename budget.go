package tierlimit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A budget is the context of one decision: its caller's, cut off at the
// decision's deadline. Most decisions are over long before, so its timer is made
// only when somebody asks for Done. Whoever can wait without it (a store that
// holds one timer for many decisions) reads Deadline instead.
type budget struct {
	context.Context //nolint:containedctx // it is one
	deadline        time.Time

	once  sync.Once
	timed context.Context //nolint:containedctx // what it becomes once somebody waits on it
	stop  context.CancelFunc
	made  atomic.Bool // timed is there
}

func newBudget(caller context.Context, now time.Time, length time.Duration) *budget {
	b := &budget{Context: caller, deadline: now.Add(length)}
	if earlier, ok := caller.Deadline(); ok && earlier.Before(b.deadline) {
		b.deadline = earlier
	}
	return b
}

func (b *budget) Deadline() (time.Time, bool) { return b.deadline, true }

func (b *budget) Done() <-chan struct{} {
	b.once.Do(func() {
		b.timed, b.stop = context.WithDeadline(b.Context, b.deadline)
		b.made.Store(true)
	})
	return b.timed.Done()
}

// Err agrees with Done: contexts are derived from this one, and rely on it.
func (b *budget) Err() error {
	if b.made.Load() {
		return b.timed.Err()
	}
	if err := b.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(b.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// end releases the timer. Who still waits on Done is woken.
func (b *budget) end() {
	b.once.Do(func() {
		b.timed = ended
		b.made.Store(true)
	})
	if b.stop != nil {
		b.stop()
	}
}

// ended is what a budget becomes that nobody waited on.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
