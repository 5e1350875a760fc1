package tiers

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// Authenticate implements Keyring.
func (m *Memory) Authenticate(_ context.Context, secret string) (access.Credential, error) {
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

// Credentials implements CredentialCatalogue.
func (m *Memory) Credentials(_ context.Context, f CredentialFilter) ([]access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []access.Credential
	for id, c := range m.credentials {
		if c.Kind == f.Kind && (f.Subject == "" || f.Subject == c.Subject) && id > f.After {
			list = append(list, c.Credential)
		}
	}
	slices.SortFunc(list, func(a, b access.Credential) int { return strings.Compare(a.ID, b.ID) })
	return list[:min(f.Most, len(list))], nil
}

// Credential implements CredentialCatalogue.
func (m *Memory) Credential(_ context.Context, kind access.Kind, id string) (access.Credential, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.credential(kind, id)
}

// CreateCredential implements CredentialCatalogue.
func (m *Memory) CreateCredential(ctx context.Context, c access.Credential) (access.Credential, error) {
	c.Normalize()
	if err := c.Validate(); err != nil {
		return access.Credential{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.credentials[c.ID]; ok {
		return access.Credential{}, CredentialError(c.Kind, c.ID, ErrExists)
	}
	c.CreatedAt, c.LastUsedAt = timestamp.Round(time.Now()), nil
	return m.putCredential(ctx, c, nil)
}

// ReplaceCredential implements CredentialCatalogue.
func (m *Memory) ReplaceCredential(ctx context.Context, c access.Credential, version int64) (access.Credential, error) {
	c.Normalize()
	if err := c.Validate(); err != nil {
		return access.Credential{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.credentialAt(c.Kind, c.ID, version)
	if err != nil {
		return access.Credential{}, err
	}
	if c.Subject != old.Subject {
		return access.Credential{}, OtherSubjectError(c.Subject)
	}
	c.CreatedAt, c.LastUsedAt, c.Hash = old.CreatedAt, old.LastUsedAt, old.Hash
	return m.putCredential(ctx, c, old)
}

// DeleteCredential implements CredentialCatalogue.
func (m *Memory) DeleteCredential(ctx context.Context, kind access.Kind, id string, version int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.credentialAt(kind, id, version)
	if err != nil {
		return err
	}
	e, err := NewEvent(ctx, string(kind), id, old.Subject, old, nil)
	if err != nil {
		return err
	}
	return m.commit(ctx, delta{version: m.version + 1, credentials: map[string]*credential{id: nil}}, e)
}

// What follows is called with mu held.

func (m *Memory) credential(kind access.Kind, id string) (access.Credential, error) {
	c := m.credentials[id]
	if c == nil || c.Kind != kind {
		return access.Credential{}, CredentialError(kind, id, ErrNotFound)
	}
	return c.Credential, nil
}

func (m *Memory) credentialAt(kind access.Kind, id string, version int64) (access.Credential, error) {
	c, err := m.credential(kind, id)
	if err == nil && c.Version != version {
		err = CredentialError(kind, id, ErrStale)
	}
	return c, err
}

func (m *Memory) putCredential(ctx context.Context, c access.Credential, old any) (access.Credential, error) {
	if c.Kind == access.Key && m.subjects[c.Subject] == nil {
		return access.Credential{}, UnknownSubjectError(c.Subject)
	}
	for _, other := range m.credentials {
		if c.Kind == access.Token && other.Kind == access.Token && other.Name == c.Name && other.ID != c.ID {
			return access.Credential{}, TokenNameError(c.Name)
		}
	}
	c.Version, c.Secret = m.version+1, ""
	e, err := NewEvent(ctx, string(c.Kind), c.ID, c.Subject, old, c)
	if err != nil {
		return access.Credential{}, err
	}
	return c, m.commit(ctx, delta{version: c.Version, credentials: map[string]*credential{c.ID: {c}}}, e)
}
