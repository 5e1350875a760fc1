// Package observe counts decisions for metrics. A Metrics is the Observer of a Limiter; package
// observe/prom exports it to Prometheus, package observe/otel to OpenTelemetry. The package itself
// imports the standard library only.
//
// A decision costs one atomic increment, whatever answered it. How long a decision took, and how
// much of its limits is used, is observed of every decision that asked Redis, was denied or was not
// answered by the store, and of one of 16 others.
package observe

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

// DefaultSeries is the default of Config.Series.
const DefaultSeries = 200

// Other is the tier and scope of decisions beyond Config.Series.
const Other = "other"

// Config tunes a Metrics. The zero Config counts.
type Config struct {
	Series int // most pairs of tier and scope that are counted apart; default DefaultSeries
	// Duration is told how many seconds a decision took. source is a tierlimit.Source.
	Duration func(source string, seconds float64)
	// Utilization is told the part of a limit's max that is used: 0 to 1, above after a downgrade.
	Utilization func(tier, limit string, ratio float64)
	// Denied is told of the denied decisions that are observed; o.Weight says how many one stands
	// for.
	Denied func(tier string, o *tierlimit.Observation)
}

// Metrics counts decisions. It is safe for concurrent use.
type Metrics struct {
	cfg      Config
	mu       sync.Mutex
	series   map[[2]string]*series
	degraded [len(policies)][len(causes)]atomic.Uint64
	holds    [len(holdEvents)]atomic.Uint64
}

// New returns a Metrics that has counted nothing.
func New(cfg Config) *Metrics {
	if cfg.Series <= 0 {
		cfg.Series = DefaultSeries
	}
	return &Metrics{cfg: cfg, series: make(map[[2]string]*series)}
}

// Series implements tierlimit.Observer.
func (m *Metrics) Series(tier, scope string, limits []string) tierlimit.Series {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{tier, scope}
	if m.series[key] == nil && len(m.series) >= m.cfg.Series {
		key, tier, scope, limits = [2]string{Other, Other}, Other, Other, nil
	}
	s := m.series[key]
	if s == nil {
		s = &series{metrics: m, tier: tier, scope: scope, stripes: make([]stripe, stripes())}
		m.series[key] = s
	}
	s.know(limits)
	return s
}

var holdEvents = [...]tierlimit.HoldEvent{tierlimit.HoldOpened, tierlimit.HoldSettled, tierlimit.HoldGivenBack, tierlimit.HoldRenewed, tierlimit.HoldMissing}

// Hold implements tierlimit.HoldObserver.
func (m *Metrics) Hold(event tierlimit.HoldEvent) {
	if i := slices.Index(holdEvents[:], event); i >= 0 {
		m.holds[i].Add(1)
	}
}

// A series counts the decisions of one tier in one scope.
type series struct {
	metrics     *Metrics
	tier, scope string
	stripes     []stripe
	limits      atomic.Pointer[map[string]*limit] // by name; copied when it grows
}

// A stripe has the counts of some goroutines: processors that write to the same memory wait for
// each other.
type stripe struct {
	decisions [outcomes][len(reasons)][len(sources)]atomic.Uint64
	_         [64]byte
}

// A token names a stripe. A sync.Pool gives each processor its own.
type token struct{ stripe uint32 }

var (
	nextToken atomic.Uint32
	tokens    = sync.Pool{New: func() any { return &token{nextToken.Add(1)} }}
)

// stripes returns the number of stripes: a power of 2, one for each processor, at most 16.
func stripes() int {
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < 16 {
		n *= 2
	}
	return n
}

// A limit counts how often it was the reason. It was within its max otherwise.
type limit struct {
	since            uint64 // decisions of the series before the limit was known
	exceeded, shadow atomic.Uint64

	within uint64 // as last reported; guarded by Metrics.mu
}

// withinOf returns how often l was within its max, of counted decisions. Decisions and limits are
// not counted in one step, so a difference may be lower than the last one; a counter never falls.
// Metrics.mu is locked.
func (l *limit) withinOf(counted uint64) uint64 {
	if out := l.since + l.exceeded.Load() + l.shadow.Load(); counted > out {
		l.within = max(l.within, counted-out)
	}
	return l.within
}

