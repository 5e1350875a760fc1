package guard_test

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/load/guard"
)

// mix returns many light and a few greedy customers on three tiers.
func mix(perSecond float64) []customer {
	return slices.Concat(
		customers("enterprise", 30, 20, 0.08*perSecond),
		customers("pro", 20, 200, 0.15*perSecond), greedy("pro", 20, 2, 0.05*perSecond),
		customers("free", 10, 1500, 0.54*perSecond), greedy("free", 10, 4, 0.18*perSecond),
	)
}

func greedy(tier string, priority, n int, perSecond float64) []customer {
	list := customers(tier, priority, n, perSecond)
	for i := range list {
		list[i].subject = "greedy_" + list[i].subject
	}
	return list
}

// services are saturated in different ways.
var services = map[string]struct {
	capacity float64 // requests a second
	calm     float64 // the load, as a part of the capacity, whose queues are no overload
	make     func() *service
}{
	"a handler of 4 ms that does not yield": {250, 0.7, func() *service { return newService(1, 1, 4*time.Millisecond, false) }},
	"a handler of 2 ms with three turns":    {500, 0.7, func() *service { return withTurns(newService(2, 1, 2*time.Millisecond, false)) }},
	"a handler of 4 ms with three turns":    {250, 0.7, func() *service { return withTurns(newService(3, 1, 4*time.Millisecond, false)) }},
	"four processors":                       {500, 0.7, func() *service { return withTurns(newService(4, 4, 8*time.Millisecond, false)) }},
	"a handler that costs 5 or 50 ms":       {2 / 0.0095, 0.5, func() *service { return skewed(newService(5, 2, 0, false)) }},
	"a proxy before one worker":             {250, 0.7, func() *service { return newService(6, 1, 4*time.Millisecond, true) }},
	"a proxy before fifty workers far away": {250, 0.7, func() *service { return far(newService(7, 50, 200*time.Millisecond, true)) }},
	"a proxy before costs of 5 or 50 ms":    {2 / 0.0095, 0.7, func() *service { return skewed(newService(8, 2, 0, true)) }},
}

func withTurns(s *service) *service {
	s.turns, s.pause = 3, time.Millisecond/2
	return s
}

func far(s *service) *service {
	s.latency = 100 * time.Millisecond
	return s
}

// skewed lets one request in ten cost ten times as much as the others, which makes 9.5 ms.
func skewed(s *service) *service {
	s.cost = func(string) time.Duration {
		if s.random.IntN(10) == 0 {
			return 50 * time.Millisecond
		}
		return 5 * time.Millisecond
	}
	return s
}

func TestNothingIsRefusedBelowSaturation(t *testing.T) {
	t.Parallel()
	for name, c := range services {
		s := c.make()
		for _, load := range []float64{0.1, 0.4, c.calm} {
			if list := s.run(mix(load*c.capacity), 20*time.Second); refused(list) > 0 {
				t.Errorf("%s: %d of %d refused at a load of %v", name, refused(list), len(list), load)
			}
		}
	}
}

func TestAnOverloadIsShedFromTheLowestTierUp(t *testing.T) {
	t.Parallel()
	for name, c := range services {
		s := c.make()
		s.run(mix(0.5*c.capacity), 5*time.Second)
		before := map[string]float64{"enterprise": 1, "pro": 1, "free": 1}
		for _, load := range []float64{2, 5} {
			s.run(mix(load*c.capacity), 5*time.Second) // notices
			var all []outcome
			for bucket := range 3 {
				list := s.run(mix(load*c.capacity), 5*time.Second)
				of := shares(list, byTier)
				if e, p, f := of["enterprise"].ratio(), of["pro"].ratio(), of["free"].ratio(); e < p || p < f {
					t.Errorf("%s: bucket %d at a load of %v: enterprise %.3f, pro %.3f, free %.3f", name, bucket, load, e, p, f)
				}
				all = append(all, list...)
			}
			if goodput := float64(len(all)-refused(all)) / (15 * c.capacity); goodput < 0.9 {
				t.Errorf("%s: a goodput of %.3f at a load of %v", name, goodput, load)
			}
			of := shares(all, byTier)
			if e := of["enterprise"].ratio(); e < 0.997 {
				t.Errorf("%s: %.4f of enterprise served at a load of %v", name, e, load)
			}
			for tier, ratio := range before {
				if before[tier] = of[tier].ratio(); before[tier] > ratio {
					t.Errorf("%s: more of %s is served at a load of %v: %.3f after %.3f", name, tier, load, before[tier], ratio)
				}
			}
		}
	}
}

