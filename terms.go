package tierlimit

import "sync/atomic"

// terms are what a plan holds a request in one scope to, under one multiplier:
// worked out once and then shared by all decisions, which do not change them.
type terms struct {
	scope      string
	multiplier float64
	limits     []Limit
	ceilings   []Ceiling // one for each limit: what a store holds it to
	effective  []int64   // one for each limit: its max under load
	adaptive   bool      // whether load changes any of them
}

// termsCache holds the terms of one plan that were asked for. They are few: the
// scopes its limits name, times the multipliers, which move in steps.
type termsCache struct{ list atomic.Pointer[[]*terms] }

// maxTerms bounds the cache against a Load that never says the same twice.
const maxTerms = 256

// of returns the terms of p for a request in scope. A scope that no limit names
// is as none.
func (c *termsCache) of(p *Plan, scope string, multiplier float64) *terms {
	if t := c.find(scope, multiplier); t != nil {
		return t
	}
	if scope != "" && !names(p.Limits, scope) {
		return c.of(p, "", multiplier)
	}
	t := newTerms(inScope(p.Limits, scope), scope, multiplier)
	for {
		old := c.list.Load()
		list := []*terms{t}
		if old != nil && len(*old) < maxTerms {
			list = append(list, *old...)
		}
		if c.list.CompareAndSwap(old, &list) {
			return t
		}
	}
}

func (c *termsCache) find(scope string, multiplier float64) *terms {
	list := c.list.Load()
	if list == nil {
		return nil
	}
	for _, t := range *list {
		if t.multiplier == multiplier && t.scope == scope {
			return t
		}
	}
	return nil
}

func newTerms(limits []Limit, scope string, multiplier float64) *terms {
	t := &terms{
		scope: scope, multiplier: multiplier, limits: limits,
		ceilings: make([]Ceiling, len(limits)), effective: make([]int64, len(limits)),
	}
	for i := range limits {
		t.adaptive = t.adaptive || limits[i].Adaptive
		t.effective[i] = limits[i].scaled(multiplier)
		t.ceilings[i] = Ceiling{
			Name: limits[i].Name, Max: t.effective[i], Window: limits[i].Window, Lease: limits[i].Lease,
			Sliding: limits[i].Algorithm == Sliding,
		}
		if limits[i].Shadow {
			t.ceilings[i].Max = Unlimited
		}
	}
	return t
}

// share is t as one of several replicas may grant it alone: each max divided,
// and at least 1 where there is any.
func (t *terms) share(replicas int) *terms {
	limits := append([]Limit(nil), t.limits...)
	for i := range limits {
		if l := &limits[i]; l.Max > 0 && replicas > 1 {
			l.Max = max(1, l.Max/int64(replicas))
		}
	}
	return newTerms(limits, t.scope, t.multiplier)
}

func names(limits []Limit, scope string) bool {
	for i := range limits {
		if limits[i].Scope == scope {
			return true
		}
	}
	return false
}

// inScope returns the limits a request in scope is charged against: those that
// guard everything and those of its own scope.
func inScope(limits []Limit, scope string) []Limit {
	chosen := make([]Limit, 0, len(limits))
	for i := range limits {
		if limits[i].Scope == "" || limits[i].Scope == scope {
			chosen = append(chosen, limits[i])
		}
	}
	return chosen
}

// noTerms are those of a request whose plan is not known.
var noTerms = &terms{multiplier: 1}
