package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
)

var perMinute = func() *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: "per_minute", Max: 1000, Window: tierlimit.Window{Length: time.Minute}})
	if err != nil {
		panic(err)
	}
	return c
}()

func chargeOf(subject string) *tierlimit.Charge {
	return &tierlimit.Charge{Subject: subject, Cost: 1, Ceilings: perMinute}
}

const (
	testTimeout = 50 * time.Millisecond
	testLongest = time.Second
)

// A sender stands for Redis and the network to it: it answers each call after a while,
// or as it is told.
type sender struct {
	*testing.T
	line    *line
	changes []bool // what the breaker told

	mu      sync.Mutex
	takes   time.Duration        // guarded by mu: how long a call takes
	answers func(call int) error // guarded by mu: nil: all calls are answered
	under   []*batch             // guarded by mu: in flight
	seen    tally                // guarded by mu
}

// A tally is what a sender was asked for.
type tally struct {
	calls   int
	most    int // calls in flight at once
	sizes   []int
	charged map[string]int64 // by subject
}

func (s *sender) tally() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.seen
	t.sizes, t.charged = slices.Clone(t.sizes), maps.Clone(t.charged)
	return t
}

// bubble runs a test on a line whose time is the bubble's.
func bubble(t *testing.T, run func(s *sender)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &sender{T: t, seen: tally{charged: make(map[string]int64)}}
		s.line = newLine(testTimeout, testLongest, failuresInARow, func(open bool, _ error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changes = append(s.changes, open)
		}, s.call)
		defer s.line.workers.Wait()
		defer s.line.close()
		run(s)
	})
}

func (s *sender) set(takes time.Duration, answers func(call int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes, s.answers = takes, answers
}

func (s *sender) call(_ context.Context, b *batch) error {
	s.mu.Lock()
	s.seen.calls++
	n, takes, answers := s.seen.calls, s.takes, s.answers
	s.under = append(s.under, b)
	s.seen.most = max(s.seen.most, len(s.under))
	s.seen.sizes = append(s.seen.sizes, len(b.frame.entries()))
	s.mu.Unlock()
	time.Sleep(takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under = slices.DeleteFunc(s.under, func(other *batch) bool { return other == b })
	var err error
	if answers != nil {
		err = answers(n)
	}
	for _, e := range b.frame.entries() {
		if e.err = err; err != nil {
			continue
		}
		// As take.lua has it: what was used, then the charges that fit.
		value := appendUint(appendUint(nil, s.seen.charged[e.subject], 7), time.Now().UnixMilli()+60_000, 6)
		if _, err := e.read(time.Now().UnixMilli(), "per_minute:"+string(value)); err != nil {
			s.Error(err)
		}
		s.seen.charged[e.subject] += e.answer.fits(e)
	}
	return err
}

func (s *sender) take(subject string, patience time.Duration) (tierlimit.Outcome, error) {
	return s.line.take(chargeOf(subject), hashOf(subject), time.Now().Add(patience))
}

// batches returns those that are under way. The line's mu is held.
func (s *sender) batches() []*batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.under)
}

// late puts the calls under way back by d, as if their timers had fired so much too late.
func (s *sender) late(d time.Duration) {
	synctest.Wait()
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	for _, b := range s.batches() {
		b.due = b.due.Add(-d)
	}
}

// takeLate takes in a process that is late by d.
func (s *sender) takeLate(d time.Duration) error {
	done := make(chan error, 1)
	go func() {
		_, err := s.take("acct_42", testTimeout)
		done <- err
	}()
	s.late(d)
	return <-done
}

// many takes for n subjects at once.
func (s *sender) many(n int, patience time.Duration) (failed int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range n {
		wg.Go(func() {
			if _, err := s.take(fmt.Sprint("acct_", i), patience); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed++
			}
		})
	}
	wg.Wait()
	return failed
}

var errAway = fmt.Errorf("%w: connection refused", tierlimit.ErrStoreUnavailable)

func away(int) error { return errAway }

func TestALoneChargeLeavesAtOnce(t *testing.T) {
	bubble(t, func(s *sender) {
		began := time.Now()
		o, err := s.take("acct_42", testTimeout)
		if err != nil || !o.Allowed || o.Counts[0].Used != 1 || time.Since(began) != 0 || s.tally().calls != 1 {
			s.Errorf("after %v and %d calls: %+v, %v", time.Since(began), s.tally().calls, o, err)
		}
	})
}

