package redisstore

import (
	"context"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

func chargeOf(subject string) *tierlimit.Charge {
	return &tierlimit.Charge{Subject: subject, Cost: 1, Ceilings: []tierlimit.Ceiling{
		{Name: "per_minute", Max: 5, Window: tierlimit.Window{Length: time.Minute}},
	}}
}

// The caller who sends ends the call by its own deadline: one with a millisecond
// left did so to all who came along.
func TestACallerWithLittleTimeDoesNotCutOthersOff(t *testing.T) {
	calls := make(chan context.Context, 1)
	l := &line{timeout: time.Minute, send: func(ctx context.Context, _ *batch) { calls <- ctx }}
	soon, late := time.Now().Add(time.Millisecond), time.Now().Add(time.Minute)
	l.mu.Lock()
	b := l.gather(soon)
	hasty, patient := b.add(chargeOf("a"), hashOf("a"), nil, soon), b.add(chargeOf("b"), hashOf("b"), nil, late)
	l.calls = 1
	l.mu.Unlock()
	l.lead(soon)
	ctx := <-calls
	if deadline, _ := ctx.Deadline(); deadline.Before(time.Now().Add(30 * time.Second)) {
		t.Errorf("the call has %v", time.Until(deadline))
	}
	for _, p := range []*place{&hasty, &patient} {
		if err := l.await(p, late); err != nil {
			t.Error(err)
		}
		l.leave(p.batch)
	}
}

// What is hooked into a client may panic, and whoever serves HTTP goes on.
func TestAPanicInTheClientHoldsNobodyUp(t *testing.T) {
	fail := true
	l := &line{timeout: time.Minute, send: func(context.Context, *batch) {
		if fail {
			panic("a hook")
		}
	}}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		l.join(chargeOf("a"), hashOf("a"), nil, time.Now().Add(time.Minute))
	}()
	fail = false
	p := l.join(chargeOf("a"), hashOf("a"), nil, time.Now().Add(time.Minute))
	if err := l.await(&p, time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := p.outcome(chargeOf("a")); err == nil {
		t.Error("an entry nobody answered has an outcome")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls != 0 {
		t.Errorf("%d calls are still counted", l.calls)
	}
}