// The outcomes of a decision.
const (
	allowed = iota
	denied
	peeked
	outcomes
)

var (
	outcomeNames = [outcomes]string{"allowed", "denied", "peeked"}
	reasons      = [...]tierlimit.Reason{
		tierlimit.OK, tierlimit.Exceeded, tierlimit.LoadScaled, tierlimit.CostTooLarge, tierlimit.StoreDown,
		tierlimit.Suspended, tierlimit.Blocked, tierlimit.Shadowed, tierlimit.TooManyHolds,
	}
	sources  = [...]tierlimit.Source{tierlimit.SourceRedis, tierlimit.SourceMemory, tierlimit.SourceDenyCache, tierlimit.SourcePolicy}
	policies = [...]tierlimit.Policy{"", tierlimit.Open, tierlimit.Closed, tierlimit.Local}
	causes   = [...]string{"store_unavailable", "overloaded", "tier_unknown", "no_plan", "store_refused", "caller_gave_up"}
)

func causeOf(err error) int {
	switch {
	case errors.Is(err, tierlimit.ErrCallerGaveUp):
		return 5
	case errors.Is(err, tierlimit.ErrStoreUnavailable):
		return 0
	case errors.Is(err, tierlimit.ErrOverloaded):
		return 1
	case errors.Is(err, tierlimit.ErrTierUnknown):
		return 2
	case errors.Is(err, tierlimit.ErrNoPlan):
		return 3
	}
	return 4
}

// maxLimits bounds the limits of a series: plans of one tier may differ by overrides only in
// values, but a tier may change.
const maxLimits = 64

// know adds limits. m.mu is locked.
func (s *series) know(names []string) {
	old := s.limits.Load()
	known := make(map[string]*limit, len(names))
	if old != nil {
		for name, l := range *old {
			known[name] = l
		}
	}
	for _, name := range names {
		if known[name] == nil && len(known) < maxLimits {
			known[name] = &limit{since: s.counted()}
		}
	}
	s.limits.Store(&known)
}

// counted returns the number of decisions that were held to the limits.
func (s *series) counted() (n uint64) {
	s.each(func(_, _, source int, count uint64) {
		if sources[source] != tierlimit.SourcePolicy {
			n += count
		}
	})
	return n
}

// each calls f with every count that is not 0.
func (s *series) each(f func(outcome, reason, source int, count uint64)) {
	for outcome := range outcomes {
		for reason := range reasons {
			for source := range sources {
				var count uint64
				for i := range s.stripes {
					count += s.stripes[i].decisions[outcome][reason][source].Load()
				}
				if count > 0 {
					f(outcome, reason, source, count)
				}
			}
		}
	}
}

// sampleEvery is a power of 2: one of so many decisions that are not observed anyway is.
const sampleEvery = 16

// Count implements tierlimit.Series.
func (s *series) Count(isAllowed, peek bool, reason tierlimit.Reason, source tierlimit.Source) (weight int64) {
	outcome := denied
	switch {
	case peek:
		outcome = peeked
	case isAllowed:
		outcome = allowed
	}
	own := tokens.Get().(*token) //nolint:forcetypeassert // nothing else goes in
	cell := &s.stripes[int(own.stripe)&(len(s.stripes)-1)]
	tokens.Put(own)
	n := cell.decisions[outcome][reasonIndex(reason)][sourceIndex(source)].Add(1)
	repeated := source == tierlimit.SourceDenyCache // the store's own denial was observed
	switch {
	case source == tierlimit.SourceRedis || !repeated && (!isAllowed || reason != tierlimit.OK):
		return 1
	case repeated && n <= exactly:
		return 1
	case n%sampleEvery == 0:
		return sampleEvery
	}
	return 0
}

// exactly is how many denials from memory are observed one by one, of each stripe of a series:
// where there are few, each counts.
const exactly = 1 << 10

