package redisstore

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A batch is the charges that travel in one call. Charges of one subject against
// the same ceilings are one entry, and are decided in the order they came.
type batch struct {
	entries []entry
	again   bool                // a subject is in more than one entry
	runs    int                 // of all entries
	charges int                 // of all runs
	places  [2 * maxBatch]int16 // hash table: 1 + the index of an entry; 0 is free

	// Guarded by the line's mu.
	state    int
	late     bool          // calls before it do not return
	deadline time.Time     // the earliest of its charges
	latest   time.Time     // the latest
	signal   chan struct{} // closed when it is settled; and replaced, when a deadline has passed
	over     bool          // its call has had its time

	// Set when it is sent.
	until time.Time     // when its call has had its time
	cut   chan struct{} // closed then

	settled atomic.Bool  // the outcomes are there
	looking atomic.Int32 // the sender and the callers who have not left
	timer   *time.Timer
	call    call // what the sender works with
}

// The states of a batch.
const (
	resting = iota
	gathering
	sent
)

// An entry is one subject, the ceilings it is charged against, and the charges.
type entry struct {
	subject  string
	hash     uint64
	ceilings []tierlimit.Ceiling
	runs     []run
	lease    *lease // nil if it is not leased

	// What the lease asks for, once it is sent.
	leased bool
	share  int64
	back   int64
	ends   []int64 // of the windows that back was charged in

	// What came of it.
	err     error
	now     int64   // Redis' clock then, in milliseconds
	granted int64   // of the share
	counts  []int64 // of each ceiling what scripts/take.lua returns for it
	key     []byte
}

// A run is charges of the same cost, one after the other.
type run struct {
	cost      int64
	came      int64
	withdrawn []int64 // ranks of those given up before they left, ascending
	admitted  int64
	before    int64 // what the runs before it charged
}

// sent is how many charges of r leave.
func (r *run) sent() int64 { return r.came - int64(len(r.withdrawn)) }

// A place is where a caller finds the outcome of its charge.
type place struct {
	batch      *batch
	signal     chan struct{}
	entry, run int
	rank       int64 // in the run
}

var (
	errNotSent = errors.New("it was not sent")
	errNoReply = errors.New("its reply is not known")
)

// errUnanswered is what an entry holds until there is an answer.
var errUnanswered = fmt.Errorf("%w: no answer", tierlimit.ErrStoreUnavailable)

var seed = maphash.MakeSeed()

func hashOf(subject string) uint64 { return maphash.String(seed, subject) }

func (b *batch) begin() {
	b.state, b.late, b.again = gathering, false, false
	b.deadline, b.latest, b.signal = time.Time{}, time.Time{}, make(chan struct{})
	b.settled.Store(false)
	b.looking.Store(1)
}

// deep reports whether enough wait for one more call.
func (b *batch) deep() bool { return len(b.entries) >= deep || b.charges >= manyCharges }

// add returns the zero place if b has no room for the charge.
func (b *batch) add(c *tierlimit.Charge, hash uint64, l *lease, deadline time.Time) place {
	e, i := b.find(c, hash)
	if e == nil {
		return place{}
	}
	last := len(e.runs) - 1
	if last < 0 || e.runs[last].cost != c.Cost {
		if b.runs == maxRuns {
			return place{}
		}
		last++
		b.runs++
		e.runs = append(e.runs, run{cost: c.Cost})
	}
	r := &e.runs[last]
	r.came++
	if l != nil {
		e.lease = l
	}
	b.charges++
	if b.deadline.IsZero() || deadline.Before(b.deadline) {
		b.deadline = deadline
	}
	if deadline.After(b.latest) {
		b.latest = deadline
	}
	b.looking.Add(1)
	return place{batch: b, signal: b.signal, entry: i, run: last, rank: r.came - 1}
}

