package tierlimit

import (
	"slices"
	"time"
)

// A question is a request, the limits it is held to and the maxes in force.
type question struct {
	Request
	plan       *Plan
	limits     []Limit
	ceilings   []Ceiling
	multiplier float64
}

func newQuestion(plan *Plan, limits []Limit, req Request, multiplier float64) question {
	q := question{Request: req, plan: plan, limits: limits, multiplier: multiplier}
	q.ceilings = make([]Ceiling, len(limits))
	for i := range limits {
		q.ceilings[i] = Ceiling{
			Name:   limits[i].Name,
			Max:    limits[i].scaled(q.multiplier),
			Window: limits[i].Window,
		}
	}
	return q
}

// charge is what to ask a store: with nothing to charge it only reads.
func (q *question) charge(charge bool) Charge {
	c := Charge{Subject: q.Subject, Ceilings: q.ceilings}
	if charge {
		c.Cost = q.Cost
	}
	return c
}

// share is the question as one of several replicas may answer it alone: each
// max divided, and at least 1 where there is any.
func (q *question) share(replicas int) question {
	limits := slices.Clone(q.limits)
	for i := range limits {
		if l := &limits[i]; l.Max > 0 && replicas > 1 {
			l.Max = max(1, l.Max/int64(replicas))
		}
	}
	return newQuestion(q.plan, limits, q.Request, q.multiplier)
}

func (q *question) answer(o Outcome, charge bool) Decision {
	d := q.decision(o.Source)
	d.Degraded = q.plan.Fallback
	d.judge(q.limits, q.ceilings, o.Counts, q.Cost, charge && o.Allowed)
	if charge && !o.Allowed {
		d.refuse() // what the store did not charge is not allowed
	}
	return d
}

// policyRetry is what a denied client is told while nobody can count: the time
// a store takes to come back is not known, and a second is cheap to ask again.
const policyRetry = time.Second

// fail answers without counting.
func (q *question) fail(policy Policy) Decision {
	d := q.decision(SourcePolicy)
	d.Reason, d.Degraded = StoreDown, true
	if policy == Open {
		d.Allowed = true
		return d
	}
	d.RetryAfter = policyRetry
	return d
}

func (q *question) decision(source Source) Decision {
	return Decision{
		Subject: q.Subject, Tier: q.plan.Tier, Scope: q.Scope,
		Multiplier: q.multiplier, Source: source,
	}
}

// inScope returns the limits a request in scope is charged against: those that
// guard everything and those of its own scope. It copies only when it must.
func inScope(limits []Limit, scope string) []Limit {
	applies := func(l *Limit) bool { return l.Scope == "" || l.Scope == scope }
	for i := range limits {
		if applies(&limits[i]) {
			continue
		}
		chosen := append(make([]Limit, 0, len(limits)-1), limits[:i]...)
		for j := i + 1; j < len(limits); j++ {
			if applies(&limits[j]) {
				chosen = append(chosen, limits[j])
			}
		}
		return chosen
	}
	return limits
}
