package tiers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
)

// What a catalogue refuses, for callers to tell apart with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrStale    = errors.New("changed in the meantime")
	ErrInUse    = errors.New("in use")
	ErrRepeated = errors.New("made before") // see WithAttempt

	ErrUnavailable = errors.New("catalogue unavailable")
)

// A Catalogue holds tiers, subjects and who may ask. Every write takes the
// version the writer saw and answers ErrStale when it is no longer the one in
// force; what it returns carries the new version. Each is written with its event
// in the audit log, or not at all; see [WithActor], [WithDryRun] and [WithAttempt].
// What goes along with it, such as the keys of a subject that is deleted, has no
// event of its own.
//
// Implementations are safe for concurrent use.
type Catalogue interface {
	TierCatalogue
	SubjectCatalogue
	CredentialCatalogue

	LoadControl(ctx context.Context) (LoadControl, error)
	SetLoadControl(ctx context.Context, l LoadControl, version int64) (LoadControl, error)

	Events(ctx context.Context, f EventFilter) ([]Event, error) // the newest first
	Record(ctx context.Context, e Event) error                  // what was done elsewhere, by ctx's actor
}

// A TierCatalogue holds tiers. Deleting the default tier, or one that subjects
// are on, is ErrInUse. Making a tier the default takes that from the tier that
// was; a default tier cannot merely cease to be it.
type TierCatalogue interface {
	Tiers(ctx context.Context) ([]Tier, error) // by priority, then key
	Tier(ctx context.Context, key string) (Tier, error)
	CreateTier(ctx context.Context, t Tier) (Tier, error)
	ReplaceTier(ctx context.Context, t Tier, version int64) (Tier, error)
	DeleteTier(ctx context.Context, key string, version int64) error
}

// A SubjectCatalogue holds subjects and their overrides. A change of an override
// is one of its subject too, which gets its version. A subject's keys go with it.
type SubjectCatalogue interface {
	Subjects(ctx context.Context, f SubjectFilter) ([]Subject, error) // ascending by id
	CountSubjects(ctx context.Context, f SubjectFilter) (int, error)  // whatever After and Most
	Subject(ctx context.Context, id string) (Subject, error)
	CreateSubject(ctx context.Context, s Subject) (Subject, error)
	ReplaceSubject(ctx context.Context, s Subject, version int64) (Subject, error)
	DeleteSubject(ctx context.Context, id string, version int64) error

	Overrides(ctx context.Context, subject string) ([]Override, error) // by limit
	Override(ctx context.Context, subject, limit string) (Override, error)
	CreateOverride(ctx context.Context, subject string, o Override) (Override, error)
	ReplaceOverride(ctx context.Context, subject string, o Override, version int64) (Override, error)
	DeleteOverride(ctx context.Context, subject, limit string, version int64) error
}

// A CredentialCatalogue holds keys and tokens, which are kinds of one thing: a
// key is not found where a token is asked for. Their ids are unique among both,
// their names among tokens.
type CredentialCatalogue interface {
	Credentials(ctx context.Context, f CredentialFilter) ([]access.Credential, error) // ascending by id
	Credential(ctx context.Context, kind access.Kind, id string) (access.Credential, error)
	CreateCredential(ctx context.Context, c access.Credential) (access.Credential, error)
	// ReplaceCredential changes the name, the role and when it expires: a key
	// stays its subject's.
	ReplaceCredential(ctx context.Context, c access.Credential, version int64) (access.Credential, error)
	DeleteCredential(ctx context.Context, kind access.Kind, id string, version int64) error
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
