package load_test

import (
	"errors"
	"io"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// A script is a meter that reads what the test says.
type script struct {
	mu  sync.Mutex
	u   float64
	err error
}

func (s *script) set(u float64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.u, s.err = u, err
}

func (s *script) Read(time.Time) (float64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.u, s.err == nil, s.err
}

func (*script) Source() string { return "script" }

func (*script) Capacity() float64 { return 2 }

func start(t testing.TB, m load.Meter, mode load.Mode) *load.Controller {
	c, err := load.New(load.Config{
		Tiers: tiers.Builtin, Meter: m, Mode: mode,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAFixedLoadActsAtOnce(t *testing.T) {
	for _, c := range []struct{ u, free, pro float64 }{
		{0, 1, 1}, {0.70, 1, 1}, {0.75, 0.75, 1}, {0.80, 0.55, 1}, {0.90, 0.10, 0.75}, {0.95, 0.10, 0.55}, {0.97, 0.10, 0.50}, {1, 0.10, 0.50},
	} {
		ctl := start(t, load.Fixed(c.u), load.Enforce)
		free, pro, enterprise := ctl.Multiplier("free"), ctl.Multiplier("pro"), ctl.Multiplier("enterprise")
		if free != c.free || pro != c.pro || enterprise != 1 {
			t.Errorf("at %v: free %v, pro %v, enterprise %v; want %v, %v, 1", c.u, free, pro, enterprise, c.free, c.pro)
		}
		ctl.Close()
	}
}

func TestOnlyEnforceScales(t *testing.T) {
	for mode, want := range map[load.Mode]float64{load.Off: 1, load.Observe: 1, load.Enforce: 0.1} {
		ctl := start(t, load.Fixed(1), mode)
		if m := ctl.Multiplier("free"); m != want {
			t.Errorf("%s: multiplier %v, want %v", mode, m, want)
		}
		if s := ctl.Status(); s.Tiers["free"].Computed != 0.1 || s.Mode != mode {
			t.Errorf("%s: the status says %+v", mode, s)
		}
		ctl.Close()
	}
	if _, err := load.New(load.Config{Tiers: tiers.Builtin, Mode: "maybe"}); err == nil {
		t.Error("mode maybe was accepted")
	}
	for _, u := range []float64{-0.1, 1.1, math.NaN(), 80} {
		if _, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(u)}); err == nil {
			t.Errorf("a fixed load of %v was accepted", u)
		}
	}
}

func TestDownAtOnceUpSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := &script{}
		ctl := start(t, meter, load.Enforce)
		defer ctl.Close()
		tick := func() float64 {
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			return ctl.Multiplier("free")
		}
		meter.set(1, nil)
		for range 50 { // an EWMA of .05: past .90 after 45 samples
			tick()
		}
		if m := tick(); m != 0.1 {
			t.Fatalf("25 seconds at full load: multiplier %v, want the floor .10", m)
		}
		meter.set(0, nil)
		last, began := 0.1, time.Now()
		for last < 1 {
			m := tick()
			if m < last || m > last+0.05+1e-9 {
				t.Fatalf("from %v to %v in half a second of idling", last, m)
			}
			last = m
			if time.Since(began) > 30*time.Second {
				t.Fatalf("at %v after 30 s of idling: zero samples must count", m)
			}
		}
		if took := time.Since(began); took < 17*time.Second { // 18 steps, a second between each two
			t.Errorf("from .10 to 1 in %v, faster than .05 a second", took)
		}
	})
}

func TestABlindControllerReturnsToFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := &script{u: 1}
		ctl := start(t, meter, load.Enforce)
		defer ctl.Close()
		if m := ctl.Multiplier("free"); m != 0.1 {
			t.Fatalf("multiplier %v", m)
		}
		meter.set(0, errors.New("permission denied"))
		time.Sleep(4 * time.Second)
		if m := ctl.Multiplier("free"); m != 0.1 {
			t.Errorf("a sample four seconds old was forgotten: %v", m)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if m := ctl.Multiplier("free"); m != 1 {
			t.Errorf("half a minute without a sample: multiplier %v, want 1", m)
		}
	})
}

