package tiers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tierlimit/tierlimit"
)

// Memory is a catalogue and a resolver in one process. It is safe for
// concurrent use, and a change acts on the next decision.
type Memory struct {
	mu       sync.RWMutex
	set      *set               // guarded by mu
	subjects map[string]Subject // guarded by mu
	version  int64              // guarded by mu: the last one given out
	file     string             // where state is kept; "" nowhere
}

var (
	_ Catalogue          = (*Memory)(nil)
	_ tierlimit.Resolver = (*Memory)(nil)
	_ tierlimit.Holder   = (*Memory)(nil)
)

// NewMemory returns a catalogue that begins with these tiers.
func NewMemory(list []Tier) (*Memory, error) {
	m := &Memory{subjects: make(map[string]Subject)}
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
	return m.set.plan(m.subjects[subject].Tier), true
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
func (m *Memory) CreateTier(_ context.Context, t Tier) (Tier, error) {
	t.Normalize()
	if err := t.Validate(); err != nil {
		return Tier{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set.byKey[t.Key] != nil {
		return Tier{}, TierError(t.Key, ErrExists)
	}
	return m.putTier(t)
}

// ReplaceTier implements Catalogue.
func (m *Memory) ReplaceTier(_ context.Context, t Tier, version int64) (Tier, error) {
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
	return m.putTier(t)
}

// DeleteTier implements Catalogue.
func (m *Memory) DeleteTier(_ context.Context, key string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.tierAt(key, version)
	if err != nil {
		return err
	}
	if old.Default {
		return StillDefaultError(key)
	}
	for _, s := range m.subjects {
		if s.Tier == key {
			return fmt.Errorf("tier %q is %w: subject %q is on it", key, ErrInUse, s.ID)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(m.set.tiers), func(t Tier) bool { return t.Key == key })
	return m.setTiers(rest, m.version+1)
}

// Subjects implements Catalogue.
func (m *Memory) Subjects(_ context.Context, after string, most int) ([]Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Subject
	for _, s := range m.subjects {
		if s.ID > after {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Subject) int { return strings.Compare(a.ID, b.ID) })
	return list[:min(most, len(list))], nil
}

// Subject implements Catalogue.
func (m *Memory) Subject(_ context.Context, id string) (Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := m.subjects[id]
	if !ok {
		return Subject{}, SubjectError(id, ErrNotFound)
	}
	return s, nil
}

// CreateSubject implements Catalogue.
func (m *Memory) CreateSubject(_ context.Context, s Subject) (Subject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.subjects[s.ID]; ok {
		return Subject{}, SubjectError(s.ID, ErrExists)
	}
	return m.putSubject(s)
}

// ReplaceSubject implements Catalogue.
func (m *Memory) ReplaceSubject(_ context.Context, s Subject, version int64) (Subject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.subjectAt(s.ID, version); err != nil {
		return Subject{}, err
	}
	return m.putSubject(s)
}

// DeleteSubject implements Catalogue.
func (m *Memory) DeleteSubject(_ context.Context, id string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.subjectAt(id, version); err != nil {
		return err
	}
	return m.setSubject(id, nil)
}

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

func (m *Memory) subjectAt(id string, version int64) error {
	s, ok := m.subjects[id]
	if !ok {
		return SubjectError(id, ErrNotFound)
	}
	if s.Version != version {
		return SubjectError(id, ErrStale)
	}
	return nil
}

func (m *Memory) putTier(t Tier) (Tier, error) {
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
	if err := m.setTiers(append(list, t), t.Version); err != nil {
		return Tier{}, err
	}
	return t.clone(), nil
}

// setTiers puts tiers in force once they are kept where they should be kept.
func (m *Memory) setTiers(list []Tier, version int64) error {
	next, err := newSet(list)
	if err != nil {
		return err
	}
	set, was := m.set, m.version
	m.set, m.version = next, version
	if err := m.save(); err != nil {
		m.set, m.version = set, was
		return err
	}
	return nil
}

func (m *Memory) putSubject(s Subject) (Subject, error) {
	if err := s.Validate(); err != nil {
		return Subject{}, err
	}
	if m.set.byKey[s.Tier] == nil {
		return Subject{}, UnknownTierError(s.Tier)
	}
	s.Version = m.version + 1
	return s, m.setSubject(s.ID, &s)
}

// setSubject puts a subject in force, or removes it when s is nil, once that is
// kept where it should be kept.
func (m *Memory) setSubject(id string, s *Subject) error {
	old, known := m.subjects[id]
	m.version++
	if s == nil {
		delete(m.subjects, id)
	} else {
		m.subjects[id] = *s
	}
	if err := m.save(); err != nil {
		m.version--
		delete(m.subjects, id)
		if known {
			m.subjects[id] = old
		}
		return err
	}
	return nil
}
