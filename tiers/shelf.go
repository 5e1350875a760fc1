package tiers

import "context"

// A shelf is what a Cache holds of one kind of thing: what was requested lately, and
// the ids that turned out to be nobody's. Reads need no lock; the Cache guards changes.
type shelf[T item] struct {
	known  *recent[T]
	nobody *recent[int64] // and as of which version; apart, so that made-up ids evict nothing real
	lookups[T]
}

// An item has an id and a version. The nil pointer stands for nobody.
type item interface {
	comparable
	key() string
	version() int64
}

func newShelf[T item](size int) *shelf[T] {
	return &shelf[T]{known: newRecent[T](size), nobody: newRecent[int64](size)}
}

// get returns the item of id, and whether the shelf knows id. The item is the zero T if the
// shelf knows that id belongs to nobody.
func (s *shelf[T]) get(id string) (one T, ok bool) {
	if one, ok = s.known.get(id); ok {
		return one, true
	}
	_, ok = s.nobody.get(id)
	return one, ok
}

// keep holds what a look-up of ids found at a version.
func (s *shelf[T]) keep(ids []string, found map[string]T, version int64) {
	for _, id := range ids {
		if one, ok := found[id]; ok {
			s.known.add(id, one)
			s.nobody.remove(id)
		} else {
			s.nobody.add(id, version)
			s.known.remove(id)
		}
	}
}

// replace takes a newer value. Ids that were never requested are not held.
func (s *shelf[T]) replace(one T) {
	if gone, ok := s.nobody.peek(one.key()); ok {
		if gone < one.version() { // else it is from before it went
			s.nobody.remove(one.key())
			s.known.add(one.key(), one)
		}
	} else if old, ok := s.known.peek(one.key()); ok && old.version() < one.version() {
		s.known.add(one.key(), one)
	}
}

// remove notes that id was nobody's at version.
func (s *shelf[T]) remove(id string, version int64) {
	if old, ok := s.known.peek(id); ok && old.version() < version {
		s.known.remove(id)
		s.nobody.add(id, version)
	}
}

func (s *shelf[T]) purge() {
	s.known.purge()
	s.nobody.purge()
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
				found[one.key()] = one
			}
			if c.unlessChanged(version, history, func() { s.keep(ids, found, version) }) {
				break
			}
		}
		return found, nil
	})
}
