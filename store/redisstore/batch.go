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
	"github.com/tierlimit/tierlimit/window"
)

// A batch is the charges that travel in one call. Charges of one subject against the
// same ceilings are one entry, and are decided in the order they came.
type batch struct {
	entries  []entry
	commands commands
	again    bool                // a subject is in more than one entry
	runs     int                 // of all entries
	charges  int                 // of all runs
	index    [2 * maxBatch]int16 // hash table: 1 + the index of an entry; 0 is free

	// Guarded by the line's mu.
	state    state
	overdue  bool          // the calls before it do not return
	deadline time.Time     // the earliest of its charges
	latest   time.Time     // the latest of its charges
	until    time.Time     // when its call has had its time; set when it is sent
	due      time.Time     // when its timer fires
	grace    time.Time     // nobody gives up before: this process was late
	graces   int           // how often that was granted
	late     bool          // it was granted often enough, and this process was late again
	reported bool          // the breaker knows how its call went
	signal   chan struct{} // closed when it has settled; and replaced, when a deadline has passed

	settled atomic.Bool  // the outcomes are there
	looking atomic.Int32 // the sender and the callers who have not left
	timer   *time.Timer
	frame   frame // what the sender works with
}

// A state is where a batch is.
type state int

const (
	resting state = iota
	gathering
	sent
)

// An entry is one subject, the ceilings it is charged against, and the charges.
type entry struct {
	subject  string
	hash     uint64
	ceilings *tierlimit.Ceilings
	runs     []run

	// What came of it.
	err     error
	now     int64  // Redis' clock then, in milliseconds
	answer  answer // what the script said of the key
	scratch []byte // for the key
}

// A run is charges of the same cost, one after the other.
type run struct {
	cost      int64
	came      int64
	withdrawn []int64 // ranks of the charges given up before they left, ascending
}

// sent returns how many charges of r leave.
func (r *run) sent() int64 { return r.came - int64(len(r.withdrawn)) }

// A ticket locates the outcome of a caller's charge or command in a batch.
type ticket struct {
	batch      *batch
	signal     chan struct{}
	command    *command
	entry, run int
	rank       int64 // in the run
}

var errNoReply = errors.New("its reply is not known")

// ErrLate is returned for a charge whose reply this process had too little CPU to read in
// time. The charge may have been made. The error does not wrap
// tierlimit.ErrStoreUnavailable: a process that is overloaded must not take Redis for
// lost, and let everybody through.
var ErrLate = fmt.Errorf("%w: it was too late to read the reply", tierlimit.ErrOverloaded)

// errUnanswered is what an entry holds until there is an answer.
var errUnanswered = fmt.Errorf("%w: no answer", tierlimit.ErrStoreUnavailable)

var seed = maphash.MakeSeed()

func hashOf(subject string) uint64 { return maphash.String(seed, subject) }

func (b *batch) begin() {
	b.state, b.overdue, b.again, b.reported = gathering, false, false, false
	b.deadline, b.latest, b.signal = time.Time{}, time.Time{}, make(chan struct{})
	b.grace, b.graces, b.late = time.Time{}, 0, false
	b.settled.Store(false)
	b.looking.Store(1)
}

// deep reports whether enough wait for one more call.
func (b *batch) deep() bool { return len(b.entries) >= deep || b.charges >= manyCharges }

// add returns the zero ticket if b has no room for the charge.
func (b *batch) add(c *tierlimit.Charge, hash uint64, deadline time.Time) ticket {
	i := b.find(c, hash)
	if i < 0 {
		i = b.newEntry(c, hash)
	}
	if i < 0 {
		return ticket{}
	}
	e := &b.entries[i]
	last := len(e.runs) - 1
	if last < 0 || e.runs[last].cost != c.Cost {
		if b.runs == maxRuns {
			return ticket{}
		}
		last++
		b.runs++
		e.runs = append(e.runs, run{cost: c.Cost})
	}
	r := &e.runs[last]
	r.came++
	b.expect(deadline)
	return ticket{batch: b, signal: b.signal, entry: i, run: last, rank: r.came - 1}
}

// board adds a charge, or cmd if cmd is not nil. It returns the zero ticket if b has no room.
func (b *batch) board(c *tierlimit.Charge, hash uint64, cmd *command, deadline time.Time) ticket {
	if cmd != nil {
		return b.addCommand(cmd, deadline)
	}
	return b.add(c, hash, deadline)
}