func TestChargesThatComeDuringACallTravelTogether(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Millisecond, nil)
		go s.take("first", testTimeout)
		synctest.Wait()
		if n := s.many(deep-1, testTimeout); n > 0 {
			s.Errorf("%d failed", n)
		}
		if seen := s.tally(); seen.calls != 2 || seen.sizes[1] != deep-1 || seen.most != 1 {
			s.Errorf("%d calls of %v subjects, %d at once", seen.calls, seen.sizes, seen.most)
		}
	})
}

// A thousand charges are counted once each, whatever travels with what.
func TestEachChargeOfACrowdIsCountedOnce(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Millisecond, nil)
		seen := make(map[int64]bool)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Microsecond)
				o, err := s.take("acct_42", testTimeout)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || !o.Allowed || seen[o.Counts[0].Used] {
					s.Errorf("%+v, %v", o, err)
				}
				seen[o.Counts[0].Used] = true
			})
		}
		wg.Wait()
		if seen := s.tally(); seen.charged["acct_42"] != 1000 || seen.most > maxCalls {
			s.Errorf("%d charged, %d calls at once", seen.charged["acct_42"], seen.most)
		}
	})
}

func TestMoreCallsLeaveWhenManyWait(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Millisecond, nil)
		if n := s.many(maxCalls*maxBatch, testTimeout); n > 0 {
			s.Errorf("%d failed", n)
		}
		if most := s.tally().most; most < 2 || most > maxCalls {
			s.Errorf("%d calls at once", most)
		}
	})
}

// One stalled reply held up everybody behind it.
func TestABatchBehindAHungCallIsSentBesideIt(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Hour, nil)
		go s.take("stuck", testTimeout)
		synctest.Wait()
		s.set(0, nil)
		began := time.Now()
		if o, err := s.take("acct_42", testTimeout); err != nil || !o.Allowed || time.Since(began) != slowCall {
			s.Errorf("after %v: %+v, %v", time.Since(began), o, err)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestWhenAllCallsHangChargesAreGivenUpAndNotMade(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(100*time.Millisecond, nil)
		for i := range maxCalls {
			go s.take(fmt.Sprint("stuck_", i), testTimeout)
			time.Sleep(slowCall + time.Microsecond)
			synctest.Wait()
		}
		began := time.Now()
		_, err := s.take("acct_42", 20*time.Millisecond)
		if !errors.Is(err, ErrNotSent) || !errors.Is(err, tierlimit.ErrStoreUnavailable) || time.Since(began) != 20*time.Millisecond {
			s.Errorf("after %v: %v", time.Since(began), err)
		}
		time.Sleep(time.Second)
		if s.tally().charged["acct_42"] != 0 {
			s.Error("it was made all the same")
		}
	})
}

// Eight requests with a millisecond left, as a gRPC client's, opened the breaker for
// everybody.
func TestCallersDeadlinesDoNotOpenTheBreaker(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(2*time.Millisecond, nil)
		failed := 0
		for range 100 {
			failed += s.many(8, time.Millisecond)
		}
		if failed < 400 {
			s.Fatalf("%d of 800 had no reply in a millisecond: this shows nothing", failed)
		}
		if o, err := s.take("acct_42", testTimeout); err != nil || !o.Allowed || len(s.changes) > 0 {
			s.Errorf("%+v, %v; the breaker told %v", o, err, s.changes)
		}
	})
}

// A program that was wired as the README said waited a whole budget for each request.
func TestAServerThatDoesNotAnswerIsNotAskedAfterFiveCalls(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(testLongest, away)
		var waited time.Duration
		for range 14 {
			began := time.Now()
			if _, err := s.take("acct_42", testTimeout); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
				s.Fatal(err)
			}
			waited += time.Since(began)
		}
		// The sixth leaves while the fifth call still has the 2 ms that it was sent later.
		if waited > 6*testTimeout {
			s.Errorf("14 charges waited %v, want at most %v", waited, 6*testTimeout)
		}
		if _, err := s.take("acct_42", testTimeout); !errors.Is(err, ErrOpen) {
			s.Errorf("got %v", err)
		}
		if len(s.changes) != 1 || !s.changes[0] {
			s.Errorf("the breaker told %v", s.changes)
		}
		time.Sleep(2 * testLongest)
	})
}

