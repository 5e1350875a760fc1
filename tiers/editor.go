package tiers

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit/access"
)

// An Editor makes single changes on behalf of one actor, for programs that manage a
// catalogue themselves. It is safe for concurrent use.
type Editor struct {
	Catalogue
	Actor Actor
}

// NewEditor returns an editor of a catalogue.
func NewEditor(c Catalogue, a Actor) Editor { return Editor{Catalogue: c, Actor: a} }

// CreateTier creates a tier. It returns ErrExists if a tier with the key exists.
func (e Editor) CreateTier(ctx context.Context, t Tier) (Tier, error) {
	return put(ctx, e, TierRef(t.Key), Absent, t)
}

// ReplaceTier replaces a tier whose current version is version. A new default tier replaces
// the previous one; a default tier stays the default until another tier becomes it.
func (e Editor) ReplaceTier(ctx context.Context, t Tier, version int64) (Tier, error) {
	return put(ctx, e, TierRef(t.Key), Version(version), t)
}

// DeleteTier deletes a tier. It returns ErrInUse for the default tier and for a tier with
// subjects.
func (e Editor) DeleteTier(ctx context.Context, key string, version int64) error {
	return e.remove(ctx, TierRef(key), version)
}

// CreateSubject creates a subject. The overrides of s are ignored.
func (e Editor) CreateSubject(ctx context.Context, s Subject) (Subject, error) {
	return put(ctx, e, SubjectRef(s.ID), Absent, s)
}

// ReplaceSubject replaces a subject whose current version is version, except its overrides.
func (e Editor) ReplaceSubject(ctx context.Context, s Subject, version int64) (Subject, error) {
	return put(ctx, e, SubjectRef(s.ID), Version(version), s)
}

// DeleteSubject deletes a subject with its overrides and keys.
func (e Editor) DeleteSubject(ctx context.Context, id string, version int64) error {
	return e.remove(ctx, SubjectRef(id), version)
}

// Overrides returns the overrides of a subject, by limit.
func (e Editor) Overrides(ctx context.Context, subject string) ([]Override, error) {
	s, err := e.Subject(ctx, subject)
	return slices.SortedFunc(maps.Values(s.Overrides), func(a, b Override) int { return strings.Compare(a.Limit, b.Limit) }), err
}

// Override returns the override of a subject's limit.
func (e Editor) Override(ctx context.Context, subject, limit string) (Override, error) {
	s, err := e.Subject(ctx, subject)
	if err != nil {
		return Override{}, err
	}
	o, ok := s.Overrides[limit]
	if !ok {
		err = OverrideError(subject, limit, ErrNotFound)
	}
	return o, err
}

// CreateOverride creates the override of a subject's limit. The subject gets the override's
// version.
func (e Editor) CreateOverride(ctx context.Context, subject string, o Override) (Override, error) {
	return put(ctx, e, OverrideRef(subject, o.Limit), Absent, o)
}

// ReplaceOverride replaces an override whose current version is version.
func (e Editor) ReplaceOverride(ctx context.Context, subject string, o Override, version int64) (Override, error) {
	return put(ctx, e, OverrideRef(subject, o.Limit), Version(version), o)
}

// DeleteOverride deletes the override of a subject's limit.
func (e Editor) DeleteOverride(ctx context.Context, subject, limit string, version int64) error {
	return e.remove(ctx, OverrideRef(subject, limit), version)
}

// CreateCredential creates a key or a token. c must have an id and a secret: see
// access.Credential.WithSecret.
func (e Editor) CreateCredential(ctx context.Context, c access.Credential) (access.Credential, error) {
	return put(ctx, e, CredentialRef(c.Kind, c.ID), Absent, c)
}

// ReplaceCredential replaces the name, the role and the expiry of a credential. The subject
// of a key cannot change.
func (e Editor) ReplaceCredential(ctx context.Context, c access.Credential, version int64) (access.Credential, error) {
	return put(ctx, e, CredentialRef(c.Kind, c.ID), Version(version), c)
}

// DeleteCredential deletes a key or a token.
func (e Editor) DeleteCredential(ctx context.Context, kind access.Kind, id string, version int64) error {
	return e.remove(ctx, CredentialRef(kind, id), version)
}

// SetLoadControl replaces the load control if its current version is version.
func (e Editor) SetLoadControl(ctx context.Context, l LoadControl, version int64) (LoadControl, error) {
	return put(ctx, e, LoadRef(), Version(version), l)
}

// CreateWebhook creates a webhook. w must have an id and a secret: see Webhook.WithID.
func (e Editor) CreateWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	return put(ctx, e, WebhookRef(w.ID), Absent, w)
}

// ReplaceWebhook replaces a webhook whose current version is version. It keeps its secret unless w
// has another one.
func (e Editor) ReplaceWebhook(ctx context.Context, w Webhook, version int64) (Webhook, error) {
	return put(ctx, e, WebhookRef(w.ID), Version(version), w)
}

// DeleteWebhook deletes a webhook with its deliveries.
func (e Editor) DeleteWebhook(ctx context.Context, id string, version int64) error {
	return e.remove(ctx, WebhookRef(id), version)
}

func put[T Object](ctx context.Context, e Editor, ref Ref, expect Expect, t T) (made T, err error) {
	r, err := e.Do(ctx, Command{Actor: e.Actor, Operations: []Operation{{Ref: ref, Expect: expect, Put: t}}})
	if err == nil {
		e, _ := r.Made(0)
		made, _ = e.After.(T)
	}
	return made, err
}

func (e Editor) remove(ctx context.Context, ref Ref, version int64) error {
	_, err := e.Do(ctx, Command{Actor: e.Actor, Operations: []Operation{{Ref: ref, Expect: Version(version)}}})
	return err
}
