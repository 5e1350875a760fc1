package tiers

import (
	"context"
	"sync/atomic"
	"time"
)

// How a Cache keeps up with its source.

// follow asks the source when woken and at every poll.
func (c *Cache) follow(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Poll)
	defer tick.Stop()
	var failing error
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.stale:
		}
		err := c.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		c.report(err, failing)
		failing = err
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshPause):
		}
	}
}

// refreshPause lets the changes of a bulk load come together.
const refreshPause = 20 * time.Millisecond

// report logs a change of state, not every failure.
func (c *Cache) report(err, before error) {
	switch {
	case err != nil && before == nil:
		c.cfg.Logger.Warn("tiers: cannot follow the catalogue, answering from memory", "error", err)
	case err == nil && before != nil:
		c.cfg.Logger.Info("tiers: following the catalogue again", "version", c.Version())
	}
}

// listen keeps a Listen going, with a pause after each loss. What was missed
// meanwhile the poll finds.
func (c *Cache) listen(ctx context.Context) {
	const pause = 500 * time.Millisecond
	var lost atomic.Bool // a source may wake from any goroutine
	for {
		err := c.source.Listen(ctx, func() {
			if lost.CompareAndSwap(true, false) {
				c.cfg.Logger.Info("tiers: notified again")
			}
			c.wake()
		})
		if ctx.Err() != nil {
			return
		}
		if lost.CompareAndSwap(false, true) {
			c.cfg.Logger.Warn("tiers: notifications lost, polling", "poll", c.cfg.Poll.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (c *Cache) wake() {
	select {
	case c.stale <- struct{}{}:
	default: // somebody has asked already
	}
}

// refresh applies what changed since the last time.
func (c *Cache) refresh(ctx context.Context) error {
	since := c.Version()
	for {
		changes, err := c.source.Changes(ctx, since)
		if err != nil {
			return err
		}
		if changes.Version < since {
			// Restored from a backup, or failed over to a copy that lags: versions
			// no longer mean what they meant here.
			c.cfg.Logger.Warn("tiers: the catalogue went back, reading it anew", "from", since, "to", changes.Version)
			c.mu.Lock()
			c.history++
			c.mu.Unlock()
			since = 0
			continue
		}
		changes.Forget = changes.Forget || since == 0
		c.apply(changes)
		if !changes.More {
			return nil
		}
		since = changes.Version
	}
}

// apply puts changes in force.
func (c *Cache) apply(ch Changes) {
	next := c.nextSet(ch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if next != nil {
		c.set.Store(next)
	}
	if ch.Load != nil {
		c.control.Store(ch.Load)
	}
	if ch.Forget {
		c.subjects.purge()
		c.credentials.purge()
	}
	for _, gone := range ch.Removed {
		if gone.Kind == KindSubject {
			c.subjects.remove(gone.ID, gone.Version)
		} else {
			c.credentials.remove(gone.ID, gone.Version)
		}
	}
	for _, s := range ch.Subjects {
		c.subjects.replace(&resident{Subject: s})
	}
	for _, one := range ch.Credentials {
		c.credentials.replace(&credential{Credential: one})
	}
	c.version = ch.Version
}

// nextSet returns the tiers to put in force, nil to leave those that are. One
// tier that is not valid stays as it was, and does not hold up the others; all
// stay when the rest would leave somebody without a plan.
func (c *Cache) nextSet(ch Changes) *set {
	if ch.Tiers == nil {
		return nil
	}
	var list []Tier
	for _, t := range ch.Tiers {
		t.Normalize()
		if err := t.Validate(); err != nil {
			old, ok := c.tierInForce(t.Key)
			if !ok {
				c.cfg.Logger.Error("tiers: a tier is not valid and is left out: who is on it has the default tier", "tier", t.Key, "version", ch.Version, "error", err)
				continue
			}
			c.cfg.Logger.Error("tiers: a tier is not valid and stays as it was", "tier", t.Key, "version", ch.Version, "error", err)
			old.Default = t.Default
			t = old
		}
		list = append(list, t)
	}
	next, err := newSet(list)
	if err != nil {
		c.cfg.Logger.Error("tiers: all stay as they were", "version", ch.Version, "error", err)
		return nil
	}
	return next
}

func (c *Cache) tierInForce(key string) (Tier, bool) {
	if s := c.set.Load(); s != nil {
		for _, t := range s.tiers {
			if t.Key == key {
				return t, true
			}
		}
	}
	return Tier{}, false
}
