package tiers

import (
	"context"
	"maps"
	"sync"
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

var (
	_ Keyring = (*Cache)(nil)
	_ Keyring = (*Memory)(nil)
)

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

// A credential is a key or token held in memory.
type credential struct{ access.Credential }

func (c *credential) key() string    { return c.ID }
func (c *credential) version() int64 { return c.Version }

// open returns c if the secret is its own.
func (c *credential) open(kind access.Kind, id, secret string) (access.Credential, error) {
	if c == nil || c.Kind != kind || !c.Opens(secret, time.Now()) {
		return access.Credential{}, CredentialError(kind, id, ErrNotFound)
	}
	return c.Credential, nil
}

// Authenticate implements Keyring. It waits for what it does not hold half the
// time ctx leaves, and at most a second.
func (c *Cache) Authenticate(ctx context.Context, secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, CredentialError("credential", "", ErrNotFound)
	}
	one, held := c.credentials.get(id)
	if !held {
		answer := c.credentials.ask(id)
		deadline, _ := ctx.Deadline()
		if !answer.await(ctx, deadline) {
			return access.Credential{}, CredentialError(kind, id, ErrUnavailable)
		}
		one = answer.found
	}
	opened, err := one.open(kind, id, secret)
	if err == nil {
		c.uses.note(id, time.Now())
	}
	return opened, err
}

// Held implements Keyring.
func (c *Cache) Held(secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, CredentialError("credential", "", ErrNotFound)
	}
	one, held := c.credentials.get(id)
	if !held {
		return access.Credential{}, CredentialError(kind, id, ErrUnavailable)
	}
	opened, err := one.open(kind, id, secret)
	if err == nil {
		c.uses.note(id, time.Now())
	}
	return opened, err
}

func (c *Cache) lookupCredentials(ctx context.Context, ids []string) ([]*credential, int64, error) {
	list, version, err := c.source.LookupCredentials(ctx, ids)
	held := make([]*credential, len(list))
	for i, one := range list {
		held[i] = &credential{one}
	}
	return held, version, err
}

// uses notes when credentials were used, and tells it once a minute at most of
// each.
type uses struct {
	mu     sync.Mutex
	latest map[string]time.Time // guarded by mu: not told yet
	toldAt time.Time            // guarded by mu
}

const tellUsesEvery = time.Minute

// maxUses bounds what is noted between two times it is told.
const maxUses = 100_000

func (u *uses) note(id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.latest == nil {
		u.latest = make(map[string]time.Time)
	}
	if _, known := u.latest[id]; known || len(u.latest) < maxUses {
		u.latest[id] = now
	}
}

// tellUses is apart from following the source: a change must not wait for it.
func (c *Cache) tellUses(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.uses.tell(ctx, c.source, tellUsesEvery)
		}
	}
}

// tell passes on what was noted, unless it did so a while ago; what could not be told is
// noted still.
func (u *uses) tell(ctx context.Context, s Source, every time.Duration) {
	u.mu.Lock()
	latest, now := u.latest, time.Now()
	if len(latest) == 0 || now.Sub(u.toldAt) < every {
		u.mu.Unlock()
		return
	}
	u.latest, u.toldAt = nil, now
	u.mu.Unlock()
	if s.UsedCredentials(ctx, latest) == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(latest, u.latest)
	u.latest = latest
}