// addCommand returns the zero ticket if b has no room for the command.
func (b *batch) addCommand(c *command, deadline time.Time) ticket {
	if len(b.commands) == maxBatch {
		return ticket{}
	}
	c.err = errUnanswered
	b.commands = append(b.commands, c)
	b.expect(deadline)
	return ticket{batch: b, signal: b.signal, command: c}
}

// expect adds a caller that waits until deadline.
func (b *batch) expect(deadline time.Time) {
	b.charges++
	if b.deadline.IsZero() || deadline.Before(b.deadline) {
		b.deadline = deadline
	}
	if deadline.After(b.latest) {
		b.latest = deadline
	}
	b.looking.Add(1)
}

// find returns the index of the entry for a charge, -1 if there is none.
func (b *batch) find(c *tierlimit.Charge, hash uint64) int {
	for at := hash % uint64(len(b.index)); b.index[at] != 0; at = (at + 1) % uint64(len(b.index)) {
		i := int(b.index[at]) - 1
		if e := &b.entries[i]; e.hash == hash && e.subject == c.Subject && e.ceilings.Equal(c.Ceilings) {
			return i
		}
	}
	return -1
}

// newEntry returns the index of a new entry for a charge, -1 if there is no room.
func (b *batch) newEntry(c *tierlimit.Charge, hash uint64) int {
	n := len(b.entries)
	if n == maxBatch || b.runs == maxRuns {
		return -1
	}
	at := hash % uint64(len(b.index))
	for ; b.index[at] != 0; at = (at + 1) % uint64(len(b.index)) {
		b.again = b.again || b.entries[b.index[at]-1].subject == c.Subject
	}
	b.index[at] = int16(n + 1) //nolint:gosec // at most maxBatch
	b.entries = slices.Grow(b.entries, 1)[:n+1]
	e := &b.entries[n] // with the room of its last journey
	e.subject, e.hash, e.ceilings = c.Subject, hash, c.Ceilings
	e.runs, e.err, e.answer = e.runs[:0], errUnanswered, answer{}
	return n
}

// rest lets go of what belongs to the callers.
func (b *batch) rest() {
	for i := range b.entries {
		e := &b.entries[i]
		e.subject, e.ceilings, e.err, e.answer = "", nil, nil, answer{}
	}
	clear(b.commands)
	b.entries, b.commands, b.runs, b.charges = b.entries[:0], b.commands[:0], 0, 0
	clear(b.index[:])
	b.frame.rest()
}

// leaves reports whether any charge of e has not been withdrawn.
func (e *entry) leaves() bool {
	for i := range e.runs {
		if e.runs[i].sent() > 0 {
			return true
		}
	}
	return false
}

// withdraw cancels a charge or command that has not been sent. The line's mu must be held.
func (t *ticket) withdraw() {
	if t.command != nil {
		t.command.withdrawn = true
		return
	}
	r := &t.batch.entries[t.entry].runs[t.run]
	at, _ := slices.BinarySearch(r.withdrawn, t.rank)
	r.withdrawn = slices.Insert(r.withdrawn, at, t.rank)
}

// outcome returns what came of the charge in a settled batch.
func (t *ticket) outcome() (tierlimit.Outcome, error) {
	e := &t.batch.entries[t.entry]
	if e.err != nil {
		return tierlimit.Outcome{}, e.err
	}
	r := &e.runs[t.run]
	before, _ := slices.BinarySearch(r.withdrawn, t.rank)
	rank := t.rank - int64(before)
	admitted, charged := e.answer.admitted(e, t.run)
	o := tierlimit.Outcome{
		Allowed: rank < admitted, Counts: make([]tierlimit.Count, e.ceilings.Len()),
		Source: tierlimit.SourceRedis, StandsFor: standsFor, At: e.now,
	}
	charged = plus(charged, times(r.cost, min(rank+1, admitted)))
	for i := range o.Counts {
		spec, stored := e.ceilings.Spec(i), e.answer.found(e, i)
		o.Counts[i].Began = stored.End == 0 && charged > 0
		if charged > 0 {
			stored = spec.Charge(stored, charged, e.now)
		}
		o.Counts[i].State = spec.State(stored, e.now)
	}
	return o, nil
}

// times stops at window.MaxUsed, as the scripts do.
func times(cost, n int64) int64 {
	if cost > 0 && n > window.MaxUsed/cost {
		return window.MaxUsed
	}
	return cost * n
}

func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return window.MaxUsed
	}
	return min(a+b, window.MaxUsed)
}