func TestOneChargeAtATimeFindsOutWhetherTheServerIsBack(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(0, away)
		for range failuresInARow {
			s.take("acct_42", testTimeout)
		}
		s.set(10*time.Millisecond, away)
		for round := range 4 {
			time.Sleep(retryAfter)
			before := s.tally().calls
			if n, calls := s.many(20, testTimeout), s.tally().calls-before; n != 20 || calls != 1 {
				s.Errorf("round %d: %d of 20 failed, %d calls", round, n, calls)
			}
		}
		s.set(0, nil)
		time.Sleep(retryAfter)
		if _, err := s.take("acct_42", testTimeout); err != nil {
			s.Error(err)
		}
		if n := s.many(20, testTimeout); n != 0 {
			s.Errorf("%d of 20 failed once the server was back", n)
		}
		if len(s.changes) != 2 || s.changes[1] {
			s.Errorf("the breaker told %v", s.changes)
		}
	})
}

// A charge that is to find out, and is given up before it left, leaves that to the next.
func TestATryThatNeverLeftIsFollowedByAnother(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(5*testLongest, nil)
		for i := range maxCalls { // all workers hang
			go s.take(fmt.Sprint("stuck_", i), testTimeout)
			time.Sleep(slowCall + time.Microsecond)
			synctest.Wait()
		}
		time.Sleep(testTimeout)
		synctest.Wait()
		if !s.line.health.open.Load() {
			s.Fatal("not open")
		}
		time.Sleep(retryAfter)
		if _, err := s.take("acct_42", testTimeout); !errors.Is(err, ErrNotSent) {
			s.Fatalf("got %v", err)
		}
		s.set(0, nil)
		time.Sleep(10 * testLongest)
		if _, err := s.take("acct_42", testTimeout); err != nil {
			s.Errorf("once calls return: %v", err)
		}
	})
}

// A panic in what is hooked into the client ended the process, and one in the half-open
// probe kept the breaker open for good.
func TestAPanicInTheClientHoldsNobodyUp(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(0, func(int) error { panic("a hook") })
		_, err := s.take("acct_42", testTimeout)
		if err == nil || errors.Is(err, tierlimit.ErrStoreUnavailable) || !strings.Contains(err.Error(), "a hook") {
			s.Errorf("got %v", err)
		}
		s.set(0, away)
		for range failuresInARow {
			s.take("acct_42", testTimeout)
		}
		time.Sleep(retryAfter)
		s.set(0, func(int) error { panic("a hook") })
		s.take("acct_42", testTimeout)
		s.set(0, nil)
		if o, err := s.take("acct_42", testTimeout); err != nil || !o.Allowed {
			s.Errorf("after the panic: %+v, %v", o, err)
		}
	})
}

// What a server refuses it has answered; what is said of one subject says nothing of the
// server; a server that cannot serve anybody fails.
func TestWhatAnAnswerSaysOfItsServer(t *testing.T) {
	for text, opens := range map[string]bool{
		"WRONGTYPE Operation against a key": false,
		"NOPERM this user has no rights":    false,
		"TRYAGAIN Multiple keys":            false,
		"OOM command not allowed":           true,
		"LOADING Redis is loading":          true,
		"READONLY You can't write":          true,
	} {
		bubble(t, func(s *sender) {
			s.set(0, nil)
			s.line.call = func(_ context.Context, b *batch) error {
				for _, e := range b.frame.entries() {
					e.err = classify(replyError(text))
				}
				return nil
			}
			for range 2 * failuresInARow {
				s.take("acct_42", testTimeout)
			}
			if s.line.health.open.Load() != opens {
				s.Errorf("%s: open %v", text, !opens)
			}
		})
	}
}

