package tiers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
)

// What a catalogue refuses, for callers to tell apart with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrStale    = errors.New("changed in the meantime")
	ErrInUse    = errors.New("in use")
	ErrRepeated = errors.New("made before") // see Attempt

	ErrUnavailable = errors.New("catalogue unavailable")
	// ErrNotHeard is returned by Source.Listen if notifications do not arrive although the
	// catalogue answers.
	ErrNotHeard = errors.New("notifications are not heard: a pooler in transaction mode loses them")
)

// A Catalogue stores tiers, subjects and credentials. Each object has a version, which grows
// with each change and is the precondition of a write: see [Expect]. A change and its event
// in the audit log are written together, or not at all.
//
// Implementations are safe for concurrent use.
type Catalogue interface {
	Writer
	Eraser
	Outbox

	Tiers(ctx context.Context) ([]Tier, error) // by priority, then key
	Tier(ctx context.Context, key string) (Tier, error)

	Subjects(ctx context.Context, f SubjectFilter) ([]Subject, error) // ascending by id
	CountSubjects(ctx context.Context, f SubjectFilter) (int, error)  // whatever After and Most
	Subject(ctx context.Context, id string) (Subject, error)          // with its overrides

	// Credentials are keys or tokens. Credential returns ErrNotFound for the other kind.
	Credentials(ctx context.Context, f CredentialFilter) ([]access.Credential, error) // ascending by id
	Credential(ctx context.Context, kind access.Kind, id string) (access.Credential, error)

	LoadControl(ctx context.Context) (LoadControl, error)

	Events(ctx context.Context, f EventFilter) ([]Event, error) // the newest first
	// Record runs do, which changes something outside the catalogue, and writes its event e.
	// It does not stop half-way if ctx ends. If do fails, e is not written, unless do may have
	// taken place all the same: if its error wraps tierlimit.ErrStoreUnavailable, e is written
	// with the outcome "unknown". A catalogue in Postgres runs do only after e could be written.
	Record(ctx context.Context, e Event, do func(context.Context) error) error
}

// A SubjectFilter chooses subjects. Its zero value chooses all, and none of them
// fits on its page.
type SubjectFilter struct {
	Tier   string // that they are on, try or will be on
	Status Status
	Prefix string // of their ids
	After  string // only ids behind it
	Most   int    // of so many subjects
}

// Chooses reports whether f chooses s now. It ignores After and Most.
func (f *SubjectFilter) Chooses(s *Subject) bool {
	return (f.Tier == "" || s.On(f.Tier, time.Now())) && (f.Status == "" || f.Status == s.Status) && strings.HasPrefix(s.ID, f.Prefix)
}

// A CredentialFilter chooses credentials.
type CredentialFilter struct {
	Kind    access.Kind
	Subject string // of keys; "" for all
	After   string // only ids behind it
	Most    int    // of so many
}

// TierError says what was refused about which tier.
func TierError(key string, err error) error { return fmt.Errorf("tier %.80q %w", key, err) }

// SubjectError says what was refused about which subject.
func SubjectError(id string, err error) error { return fmt.Errorf("subject %.80q %w", id, err) }

// OverrideError says what was refused about which override.
func OverrideError(subject, limit string, err error) error {
	return fmt.Errorf("override of limit %.80q for subject %.80q %w", limit, subject, err)
}

// CredentialError says what was refused about which credential.
func CredentialError(kind access.Kind, id string, err error) error {
	if !access.ValidID(id) { // perhaps a whole secret, by mistake: it is not repeated
		return fmt.Errorf("%s %w", kind, err)
	}
	return fmt.Errorf("%s %.80q %w", kind, id, err)
}

// UnknownTierError is the answer to a subject put on a tier that is not there.
func UnknownTierError(field, key string) error {
	return &tierlimit.FieldError{Field: field, Value: key, Want: "the key of a tier that exists"}
}

// UnknownSubjectError is the answer to a key for a subject that is not there.
func UnknownSubjectError(id string) error {
	return &tierlimit.FieldError{Field: "subject", Value: id, Want: "the id of a subject that exists"}
}

// TokenNameError is the answer to a token named as another is.
func TokenNameError(name string) error {
	return fmt.Errorf("a token named %q %w: the audit log tells them apart by name", name, ErrExists)
}

// LoadControlError says what was refused about load control.
func LoadControlError(err error) error { return fmt.Errorf("load control %w", err) }

// OtherSubjectError is the answer to a key that should become another subject's.
func OtherSubjectError(id string) error {
	return &tierlimit.FieldError{Field: "subject", Value: id, Want: "left out, or as it is: create a key for another subject"}
}

// An InUseError is the answer to a tier that cannot go while subjects name it.
// It is an ErrInUse.
type InUseError struct {
	Tier     string
	Count    int      // of the subjects
	Subjects []string // the first of them
}

// InTheWay is how many of the subjects an InUseError names.
const InTheWay = 10

func (e *InUseError) Error() string {
	names := make([]string, len(e.Subjects))
	for i, id := range e.Subjects {
		names[i] = strconv.Quote(id)
	}
	more := ""
	if e.Count > len(names) {
		more = " and others"
	}
	noun := " subjects are"
	if e.Count == 1 {
		noun = " subject is"
	}
	return fmt.Sprintf("tier %q is %v: %d%s on it, try it or will be on it: %s%s", e.Tier, ErrInUse, e.Count, noun, strings.Join(names, ", "), more)
}

// Unwrap says that it is an ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// StillDefaultError is the answer to a default tier that should cease to be it.
func StillDefaultError(key string) error {
	return fmt.Errorf("tier %q is the default and %w: make another tier the default instead", key, ErrInUse)
}
