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
}

// TierError says what was refused about which tier.
func TierError(key string, err error) error { return fmt.Errorf("tier %.80q %w", key, err) }

// SubjectError says what was refused about which subject.
func SubjectError(id string, err error) error { return fmt.Errorf("subject %.80q %w", id, err) }

// UnknownTierError is the answer to a subject put on a tier that is not there.
func UnknownTierError(key string) error {
	return &tierlimit.FieldError{Field: "tier", Value: key, Want: "the key of a tier that exists"}
}

// StillDefaultError is the answer to a default tier that should cease to be it.
func StillDefaultError(key string) error {
	return fmt.Errorf("tier %q is the default and %w: make another tier the default instead", key, ErrInUse)
}