// One subject of many whose key cannot be charged is no failure of the server's.
func TestHalfOfTheCallsThatFailOpenTheBreaker(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(0, func(call int) error {
			if call%2 == 0 {
				return errAway
			}
			return nil
		})
		for range fewCalls - 1 {
			s.take("acct_42", testTimeout)
		}
		if s.line.health.open.Load() {
			s.Fatal("open before twenty calls")
		}
		s.take("acct_42", testTimeout)
		if !s.line.health.open.Load() {
			s.Error("not open after twenty calls of which half failed")
		}
	})
	bubble(t, func(s *sender) {
		s.set(0, func(call int) error {
			if call%2 == 0 {
				return errAway
			}
			return nil
		})
		for range 3 * fewCalls { // spread over more than a second each time
			s.take("acct_42", testTimeout)
			time.Sleep(breakerWindow / 8)
		}
		if s.line.health.open.Load() {
			s.Error("open although no second had twenty calls")
		}
	})
}

func TestAClosedLineRefusesAndItsWorkersEnd(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(10*time.Millisecond, nil)
		done := make(chan error, 1)
		go func() {
			_, err := s.take("acct_42", testTimeout)
			done <- err
		}()
		synctest.Wait()
		s.line.close()
		s.line.close()
		if _, err := s.take("acct_42", testTimeout); !errors.Is(err, errClosed) {
			s.Errorf("got %v", err)
		}
		if err := <-done; err != nil {
			s.Errorf("the call that was out: %v", err)
		}
	})
}

// A process that is late does not take Redis for lost: whoever waits gets the time, and
// if that is not enough it is this process that is overloaded.
func TestALateProcessIsNotALostRedis(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(testTimeout+15*time.Millisecond, nil)
		for range 2 * failuresInARow {
			if err := s.takeLate(10 * time.Millisecond); err != nil {
				s.Fatalf("a reply that was there when the process came to it: %v", err)
			}
		}
		s.set(10*testTimeout, nil)
		for range 2 * failuresInARow {
			done := make(chan error, 1)
			go func() {
				_, err := s.take("acct_42", testTimeout)
				done <- err
			}()
			var err error
			for waiting := true; waiting; { // late, each time the timer fires
				s.late(10 * time.Millisecond)
				select {
				case err = <-done:
					waiting = false
				case <-time.After(time.Millisecond):
				}
			}
			if !errors.Is(err, ErrLate) || errors.Is(err, tierlimit.ErrStoreUnavailable) {
				s.Fatalf("got %v", err)
			}
			time.Sleep(10 * testTimeout)
		}
		if s.line.health.open.Load() {
			s.Error("the breaker is open")
		}
	})
}

// A process that stood still for longer than all deadlines: the timer is the first to run,
// and whoever reads the reply comes after it.
func TestAProcessThatStoodStillIsNotALostRedis(t *testing.T) {
	for _, still := range []time.Duration{3 * testTimeout, 100 * testTimeout} {
		bubble(t, func(s *sender) {
			s.set(testTimeout+5*time.Millisecond, nil)
			for range 2 * failuresInARow {
				done := make(chan error, 1)
				go func() {
					_, err := s.take("acct_42", testTimeout)
					done <- err
				}()
				synctest.Wait()
				s.line.mu.Lock()
				for _, b := range s.batches() { // as if the clock had jumped
					b.due, b.deadline, b.until, b.latest = b.due.Add(-still), b.deadline.Add(-still), b.until.Add(-still), b.latest.Add(-still)
				}
				s.line.mu.Unlock()
				if err := <-done; err != nil {
					s.Fatalf("after it stood still for %v: %v", still, err)
				}
			}
			if s.line.health.open.Load() {
				s.Error("the breaker is open")
			}
		})
	}
}

// A process that was late once, and then waited in vain, finds out that Redis is away.
func TestALateProcessSeesALostRedis(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(10*testTimeout, nil)
		for range failuresInARow {
			if err := s.takeLate(10 * time.Millisecond); err == nil || errors.Is(err, ErrLate) == errors.Is(err, tierlimit.ErrStoreUnavailable) {
				s.Fatalf("got %v", err)
			}
		}
		time.Sleep(2 * slowCall) // the last call left so much later than its caller came
		if !s.line.health.open.Load() {
			s.Error("the breaker is not open")
		}
		time.Sleep(10 * testTimeout)
	})
}

