package cache

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// A credential is a cached key or token. The nil credential stands for one that does not
// exist.
type credential struct{ of access.Credential }

// ID implements item.
func (c *credential) ID() string { return c.of.ID }

// Version implements item.
func (c *credential) Version() int64 { return c.of.Version }

func (c *credential) open(kind access.Kind, id, secret string) (access.Credential, error) {
	if c == nil {
		return tiers.OpenCredential(nil, kind, id, secret)
	}
	return tiers.OpenCredential(&c.of, kind, id, secret)
}

// Authenticate implements tiers.Keyring. If the credential is not cached, Authenticate waits for
// a look-up: at most half of the time until the deadline of ctx, and at most a second.
func (c *Cache) Authenticate(ctx context.Context, secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, tiers.CredentialError("credential", "", tiers.ErrNotFound)
	}
	one, held := c.credentials.get(id)
	if !held {
		answer := c.credentials.ask(id)
		deadline, _ := ctx.Deadline()
		if !answer.await(ctx, deadline) {
			return access.Credential{}, tiers.CredentialError(kind, id, tiers.ErrUnavailable)
		}
		one = answer.found
	}
	opened, err := one.open(kind, id, secret)
	if err == nil {
		c.uses.note(id, time.Now())
	}
	return opened, err
}

// Held implements tiers.Keyring.
func (c *Cache) Held(secret string) (access.Credential, error) {
	kind, id, ok := access.Parse(secret)
	if !ok {
		return access.Credential{}, tiers.CredentialError("credential", "", tiers.ErrNotFound)
	}
	one, held := c.credentials.get(id)
	if !held {
		return access.Credential{}, tiers.CredentialError(kind, id, tiers.ErrUnavailable)
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

// uses collects when credentials were used. The source is told at most once a minute.
type uses struct {
	mu     sync.Mutex
	latest map[string]time.Time // guarded by mu: by credential; not told yet
	toldAt time.Time            // guarded by mu
}

const tellUsesEvery = time.Minute

// maxUses is the maximum number of collected uses.
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

// tellUses tells the source about uses. It has a goroutine of its own, so that changes do not
// wait for it.
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

// tell tells the source the collected uses, unless the last time was less than every ago. If
// that fails, the uses stay collected.
func (u *uses) tell(ctx context.Context, s tiers.Source, every time.Duration) {
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
