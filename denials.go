package tierlimit

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// denials remembers recent denials, so that a client who keeps asking costs no trip to
// the store. It never allows anything, and denies only what the store would deny: the
// counts are those the store gave, no older than the store lets a denial stand, and
// they are held against the limits in force now. An upgrade or a raised multiplier
// passes at once; so does a smaller cost.
//
// The table has a fixed size and no locks: a denial that finds its slots taken
// replaces another one, which costs a trip to the store and no more.
type denials struct {
	size  int // slots, a power of two; 0 remembers nothing
	began time.Time
	seed  maphash.Seed

	forgotten [4096]atomic.Uint32 // by hash of the subject: how often a subject was forgotten
	made      sync.Once
	table     atomic.Pointer[[]atomic.Pointer[denial]] // made with the first denial
}

// ways is how many slots a subject may use, one for each scope it is denied in.
const ways = 4

// A denial is what a store counted when it denied.
type denial struct {
	subject  string
	compiled *compiled
	counts   []Count
	at       time.Duration // on the table's clock, whole milliseconds
	expires  time.Duration // on the table's clock
	latest   atomic.Pointer[cachedDecision]
}

// A cachedDecision is a denial as it was given last: the same for all who ask within a
// millisecond, as nothing in a decision is finer.
type cachedDecision struct {
	at       time.Duration
	cost     int64
	scope    string
	compiled *compiled
	decision Decision
}

func newDenials(most int) *denials {
	t := &denials{began: time.Now(), seed: maphash.MakeSeed()}
	if most > 0 {
		for t.size = ways; t.size < most; {
			t.size *= 2
		}
	}
	return t
}

func (t *denials) hash(subject string) uint64 { return maphash.String(t.seed, subject) }

// slots returns those a subject may use; none before the first denial.
func (t *denials) slots(hash uint64) []atomic.Pointer[denial] {
	table := t.table.Load()
	if table == nil {
		return nil
	}
	first := int(hash) & (t.size - 1) &^ (ways - 1) //nolint:gosec // wraps on purpose
	return (*table)[first : first+ways]
}

// lookup answers e from memory, with a decision that must not be changed; nil if the
// store must be asked.
func (t *denials) lookup(e *evaluation, wall time.Time) *Decision {
	if t.table.Load() == nil {
		return nil
	}
	slots := t.slots(t.hash(e.Subject))
	for i := range slots {
		d := slots[i].Load()
		if d == nil || d.subject != e.Subject || d.compiled.scope != e.compiled.scope {
			continue
		}
		now := wall.Sub(t.began)
		if now >= d.expires {
			return nil
		}
		now = now.Truncate(time.Millisecond)
		if c := d.latest.Load(); c != nil && c.at == now && c.cost == e.Cost && c.compiled == e.compiled && c.scope == e.Scope {
			return &c.decision
		}
		return d.decide(e, now)
	}
	return nil
}

// decide holds what was counted against e; nil if the store must be asked.
func (d *denial) decide(e *evaluation, now time.Duration) *Decision {
	counts := d.countsFor(e.compiled, now)
	if counts == nil || !exceeds(e.compiled.ceilings, counts, e.Cost) {
		return nil
	}
	c := &cachedDecision{at: now, cost: e.Cost, scope: e.Scope, compiled: e.compiled}
	c.decision = e.explain(&Outcome{Counts: counts, Source: SourceDenyCache})
	d.latest.Store(c)
	return &c.decision
}

// countsFor returns what counts now against other limits. nil if the store must be
// asked: a window has ended or turned, or the limits count over other windows.
func (d *denial) countsFor(c *compiled, now time.Duration) []Count {
	if !c.ceilings.sameWindows(d.compiled.ceilings) {
		return nil
	}
	elapsed := max(0, (now - d.at).Milliseconds())
	counts := make([]Count, len(d.counts))
	for i := range counts {
		state, ok := c.ceilings.Spec(i).Later(d.counts[i].State, elapsed)
		if !ok {
			return nil
		}
		counts[i].State = state
	}
	return counts
}

func exceeds(ceilings *Ceilings, counts []Count, cost int64) bool {
	for i := range counts {
		if most := ceilings.Max(i); most != Unlimited && counts[i].Used+cost > most {
			return true
		}
	}
	return false
}

// A ticket is taken before the store is asked. A denial that comes back is kept only if
// nothing of its subject was forgotten meanwhile.
type ticket struct {
	hash      uint64
	at        time.Duration
	forgotten uint32
}

func (t *denials) ticket(subject string, wall time.Time) ticket {
	if t.size == 0 {
		return ticket{}
	}
	hash := t.hash(subject)
	return ticket{hash: hash, at: wall.Sub(t.began), forgotten: t.forgotten[hash>>52].Load()}
}

// remember keeps what the store answered e, if it lets that stand. Windows are reckoned
// from when the store was asked, so that none is taken to end later than it does.
func (t *denials) remember(e *evaluation, o *Outcome, ticket ticket) {
	if o.StandsFor <= 0 || t.size == 0 {
		return
	}
	t.made.Do(func() {
		table := make([]atomic.Pointer[denial], t.size)
		t.table.Store(&table)
	})
	d := &denial{
		subject: e.Subject, compiled: e.compiled, counts: slices.Clone(o.Counts),
		at: ticket.at.Truncate(time.Millisecond), expires: ticket.at + o.StandsFor,
	}
	slot := t.slotFor(d, ticket)
	slot.Store(d)
	if t.forgotten[ticket.hash>>52].Load() != ticket.forgotten {
		slot.CompareAndSwap(d, nil)
	}
}

// slotFor returns the slot that d replaces: that of an older denial of the same subject
// and scope, else one that is free or has expired, else any.
func (t *denials) slotFor(d *denial, ticket ticket) *atomic.Pointer[denial] {
	slots := t.slots(ticket.hash)
	slot := &slots[len(d.subject)%ways]
	for i := range slots {
		old := slots[i].Load()
		if old != nil && old.subject == d.subject && old.compiled.scope == d.compiled.scope {
			return &slots[i]
		}
		if old == nil || ticket.at >= old.expires {
			slot = &slots[i]
		}
	}
	return slot
}

// forget drops what is remembered of a subject. Its store has forgotten before.
func (t *denials) forget(subject string) {
	hash := t.hash(subject)
	t.forgotten[hash>>52].Add(1)
	slots := t.slots(hash)
	for i := range slots {
		if d := slots[i].Load(); d != nil && d.subject == subject {
			slots[i].CompareAndSwap(d, nil)
		}
	}
}
