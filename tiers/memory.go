package tiers

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// Memory is a catalogue and a resolver in one process. It is safe for
// concurrent use, and a change acts on the next decision.
type Memory struct {
	mu          sync.RWMutex
	set         *set                   // guarded by mu
	subjects    map[string]*resident   // guarded by mu
	credentials map[string]*credential // guarded by mu
	control     LoadControl            // guarded by mu
	version     int64                  // guarded by mu: the last one given out
	events      []Event                // guarded by mu: the last of them
	file        string                 // where all that is kept; "" nowhere
}

var (
	_ Catalogue          = (*Memory)(nil)
	_ tierlimit.Resolver = (*Memory)(nil)
)

// NewMemory returns a catalogue that begins with these tiers.
func NewMemory(list []Tier) (*Memory, error) {
	m := newMemory()
	list = slices.Clone(list)
	for i := range list {
		m.version++
		list[i] = list[i].clone()
		list[i].Version = m.version
	}
	var err error
	m.set, err = newSet(list)
	return m, err
}

func newMemory() *Memory {
	return &Memory{subjects: make(map[string]*resident), credentials: make(map[string]*credential)}
}

// Resolve implements tierlimit.Resolver.
func (m *Memory) Resolve(_ context.Context, subject string, _ time.Time) (*tierlimit.Plan, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.subjects[subject]; r != nil {
		return r.plan(m.set)
	}
	return m.set.plan(""), nil
}

// A delta is what one change puts in the place of what is there.
type delta struct {
	set         *set                   // nil: as it is
	control     *LoadControl           // nil: as it is
	subjects    map[string]*resident   // nil under an id: gone
	credentials map[string]*credential // nil under an id: gone
	version     int64
}

// commit makes a change together with its event, or neither: where it is only to
// be tried, where it was made before, or where it cannot be kept. It is called
// with mu held.
func (m *Memory) commit(ctx context.Context, d delta, e Event) error {
	if m.attempted(&e) {
		return ErrRepeated
	}
	if dry := DryRunOf(ctx); dry != nil {
		*dry = e
		return nil
	}
	events := m.events
	was := m.put(d)
	m.log(e)
	if err := m.save(); err != nil {
		m.put(was)
		m.events = events
		return err
	}
	return nil
}

// put puts d in force and returns how to undo that.
func (m *Memory) put(d delta) (was delta) {
	was.version, m.version = m.version, d.version
	if d.set != nil {
		was.set, m.set = m.set, d.set
	}
	if d.control != nil {
		control := m.control
		was.control, m.control = &control, *d.control
	}
	was.subjects = swap(m.subjects, d.subjects)
	was.credentials = swap(m.credentials, d.credentials)
	return was
}

// swap puts what comes into all, and returns what was there.
func swap[T any](all, comes map[string]*T) (old map[string]*T) {
	old = make(map[string]*T, len(comes))
	for id, one := range comes {
		old[id] = all[id]
		if one == nil {
			delete(all, id)
		} else {
			all[id] = one
		}
	}
	return old
}

// maxEvents is how many events a catalogue in memory keeps.
const maxEvents = 1000

// log adds an event. It is called with mu held.
func (m *Memory) log(e Event) {
	e.ID, e.At = 1, timestamp.Round(time.Now())
	if n := len(m.events); n > 0 {
		e.ID = m.events[n-1].ID + 1
	}
	kept := m.events[max(0, len(m.events)-maxEvents+1):]
	m.events = append(slices.Clone(kept), e)
}

// attempted reports whether there is an event of e's attempt.
func (m *Memory) attempted(e *Event) bool {
	return e.Attempt.Key != "" && slices.ContainsFunc(m.events, func(old Event) bool {
		return old.Attempt.Key == e.Attempt.Key
	})
}

// Events implements Catalogue. A catalogue in memory keeps the last thousand.
func (m *Memory) Events(_ context.Context, f EventFilter) ([]Event, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Event
	for i := len(m.events) - 1; i >= 0 && len(list) < f.Most; i-- {
		if f.chooses(&m.events[i]) {
			list = append(list, m.events[i])
		}
	}
	return list, nil
}

// Record implements Catalogue.
func (m *Memory) Record(ctx context.Context, e Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Actor = ActorOf(ctx)
	return m.commit(ctx, delta{version: m.version}, e)
}

// LoadControl implements Catalogue.
func (m *Memory) LoadControl(context.Context) (LoadControl, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.control.clone(), nil
}

// SetLoadControl implements Catalogue.
func (m *Memory) SetLoadControl(ctx context.Context, l LoadControl, version int64) (LoadControl, error) {
	l = l.clone()
	if err := l.Validate(); err != nil {
		return LoadControl{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.control.clone()
	if old.Version != version {
		return LoadControl{}, LoadControlError(ErrStale)
	}
	if err := l.KnownTo(func(key string) bool { _, was := old.Pins[key]; return was || m.set.has(key) }); err != nil {
		return LoadControl{}, err
	}
	l.Version = m.version + 1
	e, err := NewEvent(ctx, KindLoad, KindLoad, "", old, l)
	if err != nil {
		return LoadControl{}, err
	}
	return l.clone(), m.commit(ctx, delta{version: l.Version, control: &l}, e)
}
