package tiers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit/access"
)

// Subjects implements SubjectCatalogue.
func (m *Memory) Subjects(_ context.Context, f SubjectFilter) ([]Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Subject
	for _, r := range m.choose(f) {
		if r.ID > f.After && len(list) < f.Most {
			list = append(list, r.clone())
		}
	}
	return list, nil
}

// CountSubjects implements SubjectCatalogue.
func (m *Memory) CountSubjects(_ context.Context, f SubjectFilter) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.choose(f)), nil
}

// Subject implements SubjectCatalogue.
func (m *Memory) Subject(_ context.Context, id string) (Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.subject(id)
}

// CreateSubject implements SubjectCatalogue.
func (m *Memory) CreateSubject(ctx context.Context, s Subject) (Subject, error) {
	s = s.clone()
	if err := s.Validate(); err != nil {
		return Subject{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.subjects[s.ID]; ok {
		return Subject{}, SubjectError(s.ID, ErrExists)
	}
	s.Overrides = nil
	return m.putSubject(ctx, s, nil)
}

// ReplaceSubject implements SubjectCatalogue.
func (m *Memory) ReplaceSubject(ctx context.Context, s Subject, version int64) (Subject, error) {
	s = s.clone()
	if err := s.Validate(); err != nil {
		return Subject{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.subjectAt(s.ID, version)
	if err != nil {
		return Subject{}, err
	}
	s.Overrides = old.Overrides
	return m.putSubject(ctx, s, old)
}

// DeleteSubject implements SubjectCatalogue.
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
	d := delta{version: m.version + 1, subjects: map[string]*resident{id: nil}, credentials: make(map[string]*credential)}
	for _, c := range m.credentials {
		if c.Kind == access.Key && c.Subject == id {
			d.credentials[c.ID] = nil
		}
	}
	return m.commit(ctx, d, e)
}

// Overrides implements SubjectCatalogue.
func (m *Memory) Overrides(_ context.Context, subject string) ([]Override, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, err := m.subject(subject)
	list := slices.Collect(maps.Values(s.Overrides))
	slices.SortFunc(list, func(a, b Override) int { return strings.Compare(a.Limit, b.Limit) })
	return list, err
}

// Override implements SubjectCatalogue.
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

// CreateOverride implements SubjectCatalogue.
func (m *Memory) CreateOverride(ctx context.Context, subject string, o Override) (Override, error) {
	return m.putOverride(ctx, subject, o, func(_ Override, exists bool) error {
		if exists {
			return ErrExists
		}
		return nil
	})
}

// ReplaceOverride implements SubjectCatalogue.
func (m *Memory) ReplaceOverride(ctx context.Context, subject string, o Override, version int64) (Override, error) {
	return m.putOverride(ctx, subject, o, versionIs(version))
}

// DeleteOverride implements SubjectCatalogue.
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

// What follows is called with mu held.

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

func (m *Memory) putSubject(ctx context.Context, s Subject, old any) (Subject, error) {
	if err := m.tiersOf(&s); err != nil {
		return Subject{}, err
	}
	s.Version = m.version + 1
	e, err := NewEvent(ctx, KindSubject, s.ID, "", old, s)
	if err != nil {
		return Subject{}, err
	}
	return s, m.setSubject(ctx, s.clone(), e)
}

func (m *Memory) setSubject(ctx context.Context, s Subject, e Event) error {
	return m.commit(ctx, delta{version: s.Version, subjects: map[string]*resident{s.ID: {Subject: s}}}, e)
}

// tiersOf reports each tier that s names and that is not there.
func (m *Memory) tiersOf(s *Subject) error {
	var errs []error
	for field, key := range s.Tiers() {
		if !m.set.has(key) {
			errs = append(errs, UnknownTierError(field, key))
		}
	}
	return errors.Join(errs...)
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
	return m.setSubject(ctx, s, e)
}
