package load_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// newListener starts a controller that counts what it is told and not its own CPU.
func newListener(t *testing.T) *load.Controller {
	t.Helper()
	c, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(1), Sources: load.Sources{Names: []string{"*"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestALyingReportIsRefused(t *testing.T) {
	c := newListener(t)
	for _, lie := range []struct {
		reading load.Reading
		field   string
	}{
		{load.Reading{Source: "api", CPU: 0.5, Capacity: 1e9}, "capacity"},
		{load.Reading{Source: "api", CPU: 0.5, Capacity: math.Inf(1)}, "capacity"},
		{load.Reading{Source: "api", CPU: 0.5, Capacity: math.NaN()}, "capacity"},
		{load.Reading{Source: "api", CPU: 0.5, Capacity: 0}, "capacity"},
		{load.Reading{Source: "api", CPU: 0.5, Capacity: -4}, "capacity"},
		{load.Reading{Source: "api", CPU: math.NaN(), Capacity: 4}, "cpu"},
		{load.Reading{Source: "api", CPU: -0.1, Capacity: 4}, "cpu"},
		{load.Reading{Source: "api", CPU: 1.01, Capacity: 4}, "cpu"},
		{load.Reading{Source: "api", CPU: 80, Capacity: 4}, "cpu"}, // per cent
		{load.Reading{Source: "", CPU: 0.5, Capacity: 4}, "source"},
		{load.Reading{Source: "API 1", CPU: 0.5, Capacity: 4}, "source"},
		{load.Reading{Source: "replica:m0", CPU: 0.5, Capacity: 4}, "source"},
		{load.Reading{Source: "own", CPU: 0.5, Capacity: 4}, "source"},
		{load.Reading{Source: strings.Repeat("a", 65), CPU: 0.5, Capacity: 4}, "source"},
	} {
		err := c.Report(lie.reading)
		if wrong := new(tierlimit.FieldError); !errors.As(err, &wrong) || wrong.Field != lie.field {
			t.Errorf("%+v: %v, want an error of %s", lie.reading, err, lie.field)
		}
	}
	if n := len(c.Status().Readings); n > 1 { // its own
		t.Errorf("%d readings", n)
	}
}

// The largest capacity that is believed outweighs all others, and can do no more than full load
// does: the floor.
func TestTheWorstBelievableReportReachesTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newListener(t)
		for range 100 {
			for source, r := range map[string]load.Reading{
				"api": {CPU: 0.1, Capacity: 4}, "liar": {CPU: 1, Capacity: load.MaxCapacity},
			} {
				r.Source = source
				if err := c.Report(r); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			if free, pro, enterprise := c.Multiplier("free"), c.Multiplier("pro"), c.Multiplier("enterprise"); free < 0.1 || pro < 0.5 || enterprise != 1 {
				t.Fatalf("%v, %v, %v", free, pro, enterprise)
			}
		}
	})
}

func TestMadeUpSourcesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newListener(t)
		accepted := 0
		var last error
		for i := range 1000 {
			if last = c.Report(load.Reading{Source: fmt.Sprintf("made-up-%d", i), Capacity: 1}); last == nil {
				accepted++
			}
		}
		if wrong := new(tierlimit.FieldError); accepted > 256 || !errors.As(last, &wrong) || wrong.Field != "source" {
			t.Errorf("%d accepted; %v", accepted, last)
		}
		if err := c.Report(load.Reading{Source: "made-up-0", CPU: 1, Capacity: 1}); err != nil {
			t.Errorf("of a known source: %v", err)
		}
		time.Sleep(11 * time.Second)
		if err := c.Report(load.Reading{Source: "api", Capacity: 1}); err != nil {
			t.Errorf("after they were forgotten: %v", err)
		}
	})
}

// Two readings of 4 CPUs outweigh one of 1, bystanders do not count, and neither does what is
// older than five seconds.
func TestLoadIsTheMeanOfWhatIsProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(1), Sources: load.Sources{Names: []string{"api-*", "worker"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tell := func(source string, cpu, capacity float64) {
			if err := c.Report(load.Reading{Source: source, CPU: cpu, Capacity: capacity}); err != nil {
				t.Fatal(err)
			}
		}
		tell("api-1", 0.9, 4)
		tell("api-2", 0.7, 4)
		tell("worker", 0.1, 1)
		tell("batch", 1, 64)
		time.Sleep(time.Second)
		s := c.Status()
		if want := math.Round((0.9*4+0.7*4+0.1)/9*1e4) / 1e4; s.CPU != want || s.AgeMS != 1000 {
			t.Errorf("load %v of age %d, want %v of 1000", s.CPU, s.AgeMS, want)
		}
		counts := make(map[string]bool)
		for _, r := range s.Readings {
			counts[r.Source+" "+r.Kind] = r.Counts
		}
		own := s.Readings[len(s.Readings)-2].Source // between batch and worker
		if want := map[string]bool{"api-1 report": true, "api-2 report": true, "worker report": true, "batch report": false, own + " fixed": false}; !reflect.DeepEqual(counts, want) {
			t.Errorf("%v, want %v", counts, want)
		}
		time.Sleep(3 * time.Second)
		tell("worker", 0.1, 1)
		time.Sleep(2 * time.Second)
		if s := c.Status(); s.CPU != 0.1 {
			t.Errorf("the others are five seconds old: %+v", s)
		}
		time.Sleep(20 * time.Second)
		if s := c.Status(); s.AgeMS != -1 || c.Multiplier("free") != 1 || len(s.Readings) != 1 {
			t.Errorf("nobody reports: %+v", s)
		}
	})
}

func TestSourcesAreParsed(t *testing.T) {
	for text, want := range map[string]load.Sources{
		"own":           {Own: true},
		"*":             {Names: []string{"*"}},
		"own, *":        load.AllSources,
		"api-*,worker1": {Names: []string{"api-*", "worker1"}},
	} {
		if got, err := load.ParseSources(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ",", "own,", "API", "api-*-1", "**", "-api"} {
		if got, err := load.ParseSources(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
