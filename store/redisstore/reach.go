package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A reach finds out which master has which slots, for the first time. It goes on behind
// the decisions that wait for it: to dial and to ask takes longer than a budget where the
// Cluster is far away.
type reach struct {
	timeout time.Duration // of one decision
	longest time.Duration // of the whole
	health  breaker

	mu      sync.Mutex
	done    chan struct{} // guarded by mu: closed when the one under way is over; nil if there is none
	err     error         // guarded by mu: how the last one ended
	running sync.WaitGroup
}

// await returns nil once the map of slots is known, or by the deadline why it is not.
func (r *reach) await(c *cluster, deadline time.Time) error {
	if _, err := r.health.allow(); err != nil {
		return fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, err)
	}
	began := time.Now()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	done := r.start(c)
	select {
	case <-done:
	case <-timer.C:
		select {
		case <-done: // the result is there: this process was late
			return r.ended()
		default:
		}
		err := fmt.Errorf("which master has which slots is not known: %w: %w", tierlimit.ErrStoreUnavailable, context.DeadlineExceeded)
		if time.Since(began) >= r.timeout { // else the caller had less time
			r.health.report(failing, err)
		} else {
			r.health.report(nothing, err)
		}
		return err
	}
	return r.ended()
}

// ended returns the result of the last attempt and reports the result to the breaker.
func (r *reach) ended() error {
	r.mu.Lock()
	err := r.err
	r.mu.Unlock()
	if err != nil && errors.Is(err, tierlimit.ErrStoreUnavailable) {
		r.health.report(failing, err)
	} else {
		r.health.report(answered, nil)
	}
	return err
}

// start returns what is closed when the map of slots is known, or could not be learned.
func (r *reach) start(c *cluster) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		return r.done
	}
	done := make(chan struct{})
	r.done = done
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), r.longest)
		defer cancel()
		_, err := c.master(ctx, "tierlimit:reach")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done, r.err = nil, err
		close(done)
	})
	return done
}