func TestTheQueueStaysShort(t *testing.T) {
	t.Parallel()
	for name, c := range services {
		s := c.make()
		usual := p99(s.run(mix(0.8*c.capacity), 20*time.Second))
		for _, load := range []float64{2, 5} {
			s.run(mix(load*c.capacity), 5*time.Second) // notices, and works the queue off
			if got, most := p99(s.run(mix(load*c.capacity), 10*time.Second)), 4*usual; got > most {
				t.Errorf("%s: p99 is %v at a load of %v, %v at 0.8", name, got, load, usual)
			}
		}
	}
}

func TestWithinATierTheHeaviestAreRefusedFirst(t *testing.T) {
	t.Parallel()
	for name, c := range services {
		s := c.make()
		s.run(mix(2*c.capacity), 10*time.Second)
		light, heavy := share{}, share{}
		for subject, of := range shares(s.run(mix(2*c.capacity), 10*time.Second), bySubject) {
			switch {
			case strings.HasPrefix(subject, "free"):
				light.asked, light.served = light.asked+of.asked, light.served+of.served
			case strings.HasPrefix(subject, "greedy_free"):
				heavy.asked, heavy.served = heavy.asked+of.asked, heavy.served+of.served
			}
		}
		if light.ratio() < 0.3 || heavy.ratio() > 0.05 {
			t.Errorf("%s: %.3f of the light and %.3f of the greedy customers' requests are served", name, light.ratio(), heavy.ratio())
		}
	}
}

func TestEqualCustomersTakeTurnsByTheHour(t *testing.T) {
	t.Parallel()
	s := newService(1, 1, 4*time.Millisecond, false)
	list := customers("free", 10, 50, 500) // ten requests a second each; half fit
	lucky := make(map[string]int)
	const hours = 12
	for hour := range hours {
		s.now = time.Duration(hour)*time.Hour + time.Minute
		s.run(list, 10*time.Second)
		decided := 0
		for subject, of := range shares(s.run(list, 20*time.Second), bySubject) {
			if of.ratio() > 0.5 {
				lucky[subject]++
			}
			if of.ratio() > 0.8 || of.ratio() < 0.2 {
				decided++
			}
		}
		if decided < 25 { // weights move by the power of two, and some customers with them
			t.Errorf("hour %d: only %d of 50 customers are served nearly always or nearly never", hour, decided)
		}
	}
	for _, c := range list {
		if n := lucky[c.subject]; n == 0 || n == hours {
			t.Errorf("%s was served in %d of %d hours", c.subject, n, hours)
		}
	}
}

func TestItRecovers(t *testing.T) {
	t.Parallel()
	for name, c := range services {
		s := c.make()
		s.run(mix(c.calm*c.capacity), 10*time.Second)
		s.run(mix(5*c.capacity), 10*time.Second)
		s.run(mix(0.4*c.capacity), 5*time.Second)
		if list := s.run(mix(0.4*c.capacity), 10*time.Second); refused(list) > 0 {
			t.Errorf("%s: %d of %d refused five seconds after an overload", name, refused(list), len(list))
		}
		s.run(mix(5*c.capacity), 10*time.Second)
		s.run(nil, 5*time.Second)
		if s.guard.Status().Refusing {
			t.Errorf("%s: refuses while nothing is asked for", name)
		}
		if list := s.run(mix(0.4*c.capacity), 10*time.Second); refused(list) > 0 {
			t.Errorf("%s: %d of %d refused after five idle seconds", name, refused(list), len(list))
		}
	}
}

