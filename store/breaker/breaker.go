// Package breaker stops asking a store that does not answer.
//
// A [Store] wraps another. When that one has failed a few times in a row, or half
// the time, it is not asked any more: charges fail at once with
// tierlimit.ErrStoreUnavailable, so that a plan's failure policy answers in
// microseconds instead of after a whole budget each. One charge at a time still
// finds out whether it is back.
//
// Only failures to be reached count, by the store's fault: what a store refuses it
// has answered, and whoever gave up early says nothing of it.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/tierlimit/tierlimit"
)

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	InARow int           // failures in a row that open the breaker; default 5
	Of     int           // or half of at least so many charges within a second; default 20
	Retry  time.Duration // how long it stays open before one charge tries; default 250ms

	// OnChange is told of each change of state: open or not. It must not block.
	OnChange func(open bool)
}

// ErrOpen is why a charge failed that was not sent; it comes with
// tierlimit.ErrStoreUnavailable.
var ErrOpen = errors.New("not asked: it did not answer lately")

// A Store asks the one it wraps while that answers. It is safe for concurrent use.
type Store struct {
	inner   tierlimit.Store
	now     func(tierlimit.Charge) (tierlimit.Outcome, bool) // nil if inner is no Immediate
	breaker *gobreaker.TwoStepCircuitBreaker[any]
	// troubled is set by a failure, and cleared when it has been forgotten: only in
	// between is the breaker asked, which has a lock.
	troubled atomic.Bool
}

var _ tierlimit.Immediate = (*Store)(nil)

const window = time.Second

// New returns a Store that wraps inner.
func New(inner tierlimit.Store, cfg Config) *Store {
	if cfg.InARow <= 0 {
		cfg.InARow = 5
	}
	if cfg.Of <= 0 {
		cfg.Of = 20
	}
	if cfg.Retry <= 0 {
		cfg.Retry = 250 * time.Millisecond
	}
	s := &Store{inner: inner}
	if i, ok := inner.(tierlimit.Immediate); ok {
		s.now = i.TakeNow
	}
	settings := gobreaker.Settings{
		Interval: window,
		Timeout:  cfg.Retry,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return int(c.ConsecutiveFailures) >= cfg.InARow || int(c.Requests) >= cfg.Of && 2*c.TotalFailures >= c.Requests
		},
		IsSuccessful: func(err error) bool { return !errors.Is(err, tierlimit.ErrStoreUnavailable) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
	}
	if cfg.OnChange != nil {
		settings.OnStateChange = func(_ string, from, to gobreaker.State) {
			// A try that fails is no news.
			if to == gobreaker.StateClosed || from == gobreaker.StateClosed {
				cfg.OnChange(to == gobreaker.StateOpen)
			}
		}
	}
	s.breaker = gobreaker.NewTwoStepCircuitBreaker[any](settings)
	return s
}

// Take implements tierlimit.Store.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	done, err := s.allow()
	if err != nil {
		return tierlimit.Outcome{}, err
	}
	o, err := s.inner.Take(ctx, c)
	done(err)
	return o, err
}

// TakeNow implements tierlimit.Immediate: what needs no answer is served on.
func (s *Store) TakeNow(c tierlimit.Charge) (o tierlimit.Outcome, ok bool) {
	if s.now == nil {
		return o, false
	}
	return s.now(c)
}

// Refund implements tierlimit.Store.
func (s *Store) Refund(ctx context.Context, r tierlimit.Refund) (bool, error) {
	done, err := s.allow()
	if err != nil {
		return false, err
	}
	refunded, err := s.inner.Refund(ctx, r)
	done(err)
	return refunded, err
}

// Reset implements tierlimit.Store. It always asks: an administrator waits for it.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	return s.inner.Reset(ctx, subject, limits...)
}

// allow returns what to call with how it went.
func (s *Store) allow() (done func(error), err error) {
	if !s.troubled.Load() {
		return s.first, nil
	}
	tell, err := s.breaker.Allow()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, ErrOpen)
	}
	return func(err error) {
		tell(err)
		if err == nil && s.breaker.State() == gobreaker.StateClosed && s.breaker.Counts().TotalFailures == 0 {
			s.troubled.Store(false)
		}
	}, nil
}

// first is how it went while there was no trouble.
func (s *Store) first(err error) {
	if !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		return
	}
	s.troubled.Store(true)
	if done, open := s.breaker.Allow(); open == nil {
		done(err)
	}
}
