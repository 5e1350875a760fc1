// Package storetest is the one conformance suite that every store passes.
//
// A store's own test hands the suite a way to start it:
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Harness { ... })
//	}
//
// Run needs nothing but time that passes. RunClock adds the cases that need a
// clock which can be set: calendar boundaries, steps and the timed model. The
// package is for tests only.
package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Harness is a fresh store and the means to let its time pass.
type Harness struct {
	Store tierlimit.Store
	// Advance lets d pass on the store's clock. A store on a real clock waits;
	// Run never asks for more than a second.
	Advance func(d time.Duration)
	// Now reads the store's clock.
	Now func() time.Time
	// SetNow sets the store's clock. Only RunClock calls it.
	SetNow func(now time.Time)
}

// Run holds a store to the contract of tierlimit.Store. start is called for
// each case; a store that is shared between cases is told apart by subject.
func Run(t *testing.T, start func(t *testing.T) Harness) {
	for _, c := range slices.Concat(cases, togetherCases, holdCases) {
		t.Run(c.name, func(t *testing.T) { c.run(newSubject(t, start(t))) })
	}
	t.Run("agrees with a plain model while no window ends", func(t *testing.T) { modelWithoutTime(t, start) })
}

// RunClock holds a store whose clock can be set to what the contract says about
// time.
func RunClock(t *testing.T, start func(t *testing.T) Harness) {
	for _, c := range slices.Concat(clockCases, holdClockCases) {
		t.Run(c.name, func(t *testing.T) { c.run(newSubject(t, start(t))) })
	}
	t.Run("agrees with a plain model as time passes and steps", func(t *testing.T) { modelWithTime(t, start) })
	t.Run("agrees with a plain model of holds", func(t *testing.T) { modelWithHolds(t, start) })
}

type testCase struct {
	name string
	run  func(s *subject)
}

// A subject is one subject on one store, with the verbs the cases speak in.
type subject struct {
	*testing.T
	Harness
	name string
}

func newSubject(t *testing.T, h Harness) *subject {
	return &subject{T: t, Harness: h, name: uniqueName(t)}
}

func uniqueName(t *testing.T) string {
	return fmt.Sprintf("%.100s-%d", t.Name(), time.Now().UnixNano())
}

func ceiling(name string, most int64, w tierlimit.Window) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: name, Max: most, Window: w}
}

func length(d time.Duration) tierlimit.Window { return tierlimit.Window{Length: d} }

func period(p tierlimit.Period) tierlimit.Window { return tierlimit.Window{Period: p} }

// monthly is a month that begins as that of the instant does.
func monthly(anchor string) tierlimit.Window {
	return tierlimit.Window{Period: tierlimit.Month, Anchor: at(anchor).UnixMilli()}
}

func sliding(c tierlimit.Ceiling) tierlimit.Ceiling {
	c.Sliding = true
	return c
}

func perMinute(most int64) tierlimit.Ceiling {
	return ceiling("per_minute", most, length(time.Minute))
}

func perHour(most int64) tierlimit.Ceiling { return ceiling("per_hour", most, length(time.Hour)) }

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func (s *subject) as(name string) *subject {
	return &subject{T: s.T, Harness: s.Harness, name: name}
}

func (s *subject) also(suffix string) *subject { return s.as(s.name + suffix) }

func (s *subject) clockAt(now time.Time) *subject {
	s.SetNow(now)
	return s
}

// Ceilings returns those of a list that is in order and valid.
func Ceilings(list ...tierlimit.Ceiling) *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(list...)
	if err != nil {
		panic(err)
	}
	return c
}

// Charge returns one of subject against ceilings that are in order and valid.
func Charge(subject string, cost int64, list ...tierlimit.Ceiling) tierlimit.Charge {
	return tierlimit.Charge{Subject: subject, Cost: cost, Ceilings: Ceilings(list...)}
}

func (s *subject) peek(c ...tierlimit.Ceiling) []tierlimit.Count {
	s.Helper()
	return s.take(0, c...).Counts
}

// take charges cost and fails the test on an error.
func (s *subject) take(cost int64, c ...tierlimit.Ceiling) tierlimit.Outcome {
	s.Helper()
	o, err := s.Store.Take(s.Context(), Charge(s.name, cost, c...))
	if err != nil {
		s.Fatalf("take %d: %v", cost, err)
	}
	if len(o.Counts) != len(c) {
		s.Fatalf("take %d over %d windows answered %d counts", cost, len(c), len(o.Counts))
	}
	return o
}

// allowed charges cost, which must fit.
func (s *subject) allowed(cost int64, c ...tierlimit.Ceiling) []tierlimit.Count {
	s.Helper()
	o := s.take(cost, c...)
	if !o.Allowed {
		s.Fatalf("a charge of %d was denied at %v", cost, o.Counts)
	}
	if o.At == 0 {
		s.Fatal("the store does not say when it charged")
	}
	return o.Counts
}

// denied charges cost, which must not fit.
func (s *subject) denied(cost int64, c ...tierlimit.Ceiling) []tierlimit.Count {
	s.Helper()
	o := s.take(cost, c...)
	if o.Allowed {
		s.Fatalf("a charge of %d was allowed at %v", cost, o.Counts)
	}
	return o.Counts
}

// used fails the test unless the counts are exactly these.
func (s *subject) used(counts []tierlimit.Count, want ...int64) {
	s.Helper()
	for i := range want {
		if counts[i].Used != want[i] {
			s.Fatalf("window %d: used %d, want %d (all: %v)", i, counts[i].Used, want[i], counts)
		}
	}
}

// resetBy fails the test unless a window ends within (least, most].
func (s *subject) resetBy(c tierlimit.Count, least, most time.Duration) {
	s.Helper()
	if ms(c.Reset) <= least || ms(c.Reset) > most {
		s.Fatalf("reset in %v, want more than %v and at most %v", ms(c.Reset), least, most)
	}
}

func (s *subject) reset(limits ...string) {
	s.Helper()
	if err := s.Store.Reset(context.Background(), s.name, limits...); err != nil {
		s.Fatalf("reset %v: %v", limits, err)
	}
}
