package tierlimit

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// compiled is what a plan holds a request in one scope to, under one multiplier: worked
// out once, shared by all decisions, and never changed but for observed.
type compiled struct {
	scope      string
	multiplier float64
	limits     []Limit
	effective  []int64   // one for each limit: its max under load
	ceilings   *Ceilings // what a store holds a request to; nil if there are no limits
	adaptive   bool      // whether load changes any limit
	concurrent bool      // whether any limit counts open holds
	policy     string    // the RateLimit-Policy field's value
	alerts     [][]int64 // for each limit the usage at which its thresholds are reached; nil if no limit has one

	observed atomic.Pointer[observed] // of the limiter that asked last
}

// compiledCache holds what was compiled of one plan. Its entries are few: the scopes
// that the limits name, times the multipliers, which move in steps.
type compiledCache struct{ list atomic.Pointer[[]*compiled] }

// maxCompiled bounds the cache against a Load that never says the same twice.
const maxCompiled = 256

// compile returns what p holds a request in scope to. A scope that no limit names is
// as none.
func (p *Plan) compile(scope string, multiplier float64) *compiled {
	if c := p.compiled.find(scope, multiplier); c != nil {
		return c
	}
	if scope != "" && !slices.ContainsFunc(p.cfg.Limits, func(l Limit) bool { return l.Scope == scope }) {
		return p.compile("", multiplier)
	}
	c := newCompiled(inScope(p.cfg.Limits, scope), scope, multiplier)
	p.compiled.add(c)
	return c
}

func (cache *compiledCache) find(scope string, multiplier float64) *compiled {
	list := cache.list.Load()
	if list == nil {
		return nil
	}
	for _, c := range *list {
		if c.multiplier == multiplier && c.scope == scope {
			return c
		}
	}
	return nil
}

func (cache *compiledCache) add(c *compiled) {
	for {
		old := cache.list.Load()
		list := []*compiled{c}
		if old != nil && len(*old) < maxCompiled {
			list = append(list, *old...)
		}
		if cache.list.CompareAndSwap(old, &list) {
			return
		}
	}
}

// all returns every limit of p, whatever its scope.
func (p *Plan) all(multiplier float64) *compiled { return newCompiled(p.cfg.Limits, "", multiplier) }

func newCompiled(limits []Limit, scope string, multiplier float64) *compiled {
	c := &compiled{scope: scope, multiplier: multiplier, limits: limits, effective: make([]int64, len(limits))}
	list := make([]Ceiling, len(limits))
	var policy []byte
	for i := range limits {
		l := &limits[i]
		c.adaptive = c.adaptive || l.Adaptive
		c.concurrent = c.concurrent || l.Algorithm == Concurrent
		c.effective[i] = l.scaled(multiplier)
		c.addAlerts(i)
		list[i] = Ceiling{Name: l.Name, Max: c.effective[i], Window: l.Window, Sliding: l.Algorithm == Sliding, Concurrent: l.Algorithm == Concurrent, Release: l.OnExpiry == ReleaseOnExpiry}
		if l.Shadow {
			list[i].Max = Unlimited // counted, and never denies
		}
		if l.Shadow || c.effective[i] == Unlimited {
			continue
		}
		policy = appendPolicy(policy, l.Name, c.effective[i], l.Window)
	}
	c.policy = string(policy)
	if len(list) > 0 {
		c.ceilings = newCeilings(list)
	}
	return c
}

// inScope returns the limits a request in scope is charged against: those that guard
// everything and those of its own scope.
func inScope(limits []Limit, scope string) []Limit {
	chosen := make([]Limit, 0, len(limits))
	for i := range limits {
		if limits[i].Scope == "" || limits[i].Scope == scope {
			chosen = append(chosen, limits[i])
		}
	}
	return chosen
}

// appendPolicy appends an item of the RateLimit-Policy field of
// draft-ietf-httpapi-ratelimit-headers-11. A month has no length, and no w. Names need
// no escapes in a structured field's string, see ValidName.
func appendPolicy(b []byte, name string, most int64, w Window) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(append(b, '"'), name...), `";q=`...)
	b = strconv.AppendInt(b, most, 10)
	if seconds := w.seconds(); seconds > 0 {
		b = strconv.AppendInt(append(b, ";w="...), seconds, 10)
	}
	return b
}

// seconds returns the window's length in whole seconds, rounded up; 0 for a month.
func (w Window) seconds() int64 {
	const day = 24 * 60 * 60
	switch w.Period {
	case Day:
		return day
	case Week:
		return 7 * day
	case Month:
		return 0
	}
	return int64((w.Length + time.Second - 1) / time.Second)
}