// A caller that runs long after its deadline is a sign of the same, though the timer was
// on time.
func TestACallerThatIsWokenLateDoesNotTakeRedisForLost(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(4*testTimeout, nil)
		for _, behind := range []time.Duration{0, late, late + 1} {
			deadline := time.Now().Add(testTimeout)
			k, err := s.line.join(chargeOf("acct_42"), 1, nil, deadline)
			if err != nil {
				s.Fatal(err)
			}
			time.Sleep(testTimeout + behind)
			err = s.line.await(&k, deadline)
			s.line.leave(k.batch)
			if got := errors.Is(err, ErrLate); got != (behind > late) {
				s.Errorf("%v behind: %v", behind, err)
			}
			time.Sleep(4 * testTimeout)
		}
	})
}

func TestASecondCallLeavesAtOnceWhenEnoughWait(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(slowCall/2, nil)
		go s.take("first", testTimeout)
		synctest.Wait()
		began := time.Now()
		if n := s.many(deep, testTimeout); n > 0 {
			s.Errorf("%d failed", n)
		}
		if took := time.Since(began); took != slowCall/2 || s.tally().most != 2 {
			s.Errorf("they waited %v, %d calls at once", took, s.tally().most)
		}
	})
}

// Whoever has little time waits no longer, also in a batch behind callers with more.
func TestEachCallerWaitsAsLongAsItHasTime(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Hour, nil)
		for i := range maxCalls {
			go s.take(fmt.Sprint("stuck_", i), testTimeout)
			time.Sleep(slowCall + time.Microsecond)
			synctest.Wait()
		}
		go s.take("patient", testTimeout)
		synctest.Wait()
		for _, patience := range []time.Duration{20 * time.Millisecond, 10 * time.Millisecond} {
			began := time.Now()
			_, err := s.take("hasty", patience)
			if took := time.Since(began); err == nil || took < patience || took > patience+slowCall {
				s.Errorf("%v of patience: %v after %v", patience, err, took)
			}
		}
		time.Sleep(2 * time.Hour)
	})
	bubble(t, func(s *sender) {
		s.set(10*time.Millisecond, nil)
		go s.take("first", testTimeout)
		synctest.Wait()
		began := time.Now()
		if _, err := s.take("hasty", time.Millisecond); err == nil || time.Since(began) != time.Millisecond {
			s.Errorf("a millisecond of patience: %v after %v", err, time.Since(began))
		}
	})
}

func TestNoCallLeavesForWhichNobodyWaits(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(20*time.Millisecond, nil)
		for i := range maxCalls {
			go s.take(fmt.Sprint("busy_", i), testTimeout)
			time.Sleep(slowCall + time.Microsecond)
			synctest.Wait()
		}
		before := s.tally().calls
		if n := s.many(5, time.Millisecond); n != 5 {
			s.Fatalf("%d of 5 gave up", n)
		}
		time.Sleep(time.Second)
		if calls := s.tally().calls; calls != before {
			s.Errorf("%d calls for nobody", calls-before)
		}
	})
}

// A server that refuses a whole call has answered.
func TestARefusalClosesTheBreaker(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(0, away)
		for range failuresInARow {
			s.take("acct_42", testTimeout)
		}
		time.Sleep(retryAfter)
		s.set(0, func(int) error { return classify(replyError("NOPERM this user has no rights")) })
		if _, err := s.take("acct_42", testTimeout); err == nil || errors.Is(err, tierlimit.ErrStoreUnavailable) {
			s.Errorf("got %v", err)
		}
		if s.line.health.open.Load() {
			s.Error("the breaker is open")
		}
	})
}

// Calls that fail while this process is late say nothing of the server.
func TestCallsThatFailWhileTheProcessIsLateDoNotCount(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(testTimeout+5*time.Millisecond, func(int) error {
			return fmt.Errorf("%w: read: %w", tierlimit.ErrStoreUnavailable, os.ErrDeadlineExceeded)
		})
		for range 2 * failuresInARow {
			if err := s.takeLate(10 * time.Millisecond); !errors.Is(err, ErrLate) || errors.Is(err, tierlimit.ErrStoreUnavailable) {
				s.Errorf("got %v", err)
			}
		}
		if s.line.health.open.Load() {
			s.Error("the breaker is open")
		}
	})
}

// A batch is used again. What was known of its last call is not known of the next.
func TestABatchThatTimedOutCountsAnewOnItsNextJourney(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(testTimeout+time.Millisecond, nil)
		s.take("acct_42", testTimeout)
		time.Sleep(testLongest)
		s.set(0, away)
		for range failuresInARow {
			s.take("acct_42", testTimeout)
		}
		if !s.line.health.open.Load() {
			s.Error("the failures of a batch that was used before are not counted")
		}
	})
}

