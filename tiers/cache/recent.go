package cache

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
)

// recent holds values by id, as many as it was made for and up to a fifth more, and drops
// those that were not read for the longest (the CLOCK algorithm: an entry that was read
// since the hand last passed it is spared once). Reads of different ids hardly ever meet,
// as they share no lock. It is safe for concurrent use.
type recent[T any] struct {
	seed   maphash.Seed
	shards []recentShard[T]
}

type recentShard[T any] struct {
	mu      sync.RWMutex
	most    int
	entries map[string]*recentEntry[T] // guarded by mu
	ring    []*recentEntry[T]          // guarded by mu: all entries by place; nil at free places
	free    []int32                    // guarded by mu: places of removed entries
	hand    int32                      // guarded by mu
	_       [32]byte                   // no two shards in one cache line
}

type recentEntry[T any] struct {
	id    string
	value T           // guarded by the shard's mu
	place int32       // in the ring
	read  atomic.Bool // since the hand last passed
}

const (
	maxRecentShards = 256
	minShardSize    = 1024 // below that the shards would fill too unevenly
)

func newRecent[T any](size int) *recent[T] {
	n := 1
	for n < maxRecentShards && size/(2*n) >= minShardSize {
		n *= 2
	}
	r := &recent[T]{seed: maphash.MakeSeed(), shards: make([]recentShard[T], n)}
	for i := range r.shards {
		r.shards[i].most = placesOf(size, n)
		r.shards[i].entries = make(map[string]*recentEntry[T])
	}
	return r
}

// placesOf returns how many ids one of n shards may hold, so that size ids find room in all
// of them together: hashes fill shards unevenly, by a few standard deviations.
func placesOf(size, n int) int {
	if n == 1 {
		return size
	}
	mean := float64(size) / float64(n)
	return int(mean + 6*math.Sqrt(mean) + 1)
}

func (r *recent[T]) shard(id string) *recentShard[T] {
	return &r.shards[maphash.String(r.seed, id)%uint64(len(r.shards))]
}

// get returns the value of id, and spares it.
func (r *recent[T]) get(id string) (value T, ok bool) {
	s := r.shard(id)
	s.mu.RLock()
	e := s.entries[id]
	if e != nil {
		value = e.value
	}
	s.mu.RUnlock()
	if e == nil {
		return value, false
	}
	if !e.read.Load() { // else its cache line need not be written
		e.read.Store(true)
	}
	return value, true
}

// peek returns the value of id.
func (r *recent[T]) peek(id string) (value T, ok bool) {
	s := r.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[id]; e != nil {
		return e.value, true
	}
	return value, false
}

// add gives id a value, and drops another id where there are too many.
func (r *recent[T]) add(id string, value T) {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		e.value = value
		return
	}
	place, free := s.place()
	for ; !free; s.hand = (s.hand + 1) % int32(len(s.ring)) { //nolint:gosec // a shard has far fewer
		old := s.ring[s.hand]
		if !old.read.CompareAndSwap(true, false) {
			delete(s.entries, old.id)
			place, free = s.hand, true
		}
	}
	s.put(id, value, place)
}

// offer adds id with a value if id is missing and there is room.
func (r *recent[T]) offer(id string, value T) {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[id] != nil {
		return
	}
	if place, free := s.place(); free {
		s.put(id, value, place)
	}
}

// place returns a free place in the ring, if any. mu must be held.
func (s *recentShard[T]) place() (place int32, free bool) {
	if n := len(s.free); n > 0 {
		place, s.free = s.free[n-1], s.free[:n-1]
		return place, true
	}
	if len(s.ring) < s.most {
		s.ring = append(s.ring, nil)
		return int32(len(s.ring) - 1), true //nolint:gosec // a shard has far fewer
	}
	return 0, false
}

// put stores a new entry at place. mu must be held.
func (s *recentShard[T]) put(id string, value T, place int32) {
	e := &recentEntry[T]{id: id, value: value, place: place}
	s.entries[id], s.ring[place] = e, e
}

func (r *recent[T]) remove(id string) {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		delete(s.entries, id)
		s.ring[e.place] = nil
		s.free = append(s.free, e.place)
	}
}

func (r *recent[T]) purge() {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		clear(s.entries)
		s.ring, s.free, s.hand = nil, nil, 0
		s.mu.Unlock()
	}
}
