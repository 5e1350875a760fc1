package tiers

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

// A Keyring knows whose a secret is, from memory wherever it can.
type Keyring interface {
	// Authenticate returns the key or token of a secret. ErrNotFound says that it
	// is none, or none any more; ErrUnavailable that it could not be learned.
	Authenticate(ctx context.Context, secret string) (access.Credential, error)
	// Held is like Authenticate but answers from memory and never blocks. It returns
	// ErrUnavailable if only Authenticate can tell.
	Held(secret string) (access.Credential, error)
}

// keyWait bounds what a request waits for the owner of its key. As much again is
// left of the default budget of a decision.
const keyWait = 50 * time.Millisecond

// SubjectOf returns a function that names the subject of an API key, "" if it is
// none or if that could not be learned in time: whoever asks is then limited as
// those who bring no key, and never let through unlimited.
func SubjectOf(k Keyring) func(ctx context.Context, key string) (string, error) {
	return func(ctx context.Context, key string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, keyWait)
		defer cancel()
		c, err := k.Authenticate(ctx, key)
		if err != nil || c.Kind != access.Key {
			return "", nil
		}
		return c.Subject, nil
	}
}

// OpenCredential returns a copy of c if secret is the secret of c, and ErrNotFound otherwise.
// kind and id are those that access.Parse has read from the secret; c may be nil.
func OpenCredential(c *access.Credential, kind access.Kind, id, secret string) (access.Credential, error) {
	if c == nil || c.Kind != kind || !c.Opens(secret, time.Now()) {
		return access.Credential{}, CredentialError(kind, id, ErrNotFound)
	}
	return *c, nil
}
