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
func (c *Cache) Tiers() []Tier { return c.set.Load().tiers }

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
// applied came after they were read: then it asks again.
func (c *Cache) lookup(ctx context.Context, ids []string) (map[string]Subject, error) {
	for {
		list, version, err := c.source.Lookup(ctx, ids)
		if err != nil {
			return nil, err
		}
		found := make(map[string]Subject, len(list))
		for _, s := range list {
			found[s.ID] = s
		}
		if c.keep(ids, found, version) {
			return found, nil
		}
	}
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
	}
}

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
	told := false
	for {
		var listening atomic.Bool // a source may wake from any goroutine
		err := c.source.Listen(ctx, func() { listening.Store(true); c.wake() })
		if ctx.Err() != nil {
			return
		}
		if listening.Load() || !told {
			c.cfg.Logger.Warn("tiers: notifications lost, polling", "poll", c.cfg.Poll, "error", err)
			told = true
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
	for {
		changes, err := c.source.Changes(ctx, c.Version())
		if err != nil {
			return err
		}
		if err := c.apply(changes); err != nil || !changes.More {
			return err
		}
	}
}

// apply puts changes in force. Tiers that would leave somebody without a plan
// are refused, and everything stays as it was.
func (c *Cache) apply(ch Changes) error {
	var next *set
	if ch.Tiers != nil {
		var err error
		if next, err = newSet(ch.Tiers); err != nil {
			return fmt.Errorf("version %d is not put in force: %w", ch.Version, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.Version < c.version {
		return nil
	}
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
	return nil
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