// Whatever the CPU does: within bounds, on the grid, lower tiers first, and few
// reversals.
func TestMultipliersUnderAnyLoad(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		samples := rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 60).Draw(rt, "samples")
		synctest.Test(t, func(t *testing.T) {
			meter := &script{}
			ctl := start(t, meter, load.Enforce)
			defer ctl.Close()
			for _, u := range samples {
				meter.set(u, nil)
				time.Sleep(500 * time.Millisecond)
				synctest.Wait()
				free, pro, enterprise := ctl.Multiplier("free"), ctl.Multiplier("pro"), ctl.Multiplier("enterprise")
				if free > pro || pro > enterprise || free < 0.1 || pro < 0.5 || enterprise != 1 {
					rt.Fatalf("free %v, pro %v, enterprise %v", free, pro, enterprise)
				}
				for _, m := range []float64{free, pro} {
					if steps := m * 20; math.Abs(steps-math.Round(steps)) > 1e-9 {
						rt.Fatalf("%v is not a multiple of .05", m)
					}
				}
			}
		})
	})
}

func TestNoiseAroundAThresholdDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := &script{u: 0.8}
		ctl := start(t, meter, load.Enforce)
		defer ctl.Close()
		changes, last := 0, ctl.Multiplier("free")
		for i := range 240 {
			meter.set(0.8+0.02*float64(i%2*2-1), nil)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if m := ctl.Multiplier("free"); m != last {
				changes, last = changes+1, m
			}
		}
		if changes > 4 {
			t.Errorf("%d changes in two minutes of 80%% +- 2", changes)
		}
	})
}

func TestALowerTierNeverHasMoreEvenByItsFloor(t *testing.T) {
	list := tiers.Builtin()
	list[0].Load = &tiers.Curve{Start: 0.7, Full: 0.9, Floor: 0.9}
	list[1].Load = &tiers.Curve{Start: 0.1, Full: 0.2, Floor: 0.2}
	ctl, err := load.New(load.Config{Tiers: func() []tiers.Tier { return list }, Meter: load.Fixed(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	if free, pro := ctl.Multiplier("free"), ctl.Multiplier("pro"); free != 0.2 || pro != 0.2 {
		t.Errorf("free %v, pro %v; want .2 for both", free, pro)
	}
}

// What an administrator says stands above what a replica was configured with, until the
// instant it was given.
func TestAnAdministratorsModeAndPinsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(time.Minute)
		var mu sync.Mutex
		control := tiers.LoadControl{Pins: tiers.Pins{"pro": {Multiplier: 0.3, ExpiresAt: &ends}}}
		ctl, err := load.New(load.Config{
			Tiers: tiers.Builtin, Meter: load.Fixed(1), Mode: load.Enforce, Logger: slog.New(slog.DiscardHandler),
			Control: func() tiers.LoadControl { mu.Lock(); defer mu.Unlock(); return control },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ctl.Close()
		settle := func() { time.Sleep(time.Second); synctest.Wait() }
		settle()
		if m, s := ctl.Multiplier("pro"), ctl.Status().Tiers["pro"]; m != 0.3 || !s.Pinned {
			t.Errorf("pinned: %v, %+v", m, s)
		}
		time.Sleep(time.Minute)
		settle()
		if m, s := ctl.Multiplier("pro"), ctl.Status().Tiers["pro"]; m != 0.5 || s.Pinned {
			t.Errorf("after the pin expired: %v, %+v", m, s)
		}
		mu.Lock()
		control = tiers.LoadControl{Mode: string(load.Off), Pins: tiers.Pins{"pro": {Multiplier: 0.3}}}
		mu.Unlock()
		settle()
		if m, s := ctl.Multiplier("free"), ctl.Status(); m != 1 || s.Mode != load.Off || ctl.Multiplier("pro") != 1 {
			t.Errorf("off: %v, %+v", m, s)
		}
	})
}
