package memstore

import (
	"context"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/window"
)

// A hold is a charge that can still be corrected.
type hold struct {
	expires int64
	limits  []heldCharge // in ascending order of names
}

// A heldCharge is the charge of a hold to one limit. end is 0 if a reset has forgiven the
// charge.
type heldCharge struct {
	limit   string
	cost    int64
	end     int64 // of the window
	turns   int64 // until when the charge can be corrected: end, or when a sliding window turns
	own     bool  // the cost came from Request.Costs
	release bool  // give it back when the hold expires
	spec    window.Spec
	place   bool  // the limit is concurrent
	near    int64 // how far the store's answers may have moved the end of the window, under the policy local
}

// expire closes the expired holds.
func (r *record) expire(now int64) {
	if len(r.holds) == 0 || now < r.nextExpiry {
		return
	}
	r.nextExpiry = 0
	for id, h := range r.holds {
		if h.expires > now {
			r.expiresAt(h.expires)
			continue
		}
		delete(r.holds, id)
		for i := range h.limits {
			if c := &h.limits[i]; c.release {
				r.correct(c, 0, now)
			}
		}
	}
}

// expiresAt updates nextExpiry for a hold that expires at at.
func (r *record) expiresAt(at int64) {
	if r.nextExpiry == 0 || at < r.nextExpiry {
		r.nextExpiry = at
	}
}

// open stores the hold of an admitted charge. local says whether a shared store may count in
// the same windows.
func (r *record) open(c *tierlimit.Charge, windows []counted, now int64, local bool) {
	h := &hold{expires: now + c.Hold.For.Milliseconds()}
	for i := range windows {
		ceiling, spec, cost := c.Ceilings.At(i), c.Ceilings.Spec(i), c.CostOf(i)
		charge := heldCharge{limit: ceiling.Name, cost: cost, release: ceiling.Release, place: ceiling.Concurrent, own: c.Own(i), spec: spec}
		if !charge.place {
			charge.end, charge.turns = windows[i].End, windows[i].End
			if spec.Kind == window.Sliding {
				charge.turns -= spec.Length
			}
			if local {
				charge.near = sameWindow
			}
			if local && spec.Length > 0 {
				charge.near = min(sameWindow, spec.Length/2)
			}
		}
		h.limits = append(h.limits, charge)
	}
	if r.holds == nil {
		r.holds = make(map[tierlimit.HoldID]*hold)
	}
	r.holds[c.Hold.ID] = h
	r.expiresAt(h.expires)
}

// correct replaces the charge c by cost and returns the window. ok is false, and nothing
// changes, if the window has ended.
func (r *record) correct(c *heldCharge, cost, now int64) (w *counted, ok bool) {
	at := r.index(c.limit)
	if at < 0 || c.turns <= now {
		return nil, false
	}
	if apart := r.windows[at].End - c.end; apart < -c.near || apart > c.near {
		return nil, false
	}
	w = &r.windows[at]
	w.Used = min(max(w.Used+cost-c.cost, 0), window.MaxUsed)
	w.own = max(w.own+cost-c.cost, 0)
	return w, true
}

// held returns the sum that open holds have charged to a limit's window, the number of their
// places if the limit is concurrent, and when the first hold expires, or 0 without holds.
func (r *record) held(limit string, end int64) (charged, places, first int64) {
	for _, h := range r.holds {
		if first == 0 || h.expires < first {
			first = h.expires
		}
		for i := range h.limits {
			switch c := &h.limits[i]; {
			case c.limit != limit:
			case c.place:
				places++
			case end > 0 && c.end == end:
				charged += c.cost
			}
		}
	}
	return charged, places, first
}

// Settle implements tierlimit.HoldStore.
func (s *Store) Settle(_ context.Context, c tierlimit.Correction) (tierlimit.Settlement, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Settlement{}, err
	}
	var settled tierlimit.Settlement
	s.withHolds(c.Subject, func(r *record, now int64) {
		settled.At = now
		h := r.holds[c.ID]
		if h == nil {
			return
		}
		delete(r.holds, c.ID)
		settled.Found = true
		for i := range h.limits {
			charge := &h.limits[i]
			if charge.place {
				continue
			}
			l := tierlimit.SettledLimit{Limit: charge.limit, Spec: window.Spec{Kind: charge.spec.Kind, Length: charge.spec.Length}, Estimate: charge.cost, Cost: c.Real(charge.limit, charge.cost, charge.own)}
			if w, ok := r.correct(charge, l.Cost, now); ok {
				l.Used, l.End = w.Used, charge.turns
			} else {
				l.Ended, l.Cost = true, charge.cost
			}
			settled.Limits = append(settled.Limits, l)
		}
	})
	return settled, nil
}

// Renew implements tierlimit.HoldStore.
func (s *Store) Renew(_ context.Context, r tierlimit.Renewal) (found bool, err error) {
	if err := r.Validate(); err != nil {
		return false, err
	}
	s.withHolds(r.Subject, func(rec *record, now int64) {
		if h := rec.holds[r.ID]; h != nil {
			found = true
			h.expires = now + r.For.Milliseconds()
			rec.expiresAt(h.expires)
		}
	})
	return found, nil
}

// Holds implements tierlimit.HoldStore.
func (s *Store) Holds(_ context.Context, subject string) (list []tierlimit.OpenHold, err error) {
	s.withHolds(subject, func(r *record, _ int64) {
		for id, h := range r.holds {
			one := tierlimit.OpenHold{ID: id, Expires: h.expires}
			for i := range h.limits {
				c := &h.limits[i]
				one.Limits = append(one.Limits, tierlimit.HeldLimit{Limit: c.limit, Cost: c.cost, Concurrent: c.place})
			}
			list = append(list, one)
		}
	})
	slices.SortFunc(list, func(a, b tierlimit.OpenHold) int {
		if a.Expires != b.Expires {
			return int(a.Expires - b.Expires)
		}
		return strings.Compare(string(a.ID[:]), string(b.ID[:]))
	})
	return list, nil
}

// withHolds closes the expired holds of a subject and calls do with the subject's record,
// which is empty for an unknown subject.
func (s *Store) withHolds(subject string, do func(r *record, now int64)) {
	sh := s.shard(subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now().UnixMilli()
	rec := sh.records[subject]
	if rec == nil {
		rec = &record{}
	}
	rec.expire(now)
	do(rec, now)
}

// places is the number of a concurrent limit's open holds that the shared store has reported.
// It is used until the first of these holds expires.
type places struct {
	open  int64
	until int64
	at    int64
}

// seePlaces records the open holds of a concurrent limit that the shared store reported.
func (r *record) seePlaces(limit string, s *window.State, at, now int64) {
	if old := r.seen[limit]; old.at > at && old.at-at < stepBack {
		return // overtaken
	}
	if r.seen == nil {
		r.seen = make(map[string]places)
	}
	r.seen[limit] = places{open: s.Used, until: now + s.Reset, at: at}
}

// placesSeen returns the number of a concurrent limit's holds that are open in the shared
// store, as last reported; 0 if the report is out of date.
func (r *record) placesSeen(limit string, now int64) int64 {
	if p := r.seen[limit]; p.until > now {
		return p.open
	}
	return 0
}
