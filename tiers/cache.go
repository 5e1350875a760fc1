package tiers

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tierlimit/tierlimit"
)

// CacheConfig tunes a Cache. The zero CacheConfig is ready for use.
type CacheConfig struct {
	Subjects int           // most known subjects held, and as many that are known to be nobody; default 100,000
	Poll     time.Duration // how often the source is asked although nothing was heard; default 5s
	Logger   *slog.Logger  // told when the source is lost and found again; default slog.Default
}

// A Cache answers from memory for a catalogue that lives elsewhere: all tiers,
// and the subjects asked for lately. Changes reach it through the source's
// notifications, or at the latest with the next poll. It outlives an outage of
// its source with what it has.
//
// A subject it does not hold costs one look-up, shared by all who ask and
// bundled with those of other subjects: however many names are made up, one
// query at a time is under way.
type Cache struct {
	source Source
	cfg    CacheConfig
	set    atomic.Pointer[set]

	mu      sync.Mutex
	version int64                            // guarded by mu: all changes up to it are applied
	known   *simplelru.LRU[string, Subject]  // guarded by mu
	nobody  *simplelru.LRU[string, struct{}] // guarded by mu: apart, so that made-up names evict no customer

	lookups lookups
	stale   chan struct{} // holds one element when the source should be asked
	cancel  context.CancelFunc
	running sync.WaitGroup
}

var _ tierlimit.Resolver = (*Cache)(nil)

// NewCache loads the tiers from source, which must answer, and follows it until
// Close.
func NewCache(ctx context.Context, source Source, cfg CacheConfig) (*Cache, error) {
	if cfg.Subjects <= 0 {
		cfg.Subjects = 100_000
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Cache{source: source, cfg: cfg, stale: make(chan struct{}, 1)}
	var err error
	if c.known, err = simplelru.NewLRU[string, Subject](cfg.Subjects, nil); err != nil {
		return nil, err
	}
	if c.nobody, err = simplelru.NewLRU[string, struct{}](cfg.Subjects, nil); err != nil {
		return nil, err
	}
	if err := c.refresh(ctx); err != nil {
		return nil, fmt.Errorf("load tiers: %w", err)
	}
	if c.set.Load() == nil {
		return nil, fmt.Errorf("load tiers: %w", tierlimit.ErrNoPlan)
	}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.lookups.start(ctx, c.lookup)
	c.running.Go(func() { c.follow(ctx) })
	c.running.Go(func() { c.listen(ctx) })
	return c, nil
}

// Close stops following the source and returns when everything has stopped. The
// cache goes on answering with what it has.
func (c *Cache) Close() {
	c.cancel()
	c.running.Wait()
	c.lookups.wait()
}

// Tiers returns the tiers in force, the lowest priority first.
func (c *Cache) Tiers() []Tier { return c.set.Load().list() }

// Version returns the version of the catalogue the cache has caught up with.
func (c *Cache) Version() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Resolve implements tierlimit.Resolver. For a subject it holds it never waits;
// for another it waits at most half the time ctx leaves, so that the rest of
// the decision keeps its share.
func (c *Cache) Resolve(ctx context.Context, subject string) (*tierlimit.Plan, error) {
	tier, ok := c.held(subject)
	if !ok {
		answer := c.lookups.ask(subject)
		if !answer.await(ctx) {
			return c.set.Load().unknown.fallback, nil
		}
		tier = answer.tier
	}
	plan := c.set.Load().plan(tier)
	if plan.Fallback {
		c.wake() // on a tier this cache has not heard of yet
	}
	return plan, nil
}

// held returns the tier of a subject the cache holds, "" for one known to be
// nobody.
func (c *Cache) held(subject string) (tier string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.known.Get(subject); ok {
		return s.Tier, true
	}
	_, ok = c.nobody.Get(subject)
	return "", ok
}

// lookup asks the source and keeps the answers, unless a change that is already
// applied came after they were read: then it asks again, and the second time
// answers without keeping, so that a stream of changes starves nobody.
func (c *Cache) lookup(ctx context.Context, ids []string) (found map[string]Subject, err error) {
	for range 2 {
		list, version, err := c.source.Lookup(ctx, ids)
		if err != nil {
			return nil, err
		}
		found = make(map[string]Subject, len(list))
		for _, s := range list {
			found[s.ID] = s
		}
		if c.keep(ids, found, version) {
			break
		}
	}
	return found, nil
}

func (c *Cache) keep(ids []string, found map[string]Subject, version int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.version {
		return false
	}
	for _, id := range ids {
		if s, ok := found[id]; ok {
			c.known.Add(id, s)
			c.nobody.Remove(id)
		} else {
			c.nobody.Add(id, struct{}{})
			c.known.Remove(id)
		}
	}
	return true
}

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
			since = 0
			continue
		}
		changes.ForgetSubjects = changes.ForgetSubjects || since == 0
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
	if ch.ForgetSubjects {
		c.known.Purge()
		c.nobody.Purge()
	}
	for _, gone := range ch.Removed {
		if s, ok := c.known.Peek(gone.ID); ok && s.Version < gone.Version {
			c.known.Remove(gone.ID)
			c.nobody.Add(gone.ID, struct{}{})
		}
	}
	for _, s := range ch.Subjects {
		c.replace(s)
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
			c.cfg.Logger.Error("tiers: a tier is not valid and stays as it was", "tier", t.Key, "version", ch.Version, "error", err)
			old, ok := c.tierInForce(t.Key)
			if !ok {
				continue
			}
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

// replace is called with mu held. A subject nobody asked for is not worth a
// place.
func (c *Cache) replace(s Subject) {
	if c.nobody.Remove(s.ID) {
		c.known.Add(s.ID, s)
	} else if old, ok := c.known.Peek(s.ID); ok && old.Version < s.Version {
		c.known.Add(s.ID, s)
	}
}
