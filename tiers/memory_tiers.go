package tiers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Tiers implements TierCatalogue.
func (m *Memory) Tiers(context.Context) ([]Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.set.list(), nil
}

// Tier implements TierCatalogue.
func (m *Memory) Tier(_ context.Context, key string) (Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tier(key)
}

// CreateTier implements TierCatalogue.
func (m *Memory) CreateTier(ctx context.Context, t Tier) (Tier, error) {
	t.Normalize()
	if err := t.Validate(); err != nil {
		return Tier{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set.has(t.Key) {
		return Tier{}, TierError(t.Key, ErrExists)
	}
	return m.putTier(ctx, t, nil)
}

// ReplaceTier implements TierCatalogue.
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

// DeleteTier implements TierCatalogue. What has come by itself names the tier no
// more.
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
	if inTheWay := m.choose(SubjectFilter{Tier: key}); len(inTheWay) > 0 {
		e := &InUseError{Tier: key, Count: len(inTheWay)}
		for _, s := range inTheWay[:min(InTheWay, len(inTheWay))] {
			e.Subjects = append(e.Subjects, s.ID)
		}
		return e
	}
	d := delta{version: m.version + 1, subjects: make(map[string]*resident)}
	for id, r := range m.subjects {
		if slices.Contains(slices.Collect(maps.Values(r.Tiers())), key) {
			now := r.AsOf(time.Now())
			now.Version = d.version
			d.subjects[id] = &resident{Subject: now}
		}
	}
	rest := slices.DeleteFunc(slices.Clone(m.set.tiers), func(t Tier) bool { return t.Key == key })
	if d.set, err = newSet(rest); err != nil {
		return err
	}
	e, err := NewEvent(ctx, KindTier, key, "", old, nil)
	if err != nil {
		return err
	}
	return m.commit(ctx, d, e)
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
	next, err := newSet(append(list, t))
	if err != nil {
		return Tier{}, err
	}
	return t.clone(), m.commit(ctx, delta{version: t.Version, set: next}, e)
}

// chooses reports whether f wants s, as it stands now.
func (f *SubjectFilter) chooses(s *Subject) bool {
	now := s.AsOf(time.Now())
	named := f.Tier == "" || slices.Contains(slices.Collect(maps.Values(now.Tiers())), f.Tier)
	return named && (f.Status == "" || f.Status == s.Status) && strings.HasPrefix(s.ID, f.Prefix)
}

// choose returns the subjects that f wants, whatever After and Most, by id.
func (m *Memory) choose(f SubjectFilter) []*resident {
	var list []*resident
	for _, r := range m.subjects {
		if f.chooses(&r.Subject) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *resident) int { return strings.Compare(a.ID, b.ID) })
	return list
}
