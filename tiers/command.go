package tiers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tierlimit/tierlimit/access"
)

// A Command asks a [Catalogue] for operations that are made together, or not at all.
type Command struct {
	Actor      Actor
	Attempt    Attempt // the zero Attempt: the command may be repeated
	DryRun     bool    // decide as always, and write nothing
	Operations []Operation
}

// An Actor is who asks. The audit log keeps both: a name may become another's, an id does
// not.
type Actor struct {
	ID   string
	Name string
}

// An Attempt marks a command whose answer may be lost, and which may be asked for again:
// one command is made with one Key. A Memory remembers the last thousand changes.
type Attempt struct {
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"` // of what was asked for
}

// An Operation is what becomes of one thing. It is put, patched, or (with neither Put nor
// Patch) deleted.
type Operation struct {
	Ref
	Expect Expect
	Put    Object          // what it becomes; its name may be left out
	Patch  json.RawMessage // a JSON merge patch (RFC 7396) of what is there
	// AnyLimit lets an override be of a limit that the subject does not have now, as there
	// may be in an export.
	AnyLimit bool
}

// A Ref names a thing in a catalogue.
type Ref struct {
	Kind string // KindTier, KindSubject, KindOverride, KindLoad, or one of access.Key and access.Token
	// Object is a tier's key, or the id of a subject, a key or a token. Of an override it is
	// the subject's.
	Object string
	Limit  string // of an override
}

// An Object is a Tier, a Subject, an Override, an access.Credential or a LoadControl.
type Object any

// The Refs of things.

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

// An Expect says what a writer believes to be there. Its zero value expects nothing: it
// creates.
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

// What a writer may expect.
var (
	Absent   = Expect{}                     // create
	Present  = Expect{kind: expectPresent}  // replace, whatever was there
	Anything = Expect{kind: expectAnything} // create or replace
)

// Version expects what the writer read at one of these versions.
func Version(versions ...int64) Expect { return Expect{kind: expectVersion, versions: versions} }

// check returns ErrNotFound, ErrExists or ErrStale unless e holds of what is there.
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

// A Result is what a command has changed, or with DryRun would change.
type Result struct {
	// Edits are in the order in which they were made. What went along with an operation, such
	// as the keys of a subject that was deleted, stands before its edit.
	Edits []Edit
	// Kept are of operations for which nothing was to be done: they draw no version, and have
	// no event.
	Kept []Edit

	of []int // by operation: the index in Edits, or -1 - the index in Kept
}

// Made returns the edit of an operation, and whether it changes anything.
func (r *Result) Made(operation int) (e *Edit, changed bool) {
	if i := r.of[operation]; i < 0 {
		return &r.Kept[-1-i], false
	}
	return &r.Edits[r.of[operation]], true
}

// An Edit is one thing before and after. Each is an event in the audit log.
type Edit struct {
	Ref
	Before, After Object // nil: it was not there, it is gone
}

// Stamp gives what e has made the version that its catalogue drew.
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
	}
}

// An OperationError says which of several operations was refused.
type OperationError struct {
	Index int // among the command's operations
	Err   error
}

func (e *OperationError) Error() string { return fmt.Sprintf("operation %d: %v", e.Index+1, e.Err) }

// Unwrap returns why the operation was refused.
func (e *OperationError) Unwrap() error { return e.Err }

// A Writer makes commands.
type Writer interface {
	Do(ctx context.Context, c Command) (Result, error)
}

// errNoOperation is returned for a command without operations.
var errNoOperation = errors.New("a command without operations")
