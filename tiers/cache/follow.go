package cache

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

// How a Cache keeps up with its source.

// follow asks the source when woken and at every poll.
func (c *Cache) follow(ctx context.Context) {
	var failing error
	for {
		timer := time.NewTimer(c.pollIn())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-c.stale:
		}
		timer.Stop()
		asked := time.Now()
		err := c.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		if c.lost.Store(err != nil); err == nil {
			c.asOf.Store(asked.UnixNano())
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

// pollUnheard is the poll interval while notifications do not arrive.
const pollUnheard = time.Second

// pollIn returns how long to wait for a notification before the next poll.
func (c *Cache) pollIn() time.Duration {
	if c.unheard.Load() {
		return min(c.cfg.Poll, pollUnheard)
	}
	return c.cfg.Poll
}

// refreshPause lets the changes of a bulk load come together.
const refreshPause = 20 * time.Millisecond

// report logs a change of state, not every failure.
func (c *Cache) report(err, before error) {
	switch {
	case err != nil && before == nil:
		c.cfg.Logger.Warn("tiers: cannot follow the catalogue, answering from memory", "age", c.Age().Round(time.Millisecond).String(), "error", err)
	case err == nil && before != nil:
		c.cfg.Logger.Info("tiers: following the catalogue again", "version", c.Version())
	}
}

// listen keeps a Listen going, with a pause after each loss. What was missed
// meanwhile the poll finds.
func (c *Cache) listen(ctx context.Context) {
	var lost atomic.Bool // a source may wake from any goroutine
	for {
		err := c.source.Listen(ctx, func() {
			c.unheard.Store(false)
			if lost.CompareAndSwap(true, false) {
				c.cfg.Logger.Info("tiers: notified again")
			}
			c.wake()
		})
		if ctx.Err() != nil {
			return
		}
		c.unheard.Store(errors.Is(err, tiers.ErrNotHeard))
		if lost.CompareAndSwap(false, true) {
			c.cfg.Logger.Warn("tiers: notifications lost, polling", "poll", c.pollIn().String(), "error", err)
			c.wake()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.listenPause()):
		}
	}
}

// listenPause returns the pause between two attempts to listen. It is longer while
// notifications do not arrive, because each attempt opens a connection.
func (c *Cache) listenPause() time.Duration {
	if c.unheard.Load() {
		return time.Minute
	}
	return 500 * time.Millisecond
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
		if changes.Version < since || since > 0 && c.isElsewhere(changes.Origin) {
			// Restored from a backup, or failed over to a copy that lags: versions
			// no longer mean what they meant here.
			c.cfg.Logger.Warn("tiers: the catalogue went back, or is of another server: reading it anew", "from", since, "to", changes.Version)
			c.mu.Lock()
			c.history++
			c.mu.Unlock()
			since = 0
			continue
		}
		changes.Forget = changes.Forget || since == 0
		c.apply(changes)
		if !changes.More {
			break
		}
		since = changes.Version
	}
	if c.isPartial() && c.set.Load() != nil {
		return c.loadAll(ctx)
	}
	return nil
}

// The page size of an initial load. A page that a slow source could not read in its time is
// read again in smaller ones.
const (
	loadPage     = 10_000
	leastPage    = 100
	smallerPages = 4 // as many in the place of one
)

// loadAll replaces the cached subjects, keys and tokens by all those of the source. Changes
// are applied after loadAll has returned.
func (c *Cache) loadAll(ctx context.Context) error {
	subjects, err := load(ctx, c.cfg.Subjects, func(ctx context.Context, after string, most int) ([]*tiers.Resident, error) {
		list, err := c.source.AllSubjects(ctx, after, most)
		residents := make([]*tiers.Resident, len(list))
		for i := range list {
			residents[i] = tiers.NewResident(list[i])
		}
		return residents, err
	})
	if err != nil {
		return err
	}
	credentials, err := load(ctx, c.cfg.Subjects, func(ctx context.Context, after string, most int) ([]*credential, error) {
		list, err := c.source.AllCredentials(ctx, after, most)
		held := make([]*credential, len(list))
		for i := range list {
			held[i] = &credential{list[i]}
		}
		return held, err
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subjects.hold(subjects)
	c.credentials.hold(credentials)
	c.partial = false
	return nil
}

// load reads up to most items, page by page.
func load[T item](ctx context.Context, most int, page func(ctx context.Context, after string, most int) ([]T, error)) (*recent[T], error) {
	all := newRecent[T](most)
	size := loadPage
	for after, n := "", 0; n < most; {
		want := min(size, most-n)
		list, err := page(ctx, after, want)
		if errors.Is(err, tiers.ErrUnavailable) && size/smallerPages >= leastPage && ctx.Err() == nil {
			size /= smallerPages
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, one := range list {
			all.add(one.ID(), one)
		}
		n += len(list)
		if len(list) < want {
			break
		}
		after = list[len(list)-1].ID()
	}
	return all, nil
}

func (c *Cache) isPartial() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.partial
}

// apply puts changes in force.
func (c *Cache) apply(ch tiers.Changes) {
	next := c.nextSet(ch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if next != nil {
		c.set.Store(next)
	}
	if ch.Load != nil {
		c.control.Store(ch.Load)
	}
	if ch.Forget { // keep the cached items until loadAll replaces them
		c.partial = true
		c.subjects.nobody.purge()
		c.credentials.nobody.purge()
	}
	for _, gone := range ch.Removed {
		if gone.Kind == tiers.KindSubject {
			c.subjects.remove(gone.ID, gone.Version)
		} else {
			c.credentials.remove(gone.ID, gone.Version)
		}
	}
	for _, s := range ch.Subjects {
		c.subjects.replace(tiers.NewResident(s))
	}
	for _, one := range ch.Credentials {
		c.credentials.replace(&credential{one})
	}
	c.version, c.origin = ch.Version, ch.Origin
}

func (c *Cache) isElsewhere(origin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return origin != c.origin
}

// CatchUp blocks until all changes made before the call are applied, or ctx ends. A writer
// calls it to see its own change.
func (c *Cache) CatchUp(ctx context.Context) {
	for called := time.Now().UnixNano(); c.asOf.Load() < called; {
		c.wake()
		select {
		case <-ctx.Done():
			return
		case <-time.After(catchUpPause):
		}
	}
}

// catchUpPause is the polling interval of CatchUp.
const catchUpPause = 2 * time.Millisecond

// nextSet returns the tiers to put in force, nil to leave those that are. One
// tier that is not valid stays as it was, and does not hold up the others; all
// stay when the rest would leave somebody without a plan.
func (c *Cache) nextSet(ch tiers.Changes) *tiers.Set {
	if ch.Tiers == nil {
		return nil
	}
	var list []tiers.Tier
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
	next, err := tiers.NewSet(list)
	if err != nil {
		c.cfg.Logger.Error("tiers: all stay as they were", "version", ch.Version, "error", err)
		return nil
	}
	return next
}

func (c *Cache) tierInForce(key string) (tiers.Tier, bool) {
	if s := c.set.Load(); s != nil {
		return s.Tier(key)
	}
	return tiers.Tier{}, false
}
