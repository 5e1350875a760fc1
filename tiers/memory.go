package tiers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// Memory is a catalogue and a resolver in one process. It is safe for
// concurrent use, and a change acts on the next decision.
type Memory struct {
	mu       sync.RWMutex
	set      *set                 // guarded by mu
	subjects map[string]*resident // guarded by mu
	version  int64                // guarded by mu: the last one given out
	events   []Event              // guarded by mu: the last of them
	file     string               // where state is kept; "" nowhere
}

var (
	_ Catalogue          = (*Memory)(nil)
	_ tierlimit.Resolver = (*Memory)(nil)
	_ tierlimit.Holder   = (*Memory)(nil)
)

// NewMemory returns a catalogue that begins with these tiers.
func NewMemory(list []Tier) (*Memory, error) {
	m := &Memory{subjects: make(map[string]*resident)}
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

// Resolve implements tierlimit.Resolver.
func (m *Memory) Resolve(_ context.Context, subject string) (*tierlimit.Plan, error) {
	plan, _ := m.Held(subject)
	return plan, nil
}

// Held implements tierlimit.Holder: it always has a plan.
func (m *Memory) Held(subject string) (*tierlimit.Plan, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.subjects[subject]; r != nil {
		return r.plan(m.set), true
	}
	return m.set.plan(""), true
}

// Tiers implements Catalogue.
func (m *Memory) Tiers(context.Context) ([]Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.set.list(), nil
}

// Tier implements Catalogue.
func (m *Memory) Tier(_ context.Context, key string) (Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tier(key)
}

// CreateTier implements Catalogue.
func (m *Memory) CreateTier(ctx context.Context, t Tier) (Tier, error) {
	t.Normalize()
	if err := t.Validate(); err != nil {
		return Tier{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set.byKey[t.Key] != nil {
		return Tier{}, TierError(t.Key, ErrExists)
	}
	return m.putTier(ctx, t, nil)
}

// ReplaceTier implements Catalogue.
func (m *Memory) ReplaceTier(ctx context.Context, t Tier, version int64) (Tier, error) {
	t.Normalize()
	if err := t.Validate(); err != nil {
		return Tier{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.tierAt(t.Key, version)
	if err != nil {
		return Tier{}, err
	}
	if old.Default && !t.Default {
		return Tier{}, StillDefaultError(t.Key)
	}
	return m.putTier(ctx, t, old)
}

// DeleteTier implements Catalogue.
func (m *Memory) DeleteTier(ctx context.Context, key string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.tierAt(key, version)
	if err != nil {
		return err
	}
	if old.Default {
		return StillDefaultError(key)
	}
	due := make(map[string]*resident) // what has come by itself names the tier no more
	for id, r := range m.subjects {
		if slices.Contains(slices.Collect(maps.Values(r.Tiers())), key) {
			now := r.AsOf(time.Now())
			if slices.Contains(slices.Collect(maps.Values(now.Tiers())), key) {
				return InUseError(key, id)
			}
			now.Version = m.version + 1
			due[id] = &resident{Subject: now}
		}
	}
	maps.Copy(m.subjects, due)
	rest := slices.DeleteFunc(slices.Clone(m.set.tiers), func(t Tier) bool { return t.Key == key })
	e, err := NewEvent(ctx, KindTier, key, "", old, nil)
	if err != nil {
		return err
	}
	return m.setTiers(rest, m.version+1, e)
}

// Subjects implements Catalogue.
func (m *Memory) Subjects(_ context.Context, after string, most int) ([]Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Subject
	for _, s := range m.subjects {
		if s.ID > after {
			list = append(list, s.clone())
		}
	}
	slices.SortFunc(list, func(a, b Subject) int { return strings.Compare(a.ID, b.ID) })
	return list[:min(most, len(list))], nil
}

// Subject implements Catalogue.
func (m *Memory) Subject(_ context.Context, id string) (Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.subject(id)
}

// CreateSubject implements Catalogue.
func (m *Memory) CreateSubject(ctx context.Context, s Subject) (Subject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.subjects[s.ID]; ok {
		return Subject{}, SubjectError(s.ID, ErrExists)
	}
	s.Overrides = nil
	return m.putSubject(ctx, s, nil)
}

// ReplaceSubject implements Catalogue.
func (m *Memory) ReplaceSubject(ctx context.Context, s Subject, version int64) (Subject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.subjectAt(s.ID, version)
	if err != nil {
		return Subject{}, err
	}
	s.Overrides = old.Overrides
	return m.putSubject(ctx, s, old)
}

// DeleteSubject implements Catalogue.
func (m *Memory) DeleteSubject(ctx context.Context, id string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.subjectAt(id, version)
	if err != nil {
		return err
	}
	e, err := NewEvent(ctx, KindSubject, id, "", old, nil)
	if err != nil {
		return err
	}
	return m.setSubject(id, nil, e)
}

// Overrides implements Catalogue.
func (m *Memory) Overrides(_ context.Context, subject string) ([]Override, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, err := m.subject(subject)
	list := slices.Collect(maps.Values(s.Overrides))
	slices.SortFunc(list, func(a, b Override) int { return strings.Compare(a.Limit, b.Limit) })
	return list, err
}

// Override implements Catalogue.
func (m *Memory) Override(_ context.Context, subject, limit string) (Override, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, err := m.subject(subject)
	if err != nil {
		return Override{}, err
	}
	o, ok := s.Overrides[limit]
	if !ok {
		err = OverrideError(subject, limit, ErrNotFound)
	}
	return o, err
}

// CreateOverride implements Catalogue.
func (m *Memory) CreateOverride(ctx context.Context, subject string, o Override) (Override, error) {
	return m.putOverride(ctx, subject, o, func(_ Override, exists bool) error {
		if exists {
			return ErrExists
		}
		return nil
	})
}

// ReplaceOverride implements Catalogue.
func (m *Memory) ReplaceOverride(ctx context.Context, subject string, o Override, version int64) (Override, error) {
	return m.putOverride(ctx, subject, o, versionIs(version))
}

// DeleteOverride implements Catalogue.
func (m *Memory) DeleteOverride(ctx context.Context, subject, limit string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changeOverride(ctx, subject, limit, versionIs(version), nil)
}

func versionIs(version int64) func(Override, bool) error {
	return func(old Override, exists bool) error {
		switch {
		case !exists:
			return ErrNotFound
		case old.Version != version:
			return ErrStale
		default:
			return nil
		}
	}
}

func (m *Memory) putOverride(ctx context.Context, subject string, o Override, check func(old Override, exists bool) error) (Override, error) {
	o.Normalize()
	if err := o.Validate(); err != nil {
		return Override{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o.Version = m.version + 1
	return o, m.changeOverride(ctx, subject, o.Limit, check, &o)
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
	events := m.events
	err := m.record(e)
	if err != nil {
		m.events = events
	}
	return err
}

// maxEvents is how many events a catalogue in memory keeps.
const maxEvents = 1000

// What follows is called with mu held.

func (m *Memory) tier(key string) (Tier, error) {
	for _, t := range m.set.tiers {
		if t.Key == key {
			return t.clone(), nil
		}
	}
	return Tier{}, TierError(key, ErrNotFound)
}

func (m *Memory) tierAt(key string, version int64) (Tier, error) {
	t, err := m.tier(key)
	if err == nil && t.Version != version {
		err = TierError(key, ErrStale)
	}
	return t, err
}

func (m *Memory) subject(id string) (Subject, error) {
	r := m.subjects[id]
	if r == nil {
		return Subject{}, SubjectError(id, ErrNotFound)
	}
	return r.clone(), nil
}

func (m *Memory) subjectAt(id string, version int64) (Subject, error) {
	s, err := m.subject(id)
	if err == nil && s.Version != version {
		err = SubjectError(id, ErrStale)
	}
	return s, err
}

func (m *Memory) putTier(ctx context.Context, t Tier, old any) (Tier, error) {
	version := m.version
	list := slices.DeleteFunc(slices.Clone(m.set.tiers), func(old Tier) bool { return old.Key == t.Key })
	for i := range list {
		if t.Default && list[i].Default {
			version++
			list[i].Default, list[i].Version = false, version
		}
	}
	t = t.clone()
	t.Version = version + 1
	e, err := NewEvent(ctx, KindTier, t.Key, "", old, t)
	if err != nil {
		return Tier{}, err
	}
	if err := m.setTiers(append(list, t), t.Version, e); err != nil {
		return Tier{}, err
	}
	return t.clone(), nil
}

// setTiers puts tiers in force once they are kept where they should be kept.
func (m *Memory) setTiers(list []Tier, version int64, e Event) error {
	next, err := newSet(list)
	if err != nil {
		return err
	}
	set, was, events := m.set, m.version, m.events
	m.set, m.version = next, version
	if err := m.record(e); err != nil {
		m.set, m.version, m.events = set, was, events
		return err
	}
	return nil
}

func (m *Memory) putSubject(ctx context.Context, s Subject, old any) (Subject, error) {
	s = s.clone()
	if err := s.Validate(); err != nil {
		return Subject{}, err
	}
	if err := m.tiersOf(&s); err != nil {
		return Subject{}, err
	}
	s.Version = m.version + 1
	e, err := NewEvent(ctx, KindSubject, s.ID, "", old, s)
	if err != nil {
		return Subject{}, err
	}
	return s, m.setSubject(s.ID, &resident{Subject: s.clone()}, e)
}

// record adds an event and keeps all there is where it should be kept.
func (m *Memory) record(e Event) error {
	e.ID, e.At = 1, roundTime(time.Now())
	if n := len(m.events); n > 0 {
		e.ID = m.events[n-1].ID + 1
	}
	kept := m.events[max(0, len(m.events)-maxEvents+1):]
	m.events = append(slices.Clone(kept), e)
	return m.save()
}

// tiersOf reports each tier that s names and that is not there.
func (m *Memory) tiersOf(s *Subject) error {
	var errs []error
	for field, key := range s.Tiers() {
		if m.set.byKey[key] == nil {
			errs = append(errs, UnknownTierError(field, key))
		}
	}
	return errors.Join(errs...)
}

// setSubject puts a subject in force, or removes it when s is nil, once that is
// kept where it should be kept.
func (m *Memory) setSubject(id string, s *resident, e Event) error {
	old, known := m.subjects[id]
	events := m.events
	m.version++
	if s == nil {
		delete(m.subjects, id)
	} else {
		m.subjects[id] = s
	}
	if err := m.record(e); err != nil {
		m.version--
		m.events = events
		delete(m.subjects, id)
		if known {
			m.subjects[id] = old
		}
		return err
	}
	return nil
}

// changeOverride puts an override in force, or removes it when o is nil.
func (m *Memory) changeOverride(ctx context.Context, subject, limit string, check func(Override, bool) error, o *Override) error {
	s, err := m.subject(subject)
	if err != nil {
		return err
	}
	old, exists := s.Overrides[limit]
	if err := check(old, exists); err != nil {
		return OverrideError(subject, limit, err)
	}
	if s.Overrides == nil {
		s.Overrides = make(Overrides)
	}
	var before, after any
	if exists {
		before = old
	}
	delete(s.Overrides, limit)
	if o != nil {
		s.Overrides[limit], after = *o, *o
	}
	e, err := NewEvent(ctx, KindOverride, subject, limit, before, after)
	if err != nil {
		return err
	}
	s.Version = m.version + 1
	return m.setSubject(subject, &resident{Subject: s}, e)
}