func TestAFailedTryIsNotRepeatedAtOnce(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(0, away)
		for range failuresInARow {
			s.take("acct_42", testTimeout)
		}
		time.Sleep(retryAfter)
		s.take("acct_42", testTimeout) // it finds out, in vain
		before := s.tally().calls
		for range 20 {
			time.Sleep(time.Millisecond)
			if _, err := s.take("acct_42", testTimeout); !errors.Is(err, ErrOpen) {
				s.Errorf("got %v", err)
			}
		}
		if calls := s.tally().calls; calls != before {
			s.Errorf("%d calls within 20 ms of a try that failed", calls-before)
		}
	})
}

// Regression test: a process that was busy during a whole outage did not notice the outage. It
// blamed each timeout on its own lateness.
func TestABusyProcessLearnsThatRedisIsLost(t *testing.T) {
	timedOut := fmt.Errorf("%w: read: %w", tierlimit.ErrStoreUnavailable, os.ErrDeadlineExceeded)
	for _, behind := range []time.Duration{late + 1, 25 * time.Millisecond} {
		bubble(t, func(s *sender) {
			s.set(2*testTimeout, func(int) error { return timedOut })
			began := time.Now()
			for !s.line.health.open.Load() && time.Since(began) < 10*silence {
				_ = s.takeLate(behind)
			}
			if took := time.Since(began); took > 2*silence {
				s.Errorf("%v late each time: not known after %v", behind, took)
			}
			time.Sleep(testLongest)
		})
	}
}

// A pause without calls does not count as silence of the server.
func TestAPauseIsNoSilence(t *testing.T) {
	bubble(t, func(s *sender) {
		timedOut := fmt.Errorf("%w: read: %w", tierlimit.ErrStoreUnavailable, os.ErrDeadlineExceeded)
		s.set(2*testTimeout, func(int) error { return timedOut })
		_, _ = s.take("acct_42", testTimeout)
		time.Sleep(2 * silence)
		if err := s.takeLate(25 * time.Millisecond); !errors.Is(err, ErrLate) {
			s.Errorf("got %v", err)
		}
		time.Sleep(testLongest)
	})
}

// Regression test: an alarm that ran late, after its batch had been reused, postponed the
// alarm of the batch's next use.
func TestAnAlarmThatIsOvertakenPutsNothingOff(t *testing.T) {
	bubble(t, func(s *sender) {
		s.set(time.Hour, nil)
		deadline := time.Now().Add(testTimeout)
		k, err := s.line.join(chargeOf("acct_42"), 1, nil, deadline)
		if err != nil {
			s.Fatal(err)
		}
		synctest.Wait()
		s.line.mu.Lock()
		due := k.batch.due
		s.line.mu.Unlock()
		s.line.alarm(k.batch)
		s.line.mu.Lock()
		if k.batch.due != due {
			s.Errorf("put off by %v", k.batch.due.Sub(due))
		}
		s.line.mu.Unlock()
		if err := s.line.await(&k, deadline); !errors.Is(err, tierlimit.ErrStoreUnavailable) || time.Now() != deadline {
			s.Errorf("%v at %v", err, time.Until(deadline))
		}
		s.line.leave(k.batch)
		time.Sleep(2 * time.Hour)
	})
}

// Regression test: if a late caller found both an answer and a passed deadline, it chose at
// random.
func TestALateCallerSeesThatTheClusterHasAnswered(t *testing.T) {
	r := &reach{timeout: time.Nanosecond, longest: time.Second, health: breaker{most: -1}}
	known := make(chan struct{})
	close(known)
	for range 100 {
		r.done = known
		if err := r.await(nil, time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

// turn returns only after all data that had arrived has been handed to its readers, however
// often turn is called.
func TestAPollerTurns(t *testing.T) {
	var p poller
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				p.turn()
			}
		})
	}
	wg.Wait()
	if p.closed || p.r == nil {
		t.Error("it does not work here")
	}
	p.close()
	p.turn()
	if p.r != nil {
		t.Error("it was opened again")
	}
}