// find returns the entry for a charge, and makes it if there is room.
func (b *batch) find(c *tierlimit.Charge, hash uint64) (e *entry, index int) {
	again := false
	at := hash % uint64(len(b.places))
	for ; b.places[at] != 0; at = (at + 1) % uint64(len(b.places)) {
		i := int(b.places[at]) - 1
		if e := &b.entries[i]; e.hash == hash && e.subject == c.Subject {
			if sameCeilings(e.ceilings, c.Ceilings) {
				return e, i
			}
			again = true
		}
	}
	n := len(b.entries)
	if n == maxBatch || b.runs == maxRuns {
		return nil, 0
	}
	b.again = b.again || again
	b.places[at] = int16(n + 1) //nolint:gosec // at most maxBatch
	b.entries = slices.Grow(b.entries, 1)[:n+1]
	e = &b.entries[n] // with the room of its last journey
	e.subject, e.hash, e.ceilings = c.Subject, hash, c.Ceilings
	e.runs, e.err, e.counts = e.runs[:0], errUnanswered, nil
	e.lease, e.leased, e.share, e.back, e.granted = nil, false, 0, 0, 0
	return e, n
}

func sameCeilings(a, b []tierlimit.Ceiling) bool {
	return len(a) == len(b) && (&a[0] == &b[0] || slices.Equal(a, b))
}

// rest lets go of what belongs to the callers.
func (b *batch) rest() {
	for i := range b.entries {
		e := &b.entries[i]
		e.subject, e.ceilings, e.err, e.counts, e.lease = "", nil, nil, nil, nil
	}
	b.entries, b.runs, b.charges = b.entries[:0], 0, 0
	clear(b.places[:])
	b.call.rest()
}

// withdraw takes back a charge that has not left. The line's mu is held.
func (p *place) withdraw() {
	r := &p.batch.entries[p.entry].runs[p.run]
	at, _ := slices.BinarySearch(r.withdrawn, p.rank)
	r.withdrawn = slices.Insert(r.withdrawn, at, p.rank)
}

// outcome is what came of the charge c in a settled batch.
func (p *place) outcome(c *tierlimit.Charge) (tierlimit.Outcome, error) {
	e := &p.batch.entries[p.entry]
	if e.err != nil {
		return tierlimit.Outcome{}, e.err
	}
	r := &e.runs[p.run]
	before, _ := slices.BinarySearch(r.withdrawn, p.rank)
	rank := p.rank - int64(before)
	o := tierlimit.Outcome{
		Allowed: rank < r.admitted, Counts: c.Room(),
		Source: tierlimit.SourceRedis, StandsFor: standsFor, At: e.now,
	}
	charged := r.before + times(r.cost, min(rank+1, r.admitted))
	width := e.width()
	for i := range o.Counts {
		o.Counts[i] = countOf(&c.Ceilings[i], e.counts[width*i:width*(i+1)], charged, e.now)
	}
	return o, nil
}

// countOf is a window once charged was added to what the script found at now.
func countOf(ceiling *tierlimit.Ceiling, found []int64, charged, now int64) tierlimit.Count {
	used, reset := found[0], found[1]
	begun := used >= 0 || charged > 0
	c := tierlimit.Count{Used: min(max(used, 0)+charged, maxUsed), Began: used < 0 && charged > 0}
	if !begun && ceiling.Window.Period == "" {
		return c
	}
	c.Reset = time.Duration(reset) * time.Millisecond
	if begun {
		c.End = now + reset
	}
	if ceiling.Sliding {
		c.Previous, c.Turn = found[2], c.Reset-ceiling.Window.Length
		c.End -= ceiling.Window.Length.Milliseconds()
		if c.Used == tierlimit.Weighted(c.Previous, c.Turn, ceiling.Window.Length) {
			c.Reset = c.Turn // nothing since the last turn
		}
	}
	return c
}

// maxUsed is where counts stop: the largest number Lua holds exactly.
const maxUsed = 1<<53 - 1

// times stops at maxUsed, as the scripts do.
func times(cost, n int64) int64 {
	if cost > 0 && n > maxUsed/cost {
		return maxUsed
	}
	return cost * n
}

func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return maxUsed
	}
	return min(a+b, maxUsed)
}
