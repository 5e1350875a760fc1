package tierlimit

import "time"

// An evaluation is a request together with the plan and the limits that apply to the request.
type evaluation struct {
	Request
	plan     *Plan
	compiled *compiled
	charge   int64   // Cost, or 0 to look only
	costs    []int64 // one for each limit, as Charge has them; nil: Cost for all
	hold     *Hold   // nil: none
	held     bool    // whether the outcome includes held usage
	gaveUp   bool    // the caller did, before the store answered
	policy   Policy  // that answers in the place of the store; "" if the store does
	replicas int     // that count apart, this process among them; 0 if the store counts
}

// chargeBy returns what to ask a store, which has until the deadline.
func (e *evaluation) chargeBy(deadline time.Time) Charge {
	c := Charge{
		Subject: e.Subject, Cost: e.charge, Ceilings: e.compiled.ceilings,
		Deadline: deadline, Unknown: e.plan.cfg.Unknown, Held: e.held,
	}
	if e.charge > 0 {
		c.Costs, c.Hold = e.costs, e.hold
	}
	return c
}

// costsOf returns Charge.Costs for a request with Costs.
func (c *compiled) costsOf(req *Request) []int64 {
	costs := make([]int64, len(c.limits))
	for i := range costs {
		costs[i] = takesCost
		if own, named := req.Costs[c.limits[i].Name]; named {
			costs[i] = own
		}
	}
	return costs
}

// cached reports whether a denial of e may be repeated from memory. It may not if costs
// differ by limit, or if holds matter: a hold can end at any time.
func (e *evaluation) cached() bool {
	return e.charge > 0 && e.costs == nil && !e.compiled.ceilings.holds
}

// explain returns the decision that follows from what a store answered.
func (e *evaluation) explain(o *Outcome) Decision {
	d := e.decision(o.Source)
	d.Degraded = e.plan.cfg.Fallback
	charged := e.charge > 0 && o.Allowed
	j := judgement{compiled: e.compiled, counts: o.Counts, maxes: e.compiled.effective, cost: e.Cost, costs: e.costs, firstExpiry: o.FirstExpiry, replicas: e.replicas}
	if e.Hold > 0 {
		j.places = 1
	}
	if o.Maxes != nil {
		j.maxes, d.policy = o.Maxes, ""
	}
	d.judge(&j, charged)
	switch {
	case charged && e.hold != nil:
		d.ID = holdRef{e.Subject, e.hold.ID, e.replicas > 0}.String()
	case o.TooManyHolds:
		d.Allowed, d.Reason, d.Limit = false, TooManyHolds, ""
		d.RetryAfter = waitForPlace(o.FirstExpiry)
	case e.charge > 0 && !o.Allowed && d.Allowed:
		d.Allowed, d.Reason = false, Exceeded // what the store did not charge is not allowed
	}
	return d
}

// share returns the decision that follows from what this process, one of several
// replicas, counted alone.
func (e *evaluation) share(o *Outcome, replicas int) Decision {
	e.replicas = replicas
	d := e.explain(o)
	d.Degraded = true
	return d
}

// policyRetry is what a denied client is told while nobody can count: the time a store
// takes to come back is not known, and a second is cheap to ask again.
const policyRetry = time.Second

// unanswered answers without counting.
func (e *evaluation) unanswered(policy Policy) Decision {
	d := e.decision(SourcePolicy)
	d.Reason, d.Degraded = StoreDown, true
	if policy == Open {
		d.Allowed = true
		return d
	}
	d.RetryAfter = policyRetry
	return d
}

// refused answers for a subject that is denied whatever it has used.
func (e *evaluation) refused(now time.Time) Decision {
	d := e.decision(SourcePolicy)
	d.Reason = e.plan.cfg.Refusal
	if until := e.plan.cfg.RefusedUntil; !until.IsZero() {
		d.RetryAfter = max(until.Sub(now), time.Millisecond)
	}
	return d
}

func (e *evaluation) decision(source Source) Decision {
	return Decision{
		Subject: e.Subject, Tier: e.plan.cfg.Tier, Scope: e.Scope,
		Multiplier: e.compiled.multiplier, Source: source, Cost: e.Cost, Denials: e.plan.cfg.Denials, policy: e.compiled.policy,
	}
}
