package cache

import (
	"context"
	"sync/atomic"
)

// A shelf holds the cached items of one kind: all items or the most recently requested ones,
// and the ids that are known not to exist. Reads need no lock; the Cache's mu guards
// changes.
type shelf[T item] struct {
	known  atomic.Pointer[recent[T]]
	nobody *recent[int64] // and as of which version; apart, so that made-up ids evict nothing real
	lookups[T]
}

// An item has an id and a version. The nil pointer stands for nobody.
type item interface {
	comparable
	ID() string
	Version() int64
}

func newShelf[T item](size int) *shelf[T] {
	s := &shelf[T]{nobody: newRecent[int64](min(size, maxNobody))}
	s.known.Store(newRecent[T](size))
	return s
}

// maxNobody is the maximum number of cached ids that do not exist.
const maxNobody = 100_000

// hold replaces all items by all.
func (s *shelf[T]) hold(all *recent[T]) {
	s.known.Store(all)
	s.nobody.purge()
}

// get returns the item of id, and whether the shelf knows id. The item is the zero T if the
// shelf knows that id belongs to nobody.
func (s *shelf[T]) get(id string) (one T, ok bool) {
	if one, ok = s.known.Load().get(id); ok {
		return one, true
	}
	_, ok = s.nobody.get(id)
	return one, ok
}

// keep holds what a look-up of ids found at a version.
func (s *shelf[T]) keep(ids []string, found map[string]T, version int64) {
	for _, id := range ids {
		if one, ok := found[id]; ok {
			s.known.Load().add(id, one)
			s.nobody.remove(id)
		} else {
			s.nobody.add(id, version)
			s.known.Load().remove(id)
		}
	}
}

// replace updates an item. An item that is not cached is added only if there is room.
func (s *shelf[T]) replace(one T) {
	if gone, ok := s.nobody.peek(one.ID()); ok {
		if gone < one.Version() { // else it is from before it went
			s.nobody.remove(one.ID())
			s.known.Load().add(one.ID(), one)
		}
		return
	}
	known := s.known.Load()
	if old, ok := known.peek(one.ID()); !ok {
		known.offer(one.ID(), one)
	} else if old.Version() < one.Version() {
		known.add(one.ID(), one)
	}
}

// remove notes that id was nobody's at version.
func (s *shelf[T]) remove(id string, version int64) {
	if old, ok := s.known.Load().peek(id); ok && old.Version() < version {
		s.known.Load().remove(id)
		s.nobody.add(id, version)
	}
}

// begin starts answering what is not held, by query, until ctx ends. The answers
// are kept by c unless a change that is already applied came after they were
// read: then it asks again, and the second time answers without keeping, so that
// a stream of changes starves nobody.
func (s *shelf[T]) begin(ctx context.Context, c *Cache, query func(context.Context, []string) ([]T, int64, error)) {
	s.start(ctx, func(ctx context.Context, ids []string) (found map[string]T, err error) {
		for range 2 {
			history := c.inHistory()
			list, version, err := query(ctx, ids)
			if err != nil {
				return nil, err
			}
			found = make(map[string]T, len(list))
			for _, one := range list {
				found[one.ID()] = one
			}
			if c.unlessChanged(version, history, func() { s.keep(ids, found, version) }) {
				break
			}
		}
		return found, nil
	})
}