// Observe implements tierlimit.Series.
func (s *series) Observe(o tierlimit.Observation) {
	cfg := &s.metrics.cfg
	if cfg.Duration != nil {
		cfg.Duration(string(o.Source), time.Since(o.Began).Seconds())
	}
	if cfg.Utilization != nil {
		s.observeUse(&o)
	}
	if o.Err != nil {
		s.metrics.degraded[slices.Index(policies[:], o.Policy)][causeOf(o.Err)].Add(1)
	}
	if o.Allowed && o.Reason == tierlimit.OK {
		return
	}
	if l := (*s.limits.Load())[o.Limit]; l != nil {
		if o.Allowed {
			l.shadow.Add(1)
		} else {
			l.exceeded.Add(uint64(max(o.Weight, 1)))
		}
	}
	if !o.Allowed && !o.Peek && cfg.Denied != nil {
		kept := o // only this copy is on the heap
		cfg.Denied(s.tier, &kept)
	}
}

func (s *series) observeUse(o *tierlimit.Observation) {
	for i := range o.Windows {
		if w := &o.Windows[i]; w.EffectiveMax > 0 {
			s.metrics.cfg.Utilization(s.tier, w.Limit, float64(w.Used)/float64(w.EffectiveMax))
		}
	}
}

func sourceIndex(source tierlimit.Source) int {
	switch source {
	case tierlimit.SourceRedis:
		return 0
	case tierlimit.SourceMemory:
		return 1
	case tierlimit.SourceDenyCache:
		return 2
	}
	return 3
}

func reasonIndex(reason tierlimit.Reason) int {
	if reason == tierlimit.OK {
		return 0
	}
	return max(slices.Index(reasons[:], reason), 0)
}

// A Count is a counter with its labels.
type Count struct {
	Labels []string
	Value  uint64
}

// Labels of the counts of Metrics, in the order of Count.Labels.
var (
	DecisionLabels = []string{"tier", "outcome", "reason", "source"}
	LimitLabels    = []string{"tier", "limit", "result"}
	DegradedLabels = []string{"policy", "cause"}
	HoldLabels     = []string{"event"}
)

// Decisions returns the number of decisions, by DecisionLabels.
func (m *Metrics) Decisions() []Count {
	sum := newSum()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.series {
		s.each(func(outcome, reason, source int, count uint64) {
			sum.add(count, s.tier, outcomeNames[outcome], string(reasons[reason]), string(sources[source]))
		})
	}
	return sum.list
}

// Limits returns how often each limit was evaluated, by LimitLabels. The result is within,
// exceeded or shadow (a limit in shadow mode that would have denied). After 1,024, denials that
// are repeated from memory are counted in steps of 16.
func (m *Metrics) Limits() []Count {
	sum := newSum()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.series {
		for name, l := range *s.limits.Load() {
			sum.add(l.withinOf(s.counted()), s.tier, name, "within")
			sum.add(l.exceeded.Load(), s.tier, name, "exceeded")
			sum.add(l.shadow.Load(), s.tier, name, "shadow")
		}
	}
	return sum.list
}

// Degraded returns the number of decisions that the store did not answer, or whose tier was not
// known for sure, by DegradedLabels. Counts of 0 are included: a counter that begins at 1 hides its
// first increase.
func (m *Metrics) Degraded() (list []Count) {
	for policy := range m.degraded {
		for cause := range m.degraded[policy] {
			name := string(policies[policy])
			if name == "" {
				name = "none"
			}
			list = append(list, Count{[]string{name, causes[cause]}, m.degraded[policy][cause].Load()})
		}
	}
	return list
}

// Holds returns what happened to holds, by HoldLabels. Counts of 0 are included.
func (m *Metrics) Holds() (list []Count) {
	for i := range m.holds {
		list = append(list, Count{[]string{string(holdEvents[i])}, m.holds[i].Load()})
	}
	return list
}

// A sum adds counts of the same labels, such as those of two scopes of a tier.
type sum struct {
	index map[[4]string]int
	list  []Count
}

func newSum() *sum { return &sum{index: make(map[[4]string]int)} }

func (s *sum) add(n uint64, labels ...string) {
	var key [4]string
	copy(key[:], labels)
	i, known := s.index[key]
	if !known {
		i = len(s.list)
		s.index[key] = i
		s.list = append(s.list, Count{Labels: labels})
	}
	s.list[i].Value += n
}
