package memtiers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// state is a Catalogue as its file keeps it.
type state struct {
	Version  int64                    `json:"version"`
	Tiers    []tiers.Tier             `json:"tiers"`
	Subjects map[string]tiers.Subject `json:"subjects"`

	Overrides   map[string]tiers.Overrides `json:"overrides,omitempty"` // by subject
	Credentials map[string]credentialState `json:"credentials,omitempty"`
	Load        tiers.LoadControl          `json:"load,omitzero"`
	Webhooks    map[string]webhookState    `json:"webhooks,omitempty"`
	Events      []tiers.Event              `json:"audit,omitempty"`
}

// A webhookState is a webhook with what administrators do not see.
type webhookState struct {
	Of      tiers.Webhook `json:"of"`
	Secrets tiers.Secrets `json:"secrets"`
}

// A credentialState is a key or token with what administrators do not see.
type credentialState struct {
	Kind access.Kind       `json:"kind"`
	Hash []byte            `json:"sha256"`
	Of   access.Credential `json:"of"`
}

// Open returns a catalogue kept in file, which is written anew with each
// change. A file that does not exist yet begins with these tiers. One process
// at a time may hold it.
func Open(file string, list []tiers.Tier) (*Catalogue, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		m, err := New(list)
		if err != nil {
			return nil, err
		}
		m.file = file
		return m, m.save()
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	m := empty()
	m.file, m.version, m.events, m.control = file, s.Version, s.Events, s.Load
	if m.set, err = tiers.NewSet(s.Tiers); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for id, subject := range s.Subjects {
		subject.Overrides = s.Overrides[id]
		subject = subject.Clone()
		if subject.ID != id || subject.Validate() != nil || !m.has(&subject) || subject.Overrides.Validate() != nil {
			return nil, fmt.Errorf("read %s: subject %q is not valid, or on a tier that is not there", file, id)
		}
		m.subjects[id] = tiers.NewResident(subject)
	}
	if err := m.control.Validate(); err != nil {
		return nil, fmt.Errorf("read %s: load: %w", file, err)
	}
	for id, kept := range s.Credentials {
		c := &kept.Of
		c.Kind = kept.Kind
		if copy(c.Hash[:], kept.Hash) != len(c.Hash) || c.ID != id || !access.ValidID(id) || c.Validate() != nil || c.Kind == access.Key && m.subjects[c.Subject] == nil {
			return nil, fmt.Errorf("read %s: credential %q is not valid", file, id)
		}
		m.credentials[id] = c
	}
	for id, kept := range s.Webhooks {
		w := &kept.Of
		w.Secrets = kept.Secrets
		w.Normalize()
		if w.ID != id || !access.ValidID(id) || len(w.Secrets.Current) == 0 || w.Validate() != nil {
			return nil, fmt.Errorf("read %s: webhook %q is not valid", file, id)
		}
		m.webhooks[id] = w
	}
	return m, nil
}

// has reports whether all tiers that s names exist.
func (m *Catalogue) has(s *tiers.Subject) bool {
	for _, key := range s.Tiers() {
		if !m.set.Has(key) {
			return false
		}
	}
	return true
}

// save replaces the file by renaming a complete one over it, so that a crash
// leaves the old state or the new one.
func (m *Catalogue) save() error {
	if m.file == "" {
		return nil
	}
	s := state{
		Version: m.version, Events: m.events, Tiers: m.set.List(), Load: m.control,
		Subjects: make(map[string]tiers.Subject), Overrides: make(map[string]tiers.Overrides), Credentials: make(map[string]credentialState),
		Webhooks: make(map[string]webhookState),
	}
	for id, w := range m.webhooks {
		s.Webhooks[id] = webhookState{Of: *w, Secrets: w.Secrets}
	}
	for id, c := range m.credentials {
		s.Credentials[id] = credentialState{Kind: c.Kind, Hash: c.Hash[:], Of: *c}
	}
	for id, r := range m.subjects {
		subject := r.Subject()
		s.Subjects[id] = subject
		if len(subject.Overrides) > 0 {
			s.Overrides[id] = subject.Overrides
		}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(m.file), filepath.Base(m.file)+".*")
	if err != nil {
		return fmt.Errorf("keep tiers in %s: %w", m.file, errors.Unwrap(err))
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // nothing is left to remove after the rename
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", tmp.Name(), err)
	}
	return os.Rename(tmp.Name(), m.file)
}
