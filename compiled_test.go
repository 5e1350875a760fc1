package tierlimit

import (
	"testing"
	"time"
)

// A load that never says the same twice fills no memory.
func TestWhatIsCompiledOfAPlanIsBounded(t *testing.T) {
	p, err := NewPlan(PlanConfig{Limits: []Limit{{Name: "per_minute", Max: 100, Window: Window{Length: time.Minute}, Adaptive: true}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 * maxCompiled {
		p.compile("", float64(i)/1e6)
		if n := len(*p.compiled.list.Load()); n > maxCompiled {
			t.Fatalf("%d are held after %d", n, i+1)
		}
	}
}
