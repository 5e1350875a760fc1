package cache

import (
	"context"
	"sync"
	"time"
)

const (
	lookupBatch   = 512                    // most ids in one query
	lookupQueue   = 8192                   // most ids waiting; past it nobody waits
	lookupTimeout = time.Second            // longest query
	lookupPause   = 500 * time.Millisecond // after a failure nobody waits for so long
)

// lookups batches the look-ups of ids that are not held: an id that is asked for while a
// query is under way goes into the next query. At most one query runs at a time.
type lookups[T any] struct {
	ctx   context.Context //nolint:containedctx // ends the queries when the cache closes
	query func(ctx context.Context, ids []string) (map[string]T, error)

	mu         sync.Mutex
	waiting    map[string]*answer[T] // guarded by mu: asked and not answered yet
	queue      []string              // guarded by mu: asked and not sent yet
	busy       bool                  // guarded by mu: a goroutine is at it
	closed     bool                  // guarded by mu: nothing is sent any more
	pauseUntil time.Time             // guarded by mu
	stats      LookupStats           // guarded by mu
	running    sync.WaitGroup
}

// An answer is for all who asked for one id at a time.
type answer[T any] struct {
	done  chan struct{} // closed once found and err are set
	found T             // nil for nobody known
	err   error
}

func (l *lookups[T]) start(ctx context.Context, query func(context.Context, []string) (map[string]T, error)) {
	l.ctx, l.query, l.waiting = ctx, query, make(map[string]*answer[T])
}

// underWay returns the number of ids that are asked for and not answered yet.
func (l *lookups[T]) underWay() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// counted returns the counts of queries.
func (l *lookups[T]) counted() LookupStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// wait returns when no query is under way and none will be.
func (l *lookups[T]) wait() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.running.Wait()
}

// ask queues a look-up of id. It returns nil if the caller should not wait: too many
// look-ups are queued, or the last query has just failed (the look-up is queued all the
// same, to learn when the source is back).
func (l *lookups[T]) ask(id string) *answer[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.waiting[id]
	if a == nil {
		if len(l.waiting) >= lookupQueue || l.closed {
			return nil
		}
		a = &answer[T]{done: make(chan struct{})}
		l.waiting[id] = a
		l.queue = append(l.queue, id)
		if !l.busy {
			l.busy = true
			l.running.Go(l.work)
		}
	}
	if time.Now().Before(l.pauseUntil) {
		return nil
	}
	return a
}

// await reports whether the answer came in half of the time until the deadline, before
// ctx ended.
func (a *answer[T]) await(ctx context.Context, deadline time.Time) bool {
	if a == nil {
		return false
	}
	wait := lookupTimeout
	if !deadline.IsZero() {
		wait = min(wait, time.Until(deadline)/2)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-a.done:
		return a.err == nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// work sends queries until nobody waits.
func (l *lookups[T]) work() {
	for {
		batch := l.next()
		if batch == nil {
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
		began := time.Now()
		found, err := l.query(ctx, batch)
		cancel()
		l.settle(batch, found, err, time.Since(began))
		if err != nil {
			l.rest()
		}
	}
}

// rest spares a source that has just failed; what is asked meanwhile goes into
// one query.
func (l *lookups[T]) rest() {
	timer := time.NewTimer(lookupPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}

func (l *lookups[T]) next() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.busy = false
		return nil
	}
	n := min(lookupBatch, len(l.queue))
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	return batch
}

func (l *lookups[T]) settle(batch []string, found map[string]T, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Queries++
	l.stats.Took += took
	if err != nil {
		l.stats.Failed++
		l.pauseUntil = time.Now().Add(lookupPause)
	}
	for _, id := range batch {
		a := l.waiting[id]
		delete(l.waiting, id)
		a.found, a.err = found[id], err
		close(a.done)
	}
}
