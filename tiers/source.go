package tiers

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

// A Source is a catalogue that lives elsewhere, as package cache follows it. Its errors
// wrap ErrUnavailable while it cannot be reached. Versions
// become visible in order: who has seen version n has seen all before it.
type Source interface {
	// Changes returns what changed after the version since; 0 asks for the
	// tiers and what load does, and need not name anything else.
	// A version below since says that the source went back in time.
	Changes(ctx context.Context, since int64) (Changes, error)
	// AllSubjects returns the first most subjects with an id greater than after, by id.
	AllSubjects(ctx context.Context, after string, most int) ([]Subject, error)
	// AllCredentials is like AllSubjects for keys and tokens.
	AllCredentials(ctx context.Context, after string, most int) ([]access.Credential, error)
	// LookupSubjects returns those of the subjects that are known, and the version
	// they were read at.
	LookupSubjects(ctx context.Context, ids []string) (found []Subject, version int64, err error)
	// LookupCredentials does so for keys and tokens.
	LookupCredentials(ctx context.Context, ids []string) (found []access.Credential, version int64, err error)
	// UsedCredentials notes when these were used last.
	UsedCredentials(ctx context.Context, used map[string]time.Time) error
	// Listen calls wake, from any goroutine, once it listens and then with each
	// change, until ctx ends or changes may be lost; it returns why.
	Listen(ctx context.Context, wake func()) error
}

// Changes is what happened to a catalogue up to a version.
type Changes struct {
	Version int64
	// Origin identifies the history that Version belongs to. If Origin differs from before,
	// versions are not comparable, and everything is read again. "" if there is only
	// one history.
	Origin      string
	Tiers       []Tier              // all of them, nil when none changed
	Load        *LoadControl        // nil when it did not change
	Subjects    []Subject           // those that changed
	Credentials []access.Credential // those that changed
	Removed     []Removal           // what is gone
	Forget      bool                // too long ago to name them: any subject or credential may have changed
	More        bool                // ask again from Version
}

// A Removal says that something is gone.
type Removal struct {
	Kind    string // KindSubject, access.Key or access.Token
	ID      string
	Version int64 // that it went at
}