func TestWhatIsBehindAProxyStopsAndGoesOn(t *testing.T) {
	s := newService(1, 4, 16*time.Millisecond, true)
	s.run(mix(125), 30*time.Second)
	s.workers = 0
	s.run(mix(125), 5*time.Second)
	if list := s.run(mix(125), time.Minute); len(list)-refused(list) > 0 || s.guard.Status().InFlight > 500 {
		t.Errorf("stopped: %d requests in flight", s.guard.Status().InFlight)
	}
	s.workers = 4
	s.work()
	s.run(mix(125), 5*time.Second)
	if list := s.run(mix(125), 30*time.Second); refused(list) > 0 {
		t.Errorf("%d of %d refused five seconds after it went on", refused(list), len(list))
	}
}

// All requests get slower, and none waits in a queue: the guard is wrong for a moment.
func TestASlowerServiceIsNotTakenForASaturatedOne(t *testing.T) {
	t.Parallel()
	for _, slower := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond} {
		s := newService(1, 1000, 5*time.Millisecond, true)
		s.run(mix(1000), 30*time.Second)
		s.latency = slower
		if of := shares(s.run(mix(1000), 5*time.Second), byTier); of["enterprise"].ratio() < 1 || of["pro"].ratio() < 1 {
			t.Errorf("slower by %v: %v", slower, of)
		}
		if list := s.run(mix(1000), 30*time.Second); refused(list) > 0 {
			t.Errorf("slower by %v: %d of %d refused five seconds later", slower, refused(list), len(list))
		}
	}
}

// saturated returns a guard that refuses most of what is asked for, on a clock that stands.
func saturated(t testing.TB) *guard.Guard {
	t.Helper()
	s := newService(1, 1, 4*time.Millisecond, false)
	s.run(mix(1250), 20*time.Second)
	if status := s.guard.Status(); !status.Refusing || status.Rate <= 0 {
		t.Fatalf("%+v", status)
	}
	return s.guard
}

func TestAtAnInstantOneCutSeparatesServedFromRefused(t *testing.T) {
	g := saturated(t)
	admitted := func(tier string, priority, n int) (count int) {
		for i := range n {
			if p := g.Acquire(tier, priority, "new_"+tier+strconv.Itoa(i)); p != nil {
				count++
				p.Dropped()
			}
		}
		return count
	}
	if n := admitted("free", 10, 200); n > 0 {
		t.Errorf("%d of 200 of free", n)
	}
	if n := admitted("enterprise", 30, 200); n < 200 {
		t.Errorf("%d of 200 of enterprise", n)
	}
	if n := admitted("none", math.MinInt, 200); n > 0 {
		t.Errorf("%d of 200 below all priorities", n)
	}
	if n := admitted("all", math.MaxInt, 200); n < 200 {
		t.Errorf("%d of 200 above all priorities", n)
	}
}

