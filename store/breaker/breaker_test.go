package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/breaker"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// A wrapped store is a store like the others.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Harness {
		return storetest.Harness{Store: breaker.New(memstore.New(memstore.Config{}), breaker.Config{}), Advance: time.Sleep, Now: time.Now}
	})
}

var errDown = fmt.Errorf("%w: connection refused", tierlimit.ErrStoreUnavailable)

// A server is a store that takes its time, and fails if it should.
type server struct {
	tierlimit.Store
	delay time.Duration
	err   atomic.Pointer[error]
	asked atomic.Int64
}

func (s *server) fail(err error) { s.err.Store(&err) }

func (s *server) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	s.asked.Add(1)
	time.Sleep(s.delay)
	if err := s.err.Load(); err != nil && *err != nil {
		return tierlimit.Outcome{}, *err
	}
	return s.Store.Take(ctx, c)
}

var charge = tierlimit.Charge{
	Subject: "acct_42", Cost: 1,
	Ceilings: []tierlimit.Ceiling{{Name: "per_minute", Max: tierlimit.Unlimited, Window: tierlimit.Window{Length: time.Minute}}},
}

func start(cfg breaker.Config) (*server, *breaker.Store, *[]bool) {
	changes := new([]bool)
	var mu sync.Mutex
	cfg.OnChange = func(_ string, open bool) { mu.Lock(); defer mu.Unlock(); *changes = append(*changes, open) }
	srv := &server{Store: memstore.New(memstore.Config{}), delay: 50 * time.Millisecond}
	return srv, breaker.New(srv, cfg), changes
}

func TestAStoreThatDoesNotAnswerIsNotAskedAndTriedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, changes := start(breaker.Config{})
		srv.fail(errDown)
		for range 5 {
			if _, err := s.Take(t.Context(), charge); !errors.Is(err, tierlimit.ErrStoreUnavailable) || errors.Is(err, breaker.ErrOpen) {
				t.Fatalf("before it opens: %v", err)
			}
		}
		began := time.Now()
		for range 1000 {
			if _, err := s.Take(t.Context(), charge); !errors.Is(err, tierlimit.ErrStoreUnavailable) || !errors.Is(err, breaker.ErrOpen) {
				t.Fatalf("while it is open: %v", err)
			}
		}
		if took := time.Since(began); took != 0 || srv.asked.Load() != 5 {
			t.Errorf("a thousand charges took %s, and %d were asked", took, srv.asked.Load())
		}
		for range 100 { // ten seconds: one tries every 250 ms
			s.Take(t.Context(), charge)
			time.Sleep(100 * time.Millisecond)
		}
		if n := srv.asked.Load(); n < 5+25 || n > 5+45 {
			t.Errorf("%d were asked in ten seconds", n-5)
		}
		srv.fail(nil)
		time.Sleep(300 * time.Millisecond)
		for range 3 {
			if o, err := s.Take(t.Context(), charge); err != nil || !o.Allowed {
				t.Fatalf("when it is back: %+v, %v", o, err)
			}
		}
		if len(*changes) != 2 || !(*changes)[0] || (*changes)[1] {
			t.Errorf("changes of state: %v", *changes)
		}
	})
}

func TestOneTriesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, _ := start(breaker.Config{})
		srv.fail(errDown)
		for range 5 {
			s.Take(t.Context(), charge)
		}
		time.Sleep(300 * time.Millisecond)
		before := srv.asked.Load()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { s.Take(t.Context(), charge) })
		}
		wg.Wait()
		if n := srv.asked.Load() - before; n != 1 {
			t.Errorf("%d tried", n)
		}
	})
}

func TestHalfOfManyFailuresOpensItToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, changes := start(breaker.Config{})
		srv.delay = time.Millisecond
		for i := range 40 {
			if i%2 == 0 {
				srv.fail(errDown)
			} else {
				srv.fail(nil)
			}
			s.Take(t.Context(), charge)
		}
		if len(*changes) != 1 {
			t.Errorf("changes of state: %v", *changes)
		}
	})
}

