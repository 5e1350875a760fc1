package memtiers

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
	"github.com/tierlimit/tierlimit/tiers"
)

// Tiers implements Catalogue.
func (m *Catalogue) Tiers(context.Context) ([]tiers.Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.set.List(), nil
}

// Tier implements Catalogue.
func (m *Catalogue) Tier(_ context.Context, key string) (tiers.Tier, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, ok := m.set.Tier(key)
	if !ok {
		return t, tiers.TierError(key, tiers.ErrNotFound)
	}
	return t, nil
}

// Subjects implements Catalogue.
func (m *Catalogue) Subjects(_ context.Context, f tiers.SubjectFilter) ([]tiers.Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []tiers.Subject
	for _, r := range m.choose(f) {
		if r.ID() > f.After && len(list) < f.Most {
			list = append(list, r.Subject().Clone())
		}
	}
	return list, nil
}

// CountSubjects implements Catalogue.
func (m *Catalogue) CountSubjects(_ context.Context, f tiers.SubjectFilter) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.choose(f)), nil
}

// Subject implements Catalogue.
func (m *Catalogue) Subject(_ context.Context, id string) (tiers.Subject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := view{m}.Subject(id)
	if !ok {
		return s, tiers.SubjectError(id, tiers.ErrNotFound)
	}
	return s, nil
}

// Credentials implements Catalogue.
func (m *Catalogue) Credentials(_ context.Context, f tiers.CredentialFilter) ([]access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := m.chooseCredentials(f)
	return list[:min(f.Most, len(list))], nil
}

// Credential implements Catalogue.
func (m *Catalogue) Credential(_ context.Context, kind access.Kind, id string) (access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.credentials[id]
	if c == nil || c.Kind != kind {
		return access.Credential{}, tiers.CredentialError(kind, id, tiers.ErrNotFound)
	}
	return *c, nil
}

// LoadControl implements Catalogue.
func (m *Catalogue) LoadControl(context.Context) (tiers.LoadControl, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.control.Clone(), nil
}

// Events implements Catalogue.
func (m *Catalogue) Events(_ context.Context, f tiers.EventFilter) ([]tiers.Event, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []tiers.Event
	for i := len(m.events) - 1; i >= 0 && len(list) < f.Most; i-- {
		if f.Chooses(&m.events[i]) {
			list = append(list, m.events[i])
		}
	}
	return list, nil
}

// Authenticate implements Keyring.
func (m *Catalogue) Authenticate(_ context.Context, secret string) (access.Credential, error) {
	return m.Held(secret)
}

// Held implements Keyring.
func (m *Catalogue) Held(secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, tiers.CredentialError("credential", "", tiers.ErrNotFound)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.credentials[id]
	opened, err := tiers.OpenCredential(c, kind, id, secret)
	if err == nil { // seen by who looks, and kept with the next change
		now := timestamp.Round(time.Now())
		c.LastUsedAt = &now
	}
	return opened, err
}
