package guard

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Config tunes a Guard. The zero Config is ready for use.
type Config struct {
	// Wait returns how long work that is ready waits for a processor now, and false if that is not
	// known. It is called up to a hundred times a second, by one goroutine at a time. Default: how
	// long a goroutine of this process waits.
	Wait func() (time.Duration, bool)
	Now  func() time.Time // default time.Now
}

// every is the least time between two readings.
const every = 10 * time.Millisecond

// A Guard admits or refuses requests. It is safe for concurrent use. It needs no Close: the
// goroutines that it starts measure one wait each, and end. One Guard serves all handlers of a
// process.
type Guard struct {
	now  func() time.Time
	wait func() (time.Duration, bool)

	began    time.Time
	next     atomic.Int64 // when the next reading is due, in nanoseconds since began
	hour     atomic.Int64 // of the last reading, since the epoch
	inFlight atomic.Int64
	answers  answers
	dropped  atomic.Int64 // since the last reading
	usage    usage
	demand   demand
	cutoff   atomic.Uint64 // a key: requests with a lower key are refused; 0: none
	left     atomic.Int64  // how many requests with the key cutoff may be admitted until the next reading

	mu       sync.Mutex
	control  controller    // guarded by mu
	at       time.Duration // guarded by mu: of the last reading, since began
	lastWait time.Duration // guarded by mu: the last that is known
	rate     float64       // guarded by mu: admissions a second; 0: all
	carry    float64       // guarded by mu: the part of left that was not a whole request
}

// New returns a Guard that has learned nothing yet.
func New(cfg Config) *Guard {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wait == nil {
		cfg.Wait = newProbe().Wait
	}
	g := &Guard{now: cfg.Now, wait: cfg.Wait, began: cfg.Now()}
	g.hour.Store(hourOf(g.began))
	return g
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// A Permit stands for a request that was admitted. The holder calls Answered or Dropped; after the
// first call, more calls do nothing. A Permit is safe for concurrent use.
type Permit struct {
	guard *Guard
	began time.Duration
	ended atomic.Bool
}

// Acquire asks whether a request may begin, and returns nil if it should be refused. priority is
// that of the subject's tier, 0 or more: a lower one is refused first. Acquire does not block, and
// does not allocate for a request that it refuses.
func (g *Guard) Acquire(tier string, priority int, subject string) *Permit {
	now := g.since()
	if int64(now) >= g.next.Load() {
		g.read(now)
	}
	t, hash := g.demand.tier(tier, priority), hashOf(subject)
	level := levelOf(hash, g.usage.add(hash), g.hour.Load())
	t.rank.asked[level].Add(1)
	if !g.admits(keyOf(t.rank.priority, level)) {
		t.refused.Add(1)
		return nil
	}
	t.admitted.Add(1)
	g.inFlight.Add(1)
	return &Permit{guard: g, began: now}
}

func (g *Guard) admits(k key) bool {
	cutoff := g.cutoff.Load()
	return k > cutoff || cutoff == 0 || k == cutoff && g.left.Add(-1) >= 0
}

// Answered tells the guard that the response has begun. The guard does not measure the rest of the
// response: the client sets the pace of a body, and a stream may never end.
func (p *Permit) Answered() {
	if !p.ended.Swap(true) {
		p.guard.inFlight.Add(-1)
		p.guard.answers.add(p.guard.since() - p.began)
	}
}

// Dropped says that the request has ended without an answer of the service: the client hung up, or
// a limit denied the request. Its latency does not count.
func (p *Permit) Dropped() {
	if !p.ended.Swap(true) {
		p.guard.inFlight.Add(-1)
		p.guard.dropped.Add(1)
	}
}

func (g *Guard) since() time.Duration { return g.now().Sub(g.began) }

// read takes a reading and puts what follows in force. If another goroutine is at it, read does
// nothing.
func (g *Guard) read(now time.Duration) {
	if !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	elapsed := now - g.at
	if elapsed < every && elapsed >= 0 {
		return
	}
	g.at = now
	g.next.Store(int64(now + every))
	if elapsed < 0 { // the clock went back
		return
	}
	g.hour.Store(hourOf(g.began.Add(now)))
	g.usage.age(elapsed)
	if wait, known := g.wait(); known {
		g.lastWait = max(wait, 0)
	}
	r := reading{elapsed: elapsed, inFlight: g.inFlight.Load(), wait: g.lastWait, demand: g.demand.update(elapsed)}
	r.answered, r.shortest = g.answers.drain()
	r.ended = r.answered + g.dropped.Swap(0)
	rate := g.control.observe(&r)
	if math.IsInf(rate, 1) {
		g.rate = 0
		g.cutoff.Store(0)
		return
	}
	g.rate = rate
	at, left := g.demand.cut(rate)
	g.carry = min(g.carry+left*elapsed.Seconds(), left+1)
	whole := math.Floor(g.carry)
	g.carry -= whole
	g.left.Store(int64(whole))
	g.cutoff.Store(at)
}

// Status is how things stand.
type Status struct {
	Refusing bool          // whether some requests are refused
	InFlight int64         // requests that were admitted and not answered yet
	Rate     float64       // admissions a second while the guard refuses; 0: it does not
	Pressure float64       // how long the queue is: more than 1 is too long
	Wait     time.Duration // how long goroutines waited for a processor at the last reading
	Tiers    []TierStatus  // by descending priority
}

// TierStatus counts the requests of one tier since the Guard was made.
type TierStatus struct {
	Tier     string
	Admitted uint64
	Refused  uint64
}

// Status returns how things stood at the last reading. It is meant for metrics.
func (g *Guard) Status() Status {
	g.mu.Lock()
	s := Status{InFlight: g.inFlight.Load()}
	if g.since()-g.at < calm { // else nothing was asked for
		s.Pressure, s.Wait, s.Rate = g.control.pressure, g.lastWait, g.rate
		s.Refusing = g.rate > 0
	}
	g.mu.Unlock()
	for _, t := range g.demand.list() {
		s.add(TierStatus{t.name, t.admitted.Load(), t.refused.Load()})
	}
	return s
}

// add adds the counts of a tier, which is twice there if its priority was changed.
func (s *Status) add(t TierStatus) {
	for i := range s.Tiers {
		if s.Tiers[i].Tier == t.Tier {
			s.Tiers[i].Admitted += t.Admitted
			s.Tiers[i].Refused += t.Refused
			return
		}
	}
	s.Tiers = append(s.Tiers, t)
}
