package tierlimit

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// denials remembers who was denied, so that a client who keeps asking costs no
// trip to the store. It never allows anything, and denies only what the store
// would deny: the counts are those the store gave, no older than the store lets
// a denial stand, and they are held against the terms in force now. An upgrade
// or a raised multiplier passes at once; so does a smaller cost.
//
// It is a table of fixed size without locks: a denial that finds its places
// taken replaces one, which costs somebody a trip and no more.
type denials struct {
	size  int // places, a power of two; 0 remembers nothing
	began time.Time
	seed  maphash.Seed

	resets atomic.Int64 // how often something was forgotten
	made   sync.Once
	table  atomic.Pointer[[]atomic.Pointer[denial]] // made with the first denial
}

// ways is how many places a subject may stand in, one for each scope it is
// denied in.
const ways = 4

// A denial is what a store counted when it denied, at an instant of the table's
// clock.
type denial struct {
	subject string
	terms   *terms
	counted []Count       // as they came, but Reset and Turn on the table's clock, and Used without what is weighted
	expires time.Duration // on the table's clock
	shown   atomic.Pointer[shown]
}

// shown is a denial as it was last given: the same for all who ask within a
// millisecond, as nothing in a decision is finer.
type shown struct {
	at       time.Duration
	cost     int64
	scope    string
	terms    *terms
	decision Decision
}

func newDenials(most int) *denials {
	d := &denials{began: time.Now(), seed: maphash.MakeSeed()}
	if most > 0 {
		for d.size = ways; d.size < most; {
			d.size *= 2
		}
	}
	return d
}

// now is the table's clock. It is monotonic, which the wall's is not.
func (t *denials) now() time.Duration { return time.Since(t.began) }

// places are those a subject may stand in; none before the first denial.
func (t *denials) places(subject string) []atomic.Pointer[denial] {
	table := t.table.Load()
	if table == nil {
		return nil
	}
	first := int(maphash.String(t.seed, subject)) & (t.size - 1) &^ (ways - 1) //nolint:gosec // wraps on purpose
	return (*table)[first : first+ways]
}

// again answers q from memory, with a decision that is not to be changed. nil if
// only the store can tell.
func (t *denials) again(q *question) *Decision {
	places := t.places(q.Subject)
	for i := range places {
		d := places[i].Load()
		if d == nil || d.subject != q.Subject || d.terms.scope != q.terms.scope {
			continue
		}
		now := t.now()
		if now >= d.expires {
			return nil
		}
		now = now.Truncate(time.Millisecond)
		if s := d.shown.Load(); s != nil && s.at == now && s.cost == q.Cost && s.terms == q.terms && s.scope == q.Scope {
			return &s.decision
		}
		return d.show(q, now)
	}
	return nil
}

func (d *denial) show(q *question, now time.Duration) *Decision {
	counts := d.counts(q.terms, now)
	if counts == nil || !over(q.terms.ceilings, counts, q.Cost) {
		return nil
	}
	s := &shown{at: now, cost: q.Cost, scope: q.Scope, terms: q.terms}
	s.decision = q.answer(Outcome{Counts: counts, Source: SourceDenyCache}, true)
	d.shown.Store(s)
	return &s.decision
}

// counts are those of d for other terms, or later. nil if they would have to be
// asked for: a window has ended, or the terms count over others.
func (d *denial) counts(t *terms, now time.Duration) []Count {
	if t != d.terms && !sameWindows(t.ceilings, d.terms.ceilings) {
		return nil
	}
	counts := make([]Count, len(d.counted))
	for i := range counts {
		c := d.counted[i]
		if c.Reset > 0 {
			if c.Reset -= now; c.Reset <= 0 {
				return nil
			}
		}
		if c.Turn > 0 {
			if c.Turn -= now; c.Turn <= 0 {
				return nil
			}
			c.Used += Weighted(c.Previous, c.Turn, t.ceilings[i].Window.Length)
		}
		counts[i] = c
	}
	return counts
}

func sameWindows(a, b []Ceiling) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].Window != b[i].Window || a[i].Sliding != b[i].Sliding {
			return false
		}
	}
	return true
}

func over(ceilings []Ceiling, counts []Count, cost int64) bool {
	for i := range ceilings {
		if ceilings[i].Max != Unlimited && counts[i].Used+cost > ceilings[i].Max {
			return true
		}
	}
	return false
}

// asking is the state of the table when a store is asked.
type asking struct {
	at     time.Duration
	resets int64
}

func (t *denials) asking(now time.Time) asking {
	return asking{at: now.Sub(t.began), resets: t.resets.Load()}
}

// remember keeps what the store answered q, if it denied and lets that stand.
// Ends are reckoned from when it was asked, so that none comes out later than it
// is. What was answered before a reset and comes after it is not kept.
func (t *denials) remember(q *question, o Outcome, when asking) {
	if o.Allowed || o.StandsFor <= 0 || t.size == 0 {
		return
	}
	asked := when.at
	t.made.Do(func() {
		table := make([]atomic.Pointer[denial], t.size)
		t.table.Store(&table)
	})
	d := &denial{
		subject: q.Subject, terms: q.terms, expires: asked + o.StandsFor,
		counted: slices.Clone(o.Counts),
	}
	for i := range d.counted {
		c := &d.counted[i]
		if c.Reset > 0 {
			c.Reset = (asked + c.Reset).Truncate(time.Millisecond)
		}
		if c.Turn > 0 {
			c.Used -= Weighted(c.Previous, c.Turn, q.terms.ceilings[i].Window.Length) // it falls with time
			c.Turn = (asked + c.Turn).Truncate(time.Millisecond)
		}
	}
	places := t.places(q.Subject)
	place := &places[len(q.Subject)%ways]
	for i := range places {
		old := places[i].Load()
		if old != nil && old.subject == d.subject && old.terms.scope == d.terms.scope {
			place = &places[i]
			break
		}
		if old == nil || asked >= old.expires {
			place = &places[i]
		}
	}
	place.Store(d)
	if t.resets.Load() != when.resets {
		place.CompareAndSwap(d, nil)
	}
}

// forget lets go of what is remembered of a subject. Its store has forgotten
// before.
func (t *denials) forget(subject string) {
	t.resets.Add(1)
	places := t.places(subject)
	for i := range places {
		if d := places[i].Load(); d != nil && d.subject == subject {
			places[i].CompareAndSwap(d, nil)
		}
	}
}
