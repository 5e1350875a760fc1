package tierlimit_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
)

func TestAShadowLimitCountsAndNeverDenies(t *testing.T) {
	shadow := perDay(3)
	shadow.Shadow = true
	w := newWorld(t, shadow, perMinute(5))
	for n := int64(1); n <= 5; n++ {
		d := w.take(cost(1))
		want, limit := tierlimit.OK, "per_minute"
		if n > 3 {
			want, limit = tierlimit.Shadowed, "per_day"
		}
		if !d.Allowed || d.Reason != want || d.Limit != limit || d.Windows[0].Used != n || d.Windows[0].Max != 3 || !d.Windows[0].Shadow {
			t.Fatalf("charge %d: %+v", n, d)
		}
	}
	if d := w.take(cost(1)); d.Allowed || d.Reason != tierlimit.Exceeded || d.Limit != "per_minute" || d.Windows[0].Used != 5 {
		t.Errorf("a real limit beside it: %+v", d)
	}
}

func TestARefusedSubjectIsDeniedAndNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, perMinute(5))
		allowed, cfg := w.plan, w.plan.Config()
		cfg.Refusal = tierlimit.Suspended
		w.plan = newPlan(t, cfg)
		if d := w.take(cost(1)); d.Allowed || d.Reason != tierlimit.Suspended || d.RetryAfter != 0 || d.Degraded {
			t.Errorf("suspended: %+v", d)
		}
		cfg.Refusal, cfg.RefusedUntil = tierlimit.Blocked, time.Now().Add(time.Hour)
		w.plan = newPlan(t, cfg)
		if d := w.take(cost(1)); d.Allowed || d.Reason != tierlimit.Blocked || d.RetryAfter != time.Hour {
			t.Errorf("blocked: %+v", d)
		}
		w.plan = allowed
		if d := w.take(cost(1)); !d.Allowed || d.Windows[0].Used != 1 {
			t.Errorf("afterwards: %+v", d)
		}
	})
}

// What a client of a sliding window is told is the first millisecond it is let in.
func TestASlidingWindowSaysWhenToComeBack(t *testing.T) {
	limit := tierlimit.Limit{Name: "per_minute", Max: 60, Window: tierlimit.Window{Length: time.Minute}, Algorithm: tierlimit.Sliding}
	for name, c := range map[string]struct {
		charges map[time.Duration]int64 // after noon
		cost    int64
	}{
		"as the window before fades":       {map[time.Duration]int64{0: 1, 59 * time.Second: 59, 90 * time.Second: 30}, 7},
		"after the next turn":              {map[time.Duration]int64{0: 1, 50 * time.Second: 50}, 25},
		"only once everything has faded":   {map[time.Duration]int64{0: 60}, 60},
		"in a window that has just turned": {map[time.Duration]int64{0: 60, 60 * time.Second: 0}, 1},
		"with thirds":                      {map[time.Duration]int64{0: 7, 61 * time.Second: 53}, 11},
	} {
		w := newWorld(t, limit)
		last := time.Duration(0)
		for after := time.Duration(0); after <= 2*time.Minute; after += time.Second {
			if n := c.charges[after]; n > 0 {
				w.now = noon.Add(after)
				w.take(cost(n))
			}
			if _, ok := c.charges[after]; ok {
				last = after
			}
		}
		w.now = noon.Add(last)
		d := w.take(cost(c.cost))
		if d.Allowed || d.RetryAfter <= 0 {
			t.Fatalf("%s: %+v", name, d)
		}
		w.now = noon.Add(last + d.RetryAfter - time.Millisecond)
		if early := w.take(cost(c.cost)); early.Allowed {
			t.Errorf("%s: allowed a millisecond before the %v it was told", name, d.RetryAfter)
		}
		w.now = noon.Add(last + d.RetryAfter)
		if again := w.take(cost(c.cost)); !again.Allowed {
			t.Errorf("%s: denied after the %v it was told: %+v", name, d.RetryAfter, again)
		}
	}
}

func TestASlidingDenialFadesInMemoryToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, 0, tierlimit.Limit{
			Name: "burst", Max: 10, Window: tierlimit.Window{Length: 2 * time.Second}, Algorithm: tierlimit.Sliding,
		})
		c.take(cost(10), true)
		time.Sleep(2 * time.Second)
		d := c.take(cost(1), true) // all ten are of the window before
		if d.Allowed || d.RetryAfter != 200*time.Millisecond {
			t.Fatalf("%+v", d)
		}
		time.Sleep(199 * time.Millisecond)
		if d := c.take(cost(1), false); d.Windows[0].Used != 10 || d.RetryAfter != time.Millisecond {
			t.Fatalf("%+v", d)
		}
		time.Sleep(time.Millisecond)
		if d := c.take(cost(1), true); !d.Allowed {
			t.Fatalf("%+v", d)
		}
	})
}
