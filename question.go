package tierlimit

import "time"

// A question is a request and the terms it is held to.
type question struct {
	Request
	plan  *Plan
	terms *terms
}

// charge is what to ask a store: with nothing to charge it only reads.
func (q *question) charge(charge bool, room []Count) Charge {
	c := Charge{Subject: q.Subject, Ceilings: q.terms.ceilings, Counts: room}
	if charge {
		c.Cost = q.Cost
	}
	return c
}

func (q *question) answer(o Outcome, charge bool) Decision {
	d := q.decision(o.Source)
	d.Degraded = q.plan.Fallback
	d.judge(q.terms, o.Counts, q.Cost, charge && o.Allowed)
	if charge && o.Allowed && refundable(o) {
		d.Nonce, d.at = newNonce(), o.At
	}
	if charge && !o.Allowed {
		d.refuse() // what the store did not charge is not allowed
	}
	return d
}

// refundable reports whether a store said what it charged, and when.
func refundable(o Outcome) bool {
	for i := range o.Counts {
		if o.Counts[i].End <= 0 {
			return false
		}
	}
	return len(o.Counts) > 0 && o.At > 0
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

// refused answers for a subject that is denied whatever it has used.
func (q *question) refused() Decision {
	d := q.decision(SourcePolicy)
	d.Reason = q.plan.Refusal
	if until := q.plan.RefusedUntil; !until.IsZero() {
		d.RetryAfter = max(time.Until(until), time.Millisecond)
	}
	return d
}

func (q *question) decision(source Source) Decision {
	return Decision{
		Subject: q.Subject, Tier: q.plan.Tier, Scope: q.Scope,
		Multiplier: q.terms.multiplier, Source: source, Cost: q.Cost,
	}
}
