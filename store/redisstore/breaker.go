package redisstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// When a breaker opens, and how long it stays open before one charge tries.
const (
	failuresInARow = 5  // unless Config says otherwise
	fewCalls       = 20 // within a window: fewer say nothing when half of them failed
	breakerWindow  = time.Second
	retryAfter     = 250 * time.Millisecond
)

// ErrNotSent is returned for a charge that did not leave this process: it was not made,
// and never will be. The error also wraps tierlimit.ErrStoreUnavailable, unless it wraps
// ErrLate.
var ErrNotSent = errors.New("it was not sent")

// ErrOpen is returned for a charge that was not made because the circuit breaker of its
// server is open (see Config.Failures). The error also wraps
// tierlimit.ErrStoreUnavailable.
var ErrOpen = fmt.Errorf("%w: the server did not answer lately", ErrNotSent)

// A verdict is what a call says about its server.
type verdict int

const (
	nothing  verdict = iota // the call was not made, or this process was too late to tell
	answered                // the server answered
	failing                 // the server did not answer in time, or cannot serve now
)

// A breaker stops calls to a server that does not answer: charges then fail at once, so
// that a plan's failure policy answers in microseconds instead of after a whole budget
// each. Only what the server or the network did counts: it hears of calls, never of the
// deadlines of those who wait for them. One charge at a time finds out whether the
// server is back.
//
// A breaker is safe for concurrent use. While all is well, allow is one atomic load.
type breaker struct {
	most     int                          // failures in a row that open it; below 0: nothing does
	onChange func(open bool, cause error) // called without mu

	open atomic.Bool

	mu     sync.Mutex
	trying bool      // guarded by mu: a charge is out that finds out
	until  time.Time // guarded by mu: no charge tries before
	row    int       // guarded by mu: failures since the last answer
	began  time.Time // guarded by mu: of the window that is counted
	calls  int       // guarded by mu: in the window
	failed int       // guarded by mu: of them
}

// allow returns nil if a charge may be sent, else ErrOpen. try is true for the charge
// that finds out whether the server is back: its call must be reported.
func (b *breaker) allow() (try bool, err error) {
	if !b.open.Load() {
		return false, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open.Load() {
		return false, nil
	}
	if b.trying || time.Now().Before(b.until) {
		return false, ErrOpen
	}
	b.trying = true
	return true, nil
}

// report takes what a call said about the server. cause is why it failed.
func (b *breaker) report(v verdict, cause error) {
	if open, changed := b.count(v); changed && b.onChange != nil {
		b.onChange(open, cause)
	}
}

func (b *breaker) count(v verdict) (open, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	was := b.open.Load()
	switch {
	case was && v == answered:
		b.close()
	case was:
		if b.trying {
			b.trying = false
			if v == failing {
				b.until = now.Add(retryAfter)
			}
		}
	case v == nothing:
	case b.opens(v, now):
		b.open.Store(true)
		b.trying, b.until = false, now.Add(retryAfter)
	}
	return b.open.Load(), b.open.Load() != was
}

func (b *breaker) close() {
	b.open.Store(false)
	b.trying, b.row, b.calls, b.failed = false, 0, 0, 0
}

// opens counts a call, and reports whether it was one failure too many.
func (b *breaker) opens(v verdict, now time.Time) bool {
	if now.Sub(b.began) >= breakerWindow {
		b.began, b.calls, b.failed = now, 0, 0
	}
	b.calls++
	if v == answered {
		b.row = 0
		return false
	}
	b.row++
	b.failed++
	return b.most >= 0 && (b.row >= b.most || b.calls >= fewCalls && 2*b.failed >= b.calls)
}
