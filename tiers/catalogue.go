package tiers

import (
	"context"
	"errors"
	"fmt"

	"github.com/tierlimit/tierlimit"
)

// What a catalogue refuses, for callers to tell apart with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrStale    = errors.New("changed in the meantime")
	ErrInUse    = errors.New("in use")

	ErrUnavailable = errors.New("catalogue unavailable")
)

// A Catalogue holds tiers and subjects. Every write takes the version the
// writer saw and answers ErrStale when it is no longer the one in force; what
// it returns carries the new version. Deleting the default tier, or one that
// subjects are on, is ErrInUse. Making a tier the default takes that from the
// tier that was; a default tier cannot merely cease to be it.
//
// Implementations are safe for concurrent use.
type Catalogue interface {
	Tiers(ctx context.Context) ([]Tier, error) // by priority, then key
	Tier(ctx context.Context, key string) (Tier, error)
	CreateTier(ctx context.Context, t Tier) (Tier, error)
	ReplaceTier(ctx context.Context, t Tier, version int64) (Tier, error)
	DeleteTier(ctx context.Context, key string, version int64) error

	Subjects(ctx context.Context, after string, most int) ([]Subject, error) // ascending by id, from the first behind after
	Subject(ctx context.Context, id string) (Subject, error)
	CreateSubject(ctx context.Context, s Subject) (Subject, error)
	ReplaceSubject(ctx context.Context, s Subject, version int64) (Subject, error)
	DeleteSubject(ctx context.Context, id string, version int64) error

	// A change of an override is one of its subject too, which gets its version.
	Overrides(ctx context.Context, subject string) ([]Override, error) // by limit
	Override(ctx context.Context, subject, limit string) (Override, error)
	CreateOverride(ctx context.Context, subject string, o Override) (Override, error)
	ReplaceOverride(ctx context.Context, subject string, o Override, version int64) (Override, error)
	DeleteOverride(ctx context.Context, subject, limit string, version int64) error

	// Each change is written with its event or not at all; see [WithActor].
	Events(ctx context.Context, f EventFilter) ([]Event, error) // the newest first
	Record(ctx context.Context, e Event) error                  // what was done elsewhere, by ctx's actor
}

// TierError says what was refused about which tier.
func TierError(key string, err error) error { return fmt.Errorf("tier %.80q %w", key, err) }

// SubjectError says what was refused about which subject.
func SubjectError(id string, err error) error { return fmt.Errorf("subject %.80q %w", id, err) }

// OverrideError says what was refused about which override.
func OverrideError(subject, limit string, err error) error {
	return fmt.Errorf("override of limit %.80q for subject %.80q %w", limit, subject, err)
}

// UnknownTierError is the answer to a subject put on a tier that is not there.
func UnknownTierError(field, key string) error {
	return &tierlimit.FieldError{Field: field, Value: key, Want: "the key of a tier that exists"}
}

// InUseError is the answer to a tier that cannot go while a subject names it.
func InUseError(key, subject string) error {
	return fmt.Errorf("tier %q is %w: subject %q is on it, tries it or will be on it", key, ErrInUse, subject)
}

// StillDefaultError is the answer to a default tier that should cease to be it.
func StillDefaultError(key string) error {
	return fmt.Errorf("tier %q is the default and %w: make another tier the default instead", key, ErrInUse)
}
