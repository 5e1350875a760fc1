// Package memstore counts charges in the memory of one process.
//
// It is for programs that run as a single process, for development and tests,
// and for the failure policy "local". It is not for replicas that share a
// quota: each would grant the whole of it; use redisstore.
package memstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	Now         func() time.Time // the clock; default time.Now
	MaxSubjects int              // most subjects held at once, kept to within a few in a hundred; default 1,000,000
}

// DefaultMaxSubjects is how many subjects a Store holds unless told otherwise:
// about 200 MB with two windows each.
const DefaultMaxSubjects = 1_000_000

// A Store keeps counters in memory. Its memory is bounded: subjects whose
// windows have all ended are swept, and when MaxSubjects live ones are held a
// new subject gets ErrStoreUnavailable rather than somebody else's place.
type Store struct {
	now      func() time.Time
	perShard int // most subjects in one shard
	seed     maphash.Seed
	shards   [shardCount]shard
}

const shardCount = 64

type shard struct {
	mu        sync.Mutex
	records   map[string]*record // guarded by mu
	sweepSize int                // guarded by mu: sweep when this many records are held
	sweptAt   int64              // guarded by mu: epoch milliseconds of the last sweep
}

// New returns an empty Store.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxSubjects <= 0 {
		cfg.MaxSubjects = DefaultMaxSubjects
	}
	s := &Store{
		now:      cfg.Now,
		perShard: (cfg.MaxSubjects + shardCount - 1) / shardCount,
		seed:     maphash.MakeSeed(),
	}
	for i := range s.shards {
		s.shards[i].records = make(map[string]*record)
	}
	return s
}

// Take implements tierlimit.Store.
func (s *Store) Take(_ context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Outcome{}, err
	}
	sh := s.shard(c.Subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()

	now := s.now() // under the lock: time does not run backwards between charges
	sh.sweepIfDue(now.UnixMilli())
	rec, known := sh.records[c.Subject]
	if !known {
		rec = &record{}
	}
	outcome := tierlimit.Outcome{Allowed: true, Counts: c.Room(), Source: tierlimit.SourceMemory, At: now.UnixMilli()}
	var views [tierlimit.MaxLimits]view
	for i := range c.Ceilings {
		ceiling := &c.Ceilings[i]
		views[i] = rec.look(ceiling, now)
		outcome.Counts[i] = views[i].count(ceiling, now)
		if ceiling.Max != tierlimit.Unlimited && outcome.Counts[i].Used+c.Cost > ceiling.Max {
			outcome.Allowed = false
		}
	}
	if !outcome.Allowed || c.Cost == 0 {
		return outcome, nil
	}
	if !known {
		if err := s.admit(sh, c.Subject, rec, now.UnixMilli()); err != nil {
			return tierlimit.Outcome{}, err
		}
	}
	rec.dropEnded(now.UnixMilli())
	for i := range c.Ceilings {
		began := views[i].end == 0
		rec.charge(&c.Ceilings[i], c.Cost, &views[i], now)
		outcome.Counts[i] = views[i].count(&c.Ceilings[i], now)
		outcome.Counts[i].Began = began
	}
	return outcome, nil
}

// Refund implements tierlimit.Store.
func (s *Store) Refund(_ context.Context, r tierlimit.Refund) (bool, error) {
	if err := r.Validate(); err != nil {
		return false, err
	}
	sh := s.shard(r.Subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec, known := sh.records[r.Subject]
	return known && rec.refund(&r, s.now().UnixMilli()), nil
}

// Reset implements tierlimit.Store.
func (s *Store) Reset(_ context.Context, subject string, limits ...string) error {
	sh := s.shard(subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec, known := sh.records[subject]
	if !known {
		return nil
	}
	nowMS := s.now().UnixMilli()
	rec.forget(limits, nowMS)
	if rec.ended(nowMS) {
		delete(sh.records, subject)
	}
	return nil
}

// Subjects returns how many subjects the store holds now, those included whose
// windows have ended but which are not swept yet.
func (s *Store) Subjects() int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += len(sh.records)
		sh.mu.Unlock()
	}
	return n
}

func (s *Store) shard(subject string) *shard {
	return &s.shards[maphash.String(s.seed, subject)%uint64(len(s.shards))]
}

// admit makes room for a new subject. In a full shard it looks for ended
// subjects at most once a second, so that a flood of new names costs a look-up
// each and not a sweep.
func (s *Store) admit(sh *shard, subject string, rec *record, nowMS int64) error {
	if len(sh.records) >= s.perShard && nowMS-sh.sweptAt >= time.Second.Milliseconds() {
		sh.sweep(nowMS)
	}
	if len(sh.records) >= s.perShard {
		return fmt.Errorf("memstore is full, %d subjects in each of %d shards: %w",
			s.perShard, shardCount, tierlimit.ErrStoreUnavailable)
	}
	sh.records[subject] = rec
	return nil
}

// A sweep visits a whole shard. It runs when the shard has doubled since the
// last one, which makes it O(1) for each new subject, and after sweepEvery, so
// that a burst's memory does not stay for good.
const (
	sweepEvery   = time.Minute
	minSweepSize = 1024
)

func (sh *shard) sweepIfDue(nowMS int64) {
	age := nowMS - sh.sweptAt
	clockSteppedBack := age < 0
	if len(sh.records) >= max(sh.sweepSize, minSweepSize) || age >= sweepEvery.Milliseconds() || clockSteppedBack {
		sh.sweep(nowMS)
	}
}

func (sh *shard) sweep(nowMS int64) {
	held := len(sh.records)
	for subject, rec := range sh.records {
		if rec.ended(nowMS) {
			delete(sh.records, subject)
		}
	}
	if held > minSweepSize && len(sh.records) < held/4 {
		live := make(map[string]*record, len(sh.records)) // a map keeps the room it once had
		maps.Copy(live, sh.records)
		sh.records = live
	}
	sh.sweepSize = 2 * len(sh.records)
	sh.sweptAt = nowMS
}
