// Package memstore counts charges in the memory of one process.
//
// It is for programs that run as a single process, for development and tests, and for
// the failure policy "local". It is not for replicas that share a quota: each would
// grant the whole of it; use redisstore.
package memstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/window"
)

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	Now         func() time.Time // the clock; default time.Now
	MaxSubjects int              // most subjects held at once; default 1,000,000
	MaxHolds    int              // maximum number of open holds of a subject; default tierlimit.DefaultMaxHolds
}

// DefaultMaxSubjects is how many subjects a Store holds unless told otherwise: about
// 200 MB with two windows each.
const DefaultMaxSubjects = 1_000_000

// A Store keeps counters in memory. Its memory is bounded: subjects whose windows have
// all ended are swept, and when MaxSubjects live ones are held a new subject gets
// ErrStoreUnavailable rather than somebody else's place. Subjects that no customer has
// (tierlimit.Charge.Unknown) get at most half of the places, as their names can be made
// up without end.
//
// A Store is safe for concurrent use.
type Store struct {
	now     func() time.Time
	most    int64
	holds   int
	seed    maphash.Seed
	shards  [shardCount]shard
	held    atomic.Int64 // subjects
	unknown atomic.Int64 // of them, those that no customer has
	swept   atomic.Int64 // when all shards were swept for want of room, in milliseconds since the epoch
}

const shardCount = 64

type shard struct {
	mu        sync.Mutex
	records   map[string]*record // guarded by mu
	sweepSize int                // guarded by mu: sweep when this many records are held
	sweptAt   int64              // guarded by mu: epoch milliseconds of the last sweep
}

var (
	_ tierlimit.Store      = (*Store)(nil)
	_ tierlimit.LocalStore = (*Store)(nil)
)

// New returns an empty Store.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxSubjects <= 0 {
		cfg.MaxSubjects = DefaultMaxSubjects
	}
	if cfg.MaxHolds <= 0 {
		cfg.MaxHolds = tierlimit.DefaultMaxHolds
	}
	s := &Store{now: cfg.Now, most: int64(cfg.MaxSubjects), holds: cfg.MaxHolds, seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].records = make(map[string]*record)
	}
	return s
}

// Take implements tierlimit.Store.
func (s *Store) Take(_ context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	return s.take(&c, 0)
}

// TakeShare implements tierlimit.LocalStore.
func (s *Store) TakeShare(c tierlimit.Charge, replicas int) (tierlimit.Outcome, error) {
	return s.take(&c, int64(replicas))
}

// take charges c. replicas is 0 if this Store is the only one that counts.
func (s *Store) take(c *tierlimit.Charge, replicas int64) (tierlimit.Outcome, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Outcome{}, err
	}
	for {
		o, full := s.tryTake(c, replicas)
		if !full {
			return o, nil
		}
		if !s.sweepAll() {
			return tierlimit.Outcome{}, fmt.Errorf("memstore is full, it holds %d subjects: %w", s.held.Load(), tierlimit.ErrStoreUnavailable)
		}
	}
}

