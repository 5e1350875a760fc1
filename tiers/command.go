package tiers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tierlimit/tierlimit/access"
)

// A Command is a list of operations that a [Catalogue] applies together, or not at all.
type Command struct {
	Actor      Actor
	Attempt    Attempt // the zero Attempt: the command may be repeated
	DryRun     bool    // return the result, but write nothing
	Operations []Operation
}

// An Actor is the author of a command. The audit log records the id and the name: an id is
// never reused, but a name may be.
type Actor struct {
	ID   string
	Name string
}

// An Attempt identifies a command that a caller may repeat because the response was lost. A
// second command with the same Key returns ErrRepeated. memtiers knows the attempts of the
// last thousand changes.
type Attempt struct {
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"` // a hash of the request
}

// An Operation puts, patches or deletes one object. With neither Put nor Patch the object is
// deleted.
type Operation struct {
	Ref
	Expect Expect
	Put    Object          // the new object; its name may be empty
	Patch  json.RawMessage // a JSON merge patch (RFC 7396) for the current object
	// AnyLimit permits an override of a limit that the subject does not have now. An export
	// may contain one.
	AnyLimit bool
}

// A Ref identifies an object in a catalogue.
type Ref struct {
	Kind string // KindTier, KindSubject, KindOverride, KindLoad, KindWebhook, access.Key or access.Token
	// Object is a tier's key, or the id of a subject, a key or a token. For an override it is
	// the subject's id.
	Object string
	Limit  string // of an override
}

// An Object is a Tier, a Subject, an Override, an access.Credential, a LoadControl
// or a Webhook.
type Object any

// Constructors of Refs.

// TierRef names a tier.
func TierRef(key string) Ref { return Ref{Kind: KindTier, Object: key} }

// SubjectRef names a subject.
func SubjectRef(id string) Ref { return Ref{Kind: KindSubject, Object: id} }

// OverrideRef names the override of a subject's limit.
func OverrideRef(subject, limit string) Ref {
	return Ref{Kind: KindOverride, Object: subject, Limit: limit}
}

// CredentialRef names a key or a token.
func CredentialRef(kind access.Kind, id string) Ref { return Ref{Kind: string(kind), Object: id} }

// LoadRef names the one load control.
func LoadRef() Ref { return Ref{Kind: KindLoad, Object: KindLoad} }

// An Expect is the precondition of an operation. The zero value, Absent, expects that the
// object does not exist.
type Expect struct {
	kind     expectKind
	versions []int64
}

type expectKind int

const (
	expectAbsent expectKind = iota
	expectVersion
	expectPresent
	expectAnything
)

// Preconditions other than a version.
var (
	Absent   = Expect{}                     // create
	Present  = Expect{kind: expectPresent}  // replace any version
	Anything = Expect{kind: expectAnything} // create or replace
)

// Version expects an object with one of these versions.
func Version(versions ...int64) Expect { return Expect{kind: expectVersion, versions: versions} }

// check returns ErrNotFound, ErrExists or ErrStale if the precondition fails. there reports
// whether the object exists; at is its version.
func (e Expect) check(there bool, at int64) error {
	switch {
	case e.kind == expectAbsent && there:
		return ErrExists
	case (e.kind == expectVersion || e.kind == expectPresent) && !there:
		return ErrNotFound
	case e.kind == expectVersion && !slices.Contains(e.versions, at):
		return ErrStale
	}
	return nil
}

// A Result lists what a command has changed or, with DryRun, would change.
type Result struct {
	// Edits are in the order in which they were made. Implied edits, such as the deletion of
	// the keys of a deleted subject, precede the edit of their operation.
	Edits []Edit
	// Kept are the edits of operations that change nothing. They get no new version and no
	// event.
	Kept []Edit

	of []int // by operation: the index in Edits, or -1 - the index in Kept
}

// Made returns the edit of the operation at an index, and whether it changes anything.
func (r *Result) Made(operation int) (e *Edit, changed bool) {
	if i := r.of[operation]; i < 0 {
		return &r.Kept[-1-i], false
	}
	return &r.Edits[r.of[operation]], true
}

// An Edit is an object before and after a change. Each edit is an event in the audit log.
type Edit struct {
	Ref
	Before, After Object // nil if the object did not exist, nil if it was deleted
}

// Stamp sets the version of e.After.
func (e *Edit) Stamp(version int64) {
	switch after := e.After.(type) {
	case Tier:
		after.Version = version
		e.After = after
	case Subject:
		after.Version = version
		e.After = after
	case Override:
		after.Version = version
		e.After = after
	case access.Credential:
		after.Version = version
		e.After = after
	case LoadControl:
		after.Version = version
		e.After = after
	case Webhook:
		after.Version = version
		e.After = after
	}
}

// An OperationError is the error of one of several operations.
type OperationError struct {
	Index int // among the command's operations
	Err   error
}

func (e *OperationError) Error() string { return fmt.Sprintf("operation %d: %v", e.Index+1, e.Err) }

// Unwrap returns why the operation was refused.
func (e *OperationError) Unwrap() error { return e.Err }

// A Writer applies commands.
type Writer interface {
	Do(ctx context.Context, c Command) (Result, error)
}

// errNoOperation is returned for a command without operations.
var errNoOperation = errors.New("a command without operations")