// A failure now and then, a refusal, and whoever gives up open nothing.
func TestWhatIsNotTheStoresFaultOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, changes := start(breaker.Config{})
		srv.delay = time.Millisecond
		for _, err := range []error{errors.New("WRONGTYPE"), fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, context.Canceled)} {
			srv.fail(err)
			for range 50 {
				s.Take(t.Context(), charge)
			}
		}
		for range 20 {
			srv.fail(errDown)
			s.Take(t.Context(), charge)
			srv.fail(nil)
			for range 30 {
				s.Take(t.Context(), charge)
			}
			time.Sleep(window)
		}
		if len(*changes) != 0 {
			t.Errorf("changes of state: %v", *changes)
		}
	})
}

const window = time.Second

func BenchmarkNoTrouble(b *testing.B) {
	s := breaker.New(memstore.New(memstore.Config{}), breaker.Config{})
	b.ReportAllocs()
	for b.Loop() {
		s.Take(b.Context(), charge)
	}
}

// Of a Cluster one master was away, and nobody asked the others either.
func TestAServerThatIsAwaySpeaksForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := map[string]*server{}
		for _, name := range []string{"one", "two"} {
			away[name] = &server{Store: memstore.New(memstore.Config{}), delay: 50 * time.Millisecond}
		}
		s := breaker.New(byName(away), breaker.Config{Server: func(subject string) string { return subject }})
		take := func(subject string) error {
			c := charge
			c.Subject = subject
			_, err := s.Take(t.Context(), c)
			return err
		}
		away["one"].fail(errDown)
		for range 20 {
			if err := take("one"); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
				t.Fatal(err)
			}
			if err := take("two"); err != nil {
				t.Fatalf("the other: %v", err)
			}
		}
		if one, two := away["one"].asked.Load(), away["two"].asked.Load(); one >= 20 || two != 20 {
			t.Errorf("the one that is away was asked %d times, the other %d", one, two)
		}
	})
}

// byName is a store of several servers, each for the subject of its name.
type byName map[string]*server

func (b byName) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	return b[c.Subject].Take(ctx, c)
}

func (b byName) Refund(ctx context.Context, r tierlimit.Refund) (bool, error) {
	return b[r.Subject].Refund(ctx, r)
}

func (b byName) Reset(ctx context.Context, subject string, limits ...string) error {
	return b[subject].Reset(ctx, subject, limits...)
}

// Callers with no time left opened it for those who had time.
func TestWhoHasNoTimeSaysNothingOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, changes := start(breaker.Config{})
		srv.fail(fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, context.DeadlineExceeded))
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := s.Take(ctx, charge); errors.Is(err, breaker.ErrOpen) {
				t.Fatal("it opened")
			}
			cancel()
		}
		if len(*changes) != 0 {
			t.Errorf("it changed: %v", *changes)
		}
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = s.Take(ctx, charge)
			cancel()
		}
		if _, err := s.Take(t.Context(), charge); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("five that had time: %v", err)
		}
	})
}

// Failures that came one at a time, a second apart, never opened it: each waited for the
// whole budget.
func TestFailuresInARowCountHoweverFarApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s, _ := start(breaker.Config{})
		srv.fail(errDown)
		for range 20 {
			_, _ = s.Take(t.Context(), charge)
			time.Sleep(200 * time.Millisecond) // 250 ms from one to the next, with what it takes
		}
		if n := srv.asked.Load(); n > 14 {
			t.Errorf("%d of 20 asked a store that is away", n)
		}
		srv.fail(nil)
		time.Sleep(time.Second)
		for range 2 {
			if _, err := s.Take(t.Context(), charge); err != nil {
				t.Errorf("once it is back: %v", err)
			}
		}
	})
}

// A subject that cannot be served says nothing of the others.
func TestABusySubjectSaysNothingOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := fmt.Errorf("%w: TRYAGAIN", tierlimit.ErrStoreUnavailable)
		srv, s, changes := start(breaker.Config{Busy: func(err error) bool { return errors.Is(err, busy) }})
		srv.fail(busy)
		for range 100 {
			_, _ = s.Take(t.Context(), charge)
		}
		if n := srv.asked.Load(); n != 100 || len(*changes) != 0 {
			t.Errorf("%d of 100 asked; it changed: %v", n, *changes)
		}
	})
}
