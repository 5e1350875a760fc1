package tiers

import "context"

// A Source is a catalogue that lives elsewhere, as a Cache follows it. Its errors
// wrap ErrUnavailable while it cannot be reached. Versions
// become visible in order: who has seen version n has seen all before it.
type Source interface {
	// Changes returns what changed after the version since; 0 asks for the
	// tiers, and need not name subjects. A version below since says that the
	// source went back in time.
	Changes(ctx context.Context, since int64) (Changes, error)
	// Lookup returns those of the subjects that are known, and the version they
	// were read at.
	Lookup(ctx context.Context, ids []string) (found []Subject, version int64, err error)
	// Listen calls wake, from any goroutine, once it listens and then with each
	// change, until ctx ends or changes may be lost; it returns why.
	Listen(ctx context.Context, wake func()) error
}

// Changes is what happened to a catalogue up to a version.
type Changes struct {
	Version        int64
	Tiers          []Tier    // all of them, nil when none changed
	Subjects       []Subject // those that changed
	Removed        []Subject // those that are gone, with the version they went at
	ForgetSubjects bool      // too long ago to name them: any subject may have changed
	More           bool      // ask again from Version
}
