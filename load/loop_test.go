package load_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit/load"
)

// A customer asks at a steady rate, and is held to a limit in windows of a minute.
type customer struct {
	tier        string
	rate, limit float64 // capacities a second, and capacities in a window: the load is what all use
	used        float64
	phase       time.Duration
}

// serve returns the load of the customer in the next half second.
func (c *customer) serve(now time.Duration, multiplier float64) float64 {
	const step = 0.5
	if (now+c.phase)%time.Minute < 500*time.Millisecond {
		c.used = 0
	}
	x := max(0, min(c.rate*step, c.limit*multiplier-c.used))
	c.used += x
	return x / step
}

// The limits lower the load that lowers them. Greedy customers, who ask for three times their
// limit, would bring a service to twice its capacity: the loop comes to rest below it, each tier
// has at least the share of the tier below, and multipliers rarely turn.
func TestTheLoopSettles(t *testing.T) {
	for _, demand := range []float64{1.2, 2} {
		synctest.Test(t, func(t *testing.T) {
			meter := &script{}
			c := start(t, meter, load.Enforce)
			defer c.Close()
			var customers []*customer
			for tier, part := range map[string]float64{"free": 0.6, "pro": 0.3, "enterprise": 0.1} {
				for i := range 60 {
					share := demand * part / 60 // of the capacity, as the plan allows it
					customers = append(customers, &customer{tier: tier, rate: 3 * share, limit: 60 * share, phase: time.Duration(i) * time.Second})
				}
			}
			const warm, end = 2 * time.Minute, 12 * time.Minute
			turns, direction, last := make(map[string]int), make(map[string]bool), make(map[string]float64)
			used := make(map[string]float64)
			saturated := 0
			for now := time.Duration(0); now < end; now += 500 * time.Millisecond {
				total := 0.0
				for _, x := range customers {
					l := x.serve(now, c.Multiplier(x.tier))
					total += l
					if now >= warm {
						used[x.tier] += l
					}
				}
				meter.set(min(total, 1), nil)
				time.Sleep(500 * time.Millisecond)
				synctest.Wait()
				if now < warm {
					continue
				}
				if total > 0.97 {
					saturated++
				}
				for _, tier := range []string{"free", "pro"} {
					m := c.Multiplier(tier)
					if was, there := last[tier]; there && m != was {
						if up, turned := direction[tier]; turned && up != (m > was) {
							turns[tier]++
						}
						direction[tier] = m > was
					}
					last[tier] = m
				}
			}
			samples := float64((end - warm) / (500 * time.Millisecond))
			mean, served := 0.0, make(map[string]float64)
			for tier, part := range map[string]float64{"free": 0.6, "pro": 0.3, "enterprise": 0.1} {
				mean += used[tier] / samples
				served[tier] = math.Round(100*used[tier]/samples/(demand*part)) / 100
			}
			t.Logf("demand %v: load %.2f, saturated %.1f %%, served %v, turns in ten minutes %v", demand, mean, 100*float64(saturated)/samples, served, turns)
			if turns["free"] > 60 || turns["pro"] > 60 {
				t.Errorf("multipliers turned %v times in ten minutes, want at most 60", turns)
			}
			if mean < 0.75 || mean > 0.92 || float64(saturated) > 0.1*samples {
				t.Errorf("a mean load of %.2f, saturated %d times of %v", mean, saturated, samples)
			}
			if served["free"] > served["pro"] || served["pro"] > served["enterprise"] || served["enterprise"] < 0.99 {
				t.Errorf("served %v of what plans allow", served)
			}
		})
	}
}
