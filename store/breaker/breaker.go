// Package breaker stops asking a store that does not answer.
//
// A [Store] wraps another. When that one has failed a few times in a row, or half
// the time, it is not asked any more: charges fail at once with
// tierlimit.ErrStoreUnavailable, so that a plan's failure policy answers in
// microseconds instead of after a whole budget each. One charge at a time still
// finds out whether it is back.
//
// Where several servers count, each has a breaker of its own: one that is away must
// not speak for the others.
//
// Only failures to be reached count, by the store's fault: what a store refuses it
// has answered, and whoever gave up early, or had hardly any time, says nothing of it.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

	// Patience is what a server may take: a charge that had less and ran out of it says
	// nothing of the server; default 10ms.
	Patience time.Duration

	// Busy tells errors that a server answers with for one subject alone, although it
	// cannot serve that one now; default: there are none.
	Busy func(error) bool

	// Server names the server that counts a subject, such as redisstore.Store.Server;
	// default: one counts all.
	Server func(subject string) string

	// OnChange is told of each change of a server's state: open or not. It must not
	// block.
	OnChange func(server string, open bool)
}

// ErrOpen is why a charge failed that was not sent; it comes with
// tierlimit.ErrStoreUnavailable.
var ErrOpen = errors.New("not asked: it did not answer lately")

// A Store asks the one it wraps while that answers. It is safe for concurrent use.
type Store struct {
	inner tierlimit.Store
	now   func(tierlimit.Charge) (tierlimit.Outcome, bool) // nil if inner is no Immediate
	cfg   Config
	only  *breaker // where one server counts all

	mu       sync.RWMutex
	breakers map[string]*breaker // guarded by mu: by server
}

var _ tierlimit.Immediate = (*Store)(nil)

// manyServers is how many servers there have been when all are forgotten: where they
// come and go, so do their names.
const manyServers = 1000

// A breaker is what is known of one server.
type breaker struct {
	state *gobreaker.TwoStepCircuitBreaker[any]
	// troubled is set by a failure, and cleared when it has been forgotten: only in
	// between is the state asked, which has a lock.
	troubled atomic.Bool
	row      atomic.Int64 // failures since the last success, however long ago
}

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
	if cfg.Patience <= 0 {
		cfg.Patience = 10 * time.Millisecond
	}
	if cfg.Busy == nil {
		cfg.Busy = func(error) bool { return false }
	}
	s := &Store{inner: inner, cfg: cfg, breakers: make(map[string]*breaker)}
	if cfg.Server == nil {
		s.only = newBreaker("", &cfg)
	}
	if i, ok := inner.(tierlimit.Immediate); ok {
		s.now = i.TakeNow
	}
	return s
}

func newBreaker(server string, cfg *Config) *breaker {
	b := &breaker{}
	settings := gobreaker.Settings{
		Name:     server,
		Interval: window,
		Timeout:  cfg.Retry,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return int(b.row.Load()) >= cfg.InARow || int(c.Requests) >= cfg.Of && 2*c.TotalFailures >= c.Requests
		},
		IsSuccessful: func(err error) bool { return !errors.Is(err, tierlimit.ErrStoreUnavailable) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, errSaysNothing) },
	}
	if cfg.OnChange != nil {
		settings.OnStateChange = func(server string, from, to gobreaker.State) {
			// A try that fails is no news.
			if to == gobreaker.StateClosed || from == gobreaker.StateClosed {
				cfg.OnChange(server, to == gobreaker.StateOpen)
			}
		}
	}
	b.state = gobreaker.NewTwoStepCircuitBreaker[any](settings)
	return b
}

// errSaysNothing is what a breaker is told of a failure that says nothing of its server.
var errSaysNothing = errors.New("no fault of the server")

// A try is one question to a store.
type try struct {
	cfg     *Config
	breaker *breaker
	done    func(error) // nil while there is no trouble
	fast    bool        // there was hardly any time
}

func (s *Store) try(ctx context.Context, subject string) (t try, err error) {
	deadline, bounded := ctx.Deadline()
	t = try{cfg: &s.cfg, breaker: s.of(subject), fast: bounded && time.Until(deadline) < s.cfg.Patience}
	if t.breaker.troubled.Load() {
		t.done, err = t.breaker.allow()
	}
	return t, err
}

func (t *try) over(err error) {
	if err != nil && (t.fast && errors.Is(err, context.DeadlineExceeded) || t.cfg.Busy(err)) {
		err = errSaysNothing
	}
	if t.done == nil {
		t.breaker.first(err)
		return
	}
	t.done(err)
}

// of returns the breaker of the server that counts a subject.
func (s *Store) of(subject string) *breaker {
	if s.only != nil {
		return s.only
	}
	server := s.cfg.Server(subject)
	s.mu.RLock()
	b := s.breakers[server]
	s.mu.RUnlock()
	if b != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b = s.breakers[server]; b == nil {
		if len(s.breakers) >= manyServers {
			clear(s.breakers)
		}
		b = newBreaker(server, &s.cfg)
		s.breakers[server] = b
	}
	return b
}

// Take implements tierlimit.Store.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	t, err := s.try(ctx, c.Subject)
	if err != nil {
		return tierlimit.Outcome{}, err
	}
	o, err := s.inner.Take(ctx, c)
	t.over(err)
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
	t, err := s.try(ctx, r.Subject)
	if err != nil {
		return false, err
	}
	refunded, err := s.inner.Refund(ctx, r)
	t.over(err)
	return refunded, err
}

// Reset implements tierlimit.Store. It always asks: an administrator waits for it.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	return s.inner.Reset(ctx, subject, limits...)
}

// allow returns what to call with how it went.
func (b *breaker) allow() (done func(error), err error) {
	tell, err := b.state.Allow()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, ErrOpen)
	}
	return func(err error) {
		b.count(err)
		tell(err)
		if err == nil && b.state.State() == gobreaker.StateClosed && b.state.Counts().TotalFailures == 0 {
			b.troubled.Store(false)
		}
	}, nil
}

// count counts failures in a row.
func (b *breaker) count(err error) {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errSaysNothing):
	case errors.Is(err, tierlimit.ErrStoreUnavailable):
		b.row.Add(1)
	default:
		b.row.Store(0)
	}
}

// first is how it went while there was no trouble.
func (b *breaker) first(err error) {
	if !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		return
	}
	b.troubled.Store(true)
	b.count(err)
	if done, open := b.state.Allow(); open == nil {
		done(err)
	}
}
