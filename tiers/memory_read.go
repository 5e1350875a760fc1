package tiers

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

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
	for _, t := range m.set.tiers {
		if t.Key == key {
			return t.clone(), nil
		}
	}
	return Tier{}, TierError(key, ErrNotFound)
}

// Subjects implements Catalogue.
func (m *Memory) Subjects(_ context.Context, f SubjectFilter) ([]Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Subject
	for _, r := range m.choose(f) {
		if r.id > f.After && len(list) < f.Most {
			list = append(list, r.subject().clone())
		}
	}
	return list, nil
}

// CountSubjects implements Catalogue.
func (m *Memory) CountSubjects(_ context.Context, f SubjectFilter) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.choose(f)), nil
}

// Subject implements Catalogue.
func (m *Memory) Subject(_ context.Context, id string) (Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := memoryView{m}.Subject(id)
	if !ok {
		return s, SubjectError(id, ErrNotFound)
	}
	return s, nil
}

// Credentials implements Catalogue.
func (m *Memory) Credentials(_ context.Context, f CredentialFilter) ([]access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := m.chooseCredentials(f)
	return list[:min(f.Most, len(list))], nil
}

// Credential implements Catalogue.
func (m *Memory) Credential(_ context.Context, kind access.Kind, id string) (access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.credentials[id]
	if c == nil || c.Kind != kind {
		return access.Credential{}, CredentialError(kind, id, ErrNotFound)
	}
	return c.Credential, nil
}

// LoadControl implements Catalogue.
func (m *Memory) LoadControl(context.Context) (LoadControl, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.control.clone(), nil
}

// Events implements Catalogue.
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

// Authenticate implements Keyring.
func (m *Memory) Authenticate(_ context.Context, secret string) (access.Credential, error) {
	return m.Held(secret)
}

// Held implements Keyring.
func (m *Memory) Held(secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, CredentialError("credential", "", ErrNotFound)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.credentials[id]
	opened, err := c.open(kind, id, secret)
	if err == nil { // seen by who looks, and kept with the next change
		now := timestamp.Round(time.Now())
		c.LastUsedAt = &now
	}
	return opened, err
}