func TestARefusalDoesNotAllocate(t *testing.T) {
	g := saturated(t)
	if n := testing.AllocsPerRun(1000, func() {
		if g.Acquire("free", 10, "free_1") != nil {
			t.Fatal("admitted")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHostileReadingsAreSurvived(t *testing.T) {
	now, wait := noon, time.Duration(0)
	g := guard.New(guard.Config{Now: func() time.Time { return now }, Wait: func() (time.Duration, bool) { return wait, true }})
	ask := func(n int, step, latency time.Duration) (refused int) {
		for i := range n {
			p := g.Acquire("free", 10, "free_"+strconv.Itoa(i%100))
			now = now.Add(latency)
			if p == nil {
				refused++
			} else {
				p.Answered()
				p.Answered()
				p.Dropped()
			}
			now = now.Add(step)
		}
		return refused
	}
	for name, c := range map[string]struct{ wait, step, latency time.Duration }{
		"no time passes":           {0, 0, 0},
		"a clock that goes back":   {0, -time.Hour, 0},
		"negative latencies":       {0, 20 * time.Millisecond, -10 * time.Millisecond},
		"a wait below zero":        {math.MinInt64, 10 * time.Millisecond, time.Millisecond},
		"a wait for ever":          {math.MaxInt64, 10 * time.Millisecond, time.Millisecond},
		"a latency of a century":   {0, time.Second, 100 * 365 * 24 * time.Hour},
		"a nanosecond at a time":   {time.Hour, 1, 1},
		"a jump of a hundred days": {time.Hour, 100 * 24 * time.Hour, 0},
	} {
		wait = c.wait
		ask(2000, c.step, c.latency)
		now, wait = noon.Add(24*365*time.Hour), 0 // whatever was learned
		ask(1000, 10*time.Millisecond, time.Millisecond)
		if n := ask(1000, 10*time.Millisecond, time.Millisecond); n > 0 || g.Status().InFlight != 0 {
			t.Errorf("%s: %d of 1000 refused afterwards, %+v", name, n, g.Status())
		}
	}
}

func TestMadeUpTiersDoNotGrowIt(t *testing.T) {
	g := guard.New(guard.Config{})
	for i := range 10_000 {
		g.Acquire("tier_"+strconv.Itoa(i), i, "somebody").Dropped()
	}
	if n := len(g.Status().Tiers); n > 64 {
		t.Errorf("%d tiers are counted", n)
	}
}

func TestATierWhosePriorityChangesIsCountedOnce(t *testing.T) {
	g := guard.New(guard.Config{})
	for _, priority := range []int{10, 30, 20, 30} {
		g.Acquire("pro", priority, "somebody").Answered()
	}
	if tiers := g.Status().Tiers; len(tiers) != 1 || tiers[0].Admitted != 4 {
		t.Errorf("%+v", tiers)
	}
}

func TestItCountsWhatItAdmitsAndRefuses(t *testing.T) {
	s := newService(1, 1, 4*time.Millisecond, false)
	of := shares(s.run(mix(500), 20*time.Second), byTier)
	status := s.guard.Status()
	if len(status.Tiers) != 3 || status.Tiers[0].Tier != "enterprise" || status.Tiers[2].Tier != "free" {
		t.Fatalf("%+v", status.Tiers)
	}
	for _, tier := range status.Tiers {
		if got, want := tier.Refused, of[tier.Tier].asked-of[tier.Tier].served; got != uint64(want) {
			t.Errorf("%s: %d refused, want %d", tier.Tier, got, want)
		}
	}
}

func TestManyGoroutines(t *testing.T) {
	g := guard.New(guard.Config{})
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for n := range 2000 {
				p := g.Acquire("tier_"+strconv.Itoa(n%3), n%3, "subject_"+strconv.Itoa(i*n%100))
				switch {
				case p == nil:
				case n%7 == 0:
					p.Dropped()
				default:
					p.Answered()
				}
				if n%100 == 0 {
					g.Status()
				}
			}
		})
	}
	running.Wait()
	if n := g.Status().InFlight; n != 0 {
		t.Errorf("%d in flight", n)
	}
}

func BenchmarkAcquire(b *testing.B) {
	b.Run("admitted", func(b *testing.B) {
		g := guard.New(guard.Config{})
		b.ReportAllocs()
		for b.Loop() {
			g.Acquire("free", 10, "acct_42").Answered()
		}
	})
	b.Run("refused", func(b *testing.B) {
		g := saturated(b)
		b.ReportAllocs()
		for b.Loop() {
			g.Acquire("free", 10, "acct_42")
		}
	})
}