func (s *Store) tryTake(c *tierlimit.Charge, replicas int64) (o tierlimit.Outcome, full bool) {
	sh := s.shard(c.Subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now().UnixMilli() // under the lock: time does not run backwards between charges
	s.sweepIfDue(sh, now)
	rec := sh.records[c.Subject]
	known := rec != nil
	if !known {
		rec = &record{unknown: c.Unknown}
	} else {
		s.recognise(rec, c.Unknown)
		rec.expire(now)
	}
	n := c.Ceilings.Len()
	o = tierlimit.Outcome{Allowed: true, Counts: make([]tierlimit.Count, n), Source: tierlimit.SourceMemory, At: now}
	if replicas > 0 {
		o.Maxes = make([]int64, n)
	}
	var windows [tierlimit.MaxLimits]counted
	for i := range n {
		spec, most, cost := c.Ceilings.Spec(i), c.Ceilings.Max(i), c.CostOf(i)
		var own int64 // the part of Used that this process granted by itself
		if spec.Kind == window.Concurrent {
			o.Counts[i].State = rec.placesOf(c.Ceilings.Name(i), now)
			if own = o.Counts[i].Used; replicas > 0 {
				o.Counts[i].Used += rec.placesSeen(c.Ceilings.Name(i), now)
			}
		} else {
			windows[i] = rec.find(c.Ceilings.Name(i), spec, now)
			o.Counts[i].State = spec.State(windows[i].Stored, now)
			own = windows[i].own
		}
		if replicas > 0 {
			most = share(most, o.Counts[i].Used-own, replicas)
			o.Maxes[i] = most
		}
		if most != tierlimit.Unlimited && o.Counts[i].Used+cost > most && (cost > 0 || c.Cost == 0) {
			o.Allowed = false
		}
	}
	if c.Cost > 0 && c.Hold != nil && len(rec.holds) >= s.holds {
		o.Allowed, o.TooManyHolds = false, true
	}
	switch {
	case c.Cost == 0:
	case !o.Allowed:
		for i := range n {
			rec.shorten(c.Ceilings.Name(i), c.Ceilings.Spec(i), now)
		}
	case !known && !s.admit(sh, c.Subject, rec):
		return o, true
	default:
		rec.charge(c, windows[:n], now)
		if c.Hold != nil {
			rec.open(c, windows[:n], now, replicas > 0)
		}
		for i := range n {
			if spec := c.Ceilings.Spec(i); spec.Kind == window.Concurrent {
				o.Counts[i].State = rec.placesOf(c.Ceilings.Name(i), now)
				if replicas > 0 {
					o.Counts[i].Used += rec.placesSeen(c.Ceilings.Name(i), now)
				}
			} else if c.Begins(i) {
				o.Counts[i] = tierlimit.Count{State: spec.State(windows[i].Stored, now), Began: o.Counts[i].End == 0}
			}
		}
	}
	if c.CountsHolds() {
		first := int64(0)
		for i := range n {
			o.Counts[i].Held, _, first = rec.held(c.Ceilings.Name(i), windows[i].End)
		}
		o.FirstExpiry = max(first-now, 0)
	}
	return o, false
}

// placesOf returns the state of a concurrent limit: its Used is the number of open holds.
func (r *record) placesOf(limit string, now int64) (s window.State) {
	_, places, first := r.held(limit, 0)
	if s.Used = places; first > now {
		s.Reset = first - now
	}
	return s
}

// charge adds the costs of c to windows and stores the windows in r.
func (r *record) charge(c *tierlimit.Charge, windows []counted, now int64) {
	r.dropEnded(now)
	for i := range windows {
		w, cost := &windows[i], c.CostOf(i)
		if c.Ceilings.Spec(i).Kind == window.Concurrent {
			continue
		}
		if !c.Begins(i) {
			r.shorten(c.Ceilings.Name(i), c.Ceilings.Spec(i), now)
			continue
		}
		w.limit, w.own = c.Ceilings.Name(i), w.own+cost
		w.Stored = c.Ceilings.Spec(i).Charge(w.Stored, cost, now)
		r.put(*w)
	}
}

// share returns the max that one of several replicas holds a window to: what the store
// had counted, and an equal part of what was left then, which is at least 1 if anything
// was left.
func share(most, seen, replicas int64) int64 {
	if most == tierlimit.Unlimited || seen >= most {
		return most
	}
	return seen + max(1, (most-seen)/replicas)
}

// Saw implements tierlimit.LocalStore. For a subject that finds no room nothing is kept.
func (s *Store) Saw(c tierlimit.Charge, o tierlimit.Outcome) {
	if full := s.trySaw(&c, &o); full && s.sweepAll() {
		s.trySaw(&c, &o)
	}
}

func (s *Store) trySaw(c *tierlimit.Charge, o *tierlimit.Outcome) (full bool) {
	sh := s.shard(c.Subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now().UnixMilli()
	s.sweepIfDue(sh, now)
	rec := sh.records[c.Subject]
	if rec == nil {
		rec = &record{unknown: c.Unknown}
		if !s.admit(sh, c.Subject, rec) {
			return true
		}
	}
	s.recognise(rec, c.Unknown)
	for i := range o.Counts {
		if c.Ceilings.Spec(i).Kind == window.Concurrent {
			rec.seePlaces(c.Ceilings.Name(i), &o.Counts[i].State, o.At, now)
			continue
		}
		rec.see(c.Ceilings.Name(i), storedOf(c.Ceilings.Spec(i), &o.Counts[i].State, now), o.At, now)
	}
	return false
}

// storedOf returns the stored window whose state at now is state. now is a time of this
// store's clock, in milliseconds since the epoch.
func storedOf(spec window.Spec, state *window.State, now int64) window.Stored {
	switch {
	case state.End == 0:
		return window.Stored{}
	case spec.Kind == window.Sliding:
		turns := now + state.Turn
		return window.Stored{Used: state.Since, End: turns + spec.Length, Previous: state.Previous, PreviousEnd: turns}
	}
	return window.Stored{Used: state.Used, End: now + state.Reset}
}

// Reset implements tierlimit.Store.
func (s *Store) Reset(_ context.Context, subject string, limits ...string) error {
	sh := s.shard(subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.records[subject]
	if rec == nil {
		return nil
	}
	now := s.now().UnixMilli()
	rec.expire(now)
	rec.forget(limits)
	if rec.ended(now) {
		s.remove(sh, subject, rec)
	}
	return nil
}

// Subjects returns how many subjects the store holds now, those included whose windows
// have ended but which are not swept yet.
func (s *Store) Subjects() int { return int(s.held.Load()) }

func (s *Store) shard(subject string) *shard {
	return &s.shards[maphash.String(s.seed, subject)%uint64(len(s.shards))]
}

// admit gives a new subject a place, and reports whether there was one. The shard's mu
// is held.
func (s *Store) admit(sh *shard, subject string, rec *record) bool {
	if s.held.Add(1) > s.most {
		s.held.Add(-1)
		return false
	}
	if rec.unknown && s.unknown.Add(1) > max(1, s.most/2) {
		s.unknown.Add(-1)
		s.held.Add(-1)
		return false
	}
	sh.records[subject] = rec
	return true
}

// recognise notes that a subject turned out to be a customer. The shard's mu is held.
func (s *Store) recognise(rec *record, unknown bool) {
	if rec.unknown && !unknown {
		rec.unknown = false
		s.unknown.Add(-1)
	}
}

// remove gives a place back. The shard's mu is held.
func (s *Store) remove(sh *shard, subject string, rec *record) {
	delete(sh.records, subject)
	s.held.Add(-1)
	if rec.unknown {
		s.unknown.Add(-1)
	}
}

// A sweep visits a whole shard. It runs when the shard has doubled since the last one,
// which makes it O(1) for each new subject, and after sweepEvery, so that a burst's
// memory does not stay for good.
const (
	sweepEvery   = time.Minute
	minSweepSize = 1024
)

func (s *Store) sweepIfDue(sh *shard, now int64) {
	age := now - sh.sweptAt
	clockSteppedBack := age < 0
	if len(sh.records) >= max(sh.sweepSize, minSweepSize) || age >= sweepEvery.Milliseconds() || clockSteppedBack {
		s.sweep(sh, now)
	}
}

func (s *Store) sweep(sh *shard, now int64) {
	held := len(sh.records)
	for subject, rec := range sh.records {
		if rec.ended(now) {
			s.remove(sh, subject, rec)
		}
	}
	if held > minSweepSize && len(sh.records) < held/4 {
		live := make(map[string]*record, len(sh.records)) // a map keeps the room it once had
		maps.Copy(live, sh.records)
		sh.records = live
	}
	sh.sweepSize = 2 * len(sh.records)
	sh.sweptAt = now
}

// sweepAll looks for subjects that have ended in all shards, at most once a second: a
// flood of new names costs a look-up each and not a sweep. It reports whether it found
// room.
func (s *Store) sweepAll() bool {
	now := s.now().UnixMilli()
	last := s.swept.Load()
	age := now - last
	if age >= 0 && age < time.Second.Milliseconds() || !s.swept.CompareAndSwap(last, now) {
		return false
	}
	before := s.held.Load()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.sweep(sh, now)
		sh.mu.Unlock()
	}
	return s.held.Load() < before
}
