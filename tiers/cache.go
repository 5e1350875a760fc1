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
	source  Source
	cfg     CacheConfig
	set     atomic.Pointer[set]
	puzzled atomic.Pointer[set] // the tiers that lacked one a subject is on

	mu      sync.Mutex
	version int64                             // guarded by mu: all changes up to it are applied
	history int                               // guarded by mu: how often the source went back in time
	known   *simplelru.LRU[string, *resident] // guarded by mu
	nobody  *simplelru.LRU[string, struct{}]  // guarded by mu: apart, so that made-up names evict no customer

	lookups lookups
	stale   chan struct{} // holds one element when the source should be asked
	cancel  context.CancelFunc
	running sync.WaitGroup
}

var (
	_ tierlimit.Resolver = (*Cache)(nil)
	_ tierlimit.Holder   = (*Cache)(nil)
)

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
	if c.known, err = simplelru.NewLRU[string, *resident](cfg.Subjects, nil); err != nil {
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
	if plan, ok := c.Held(subject); ok {
		return plan, nil
	}
	answer := c.lookups.ask(subject)
	if !answer.await(ctx) {
		return c.set.Load().unknown.fallback, nil
	}
	return c.plan(answer.subject), nil
}

// Held implements tierlimit.Holder.
func (c *Cache) Held(subject string) (*tierlimit.Plan, bool) {
	r, ok := c.held(subject)
	if !ok {
		return nil, false
	}
	return c.plan(r), true
}

// plan is that of a subject; of nobody known, that is nil.
func (c *Cache) plan(r *resident) *tierlimit.Plan {
	current := c.set.Load()
	if r == nil {
		return current.unknown.unknown
	}
	plan := r.plan(current)
	if plan.Fallback && c.puzzled.Swap(current) != current {
		c.wake() // on a tier these do not have: ask once whether there are newer ones
	}
	return plan
}

// held returns a subject the cache holds, nil for one known to be nobody.
func (c *Cache) held(subject string) (r *resident, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.known.Get(subject); ok {
		return r, true
	}
	_, ok = c.nobody.Get(subject)
	return nil, ok
}

// lookup asks the source and keeps the answers, unless a change that is already
// applied came after they were read: then it asks again, and the second time
// answers without keeping, so that a stream of changes starves nobody.
func (c *Cache) lookup(ctx context.Context, ids []string) (found map[string]*resident, err error) {
	for range 2 {
		history := c.inHistory()
		list, version, err := c.source.Lookup(ctx, ids)
		if err != nil {
			return nil, err
		}
		found = make(map[string]*resident, len(list))
		for _, s := range list {
			found[s.ID] = &resident{Subject: s}
		}
		if c.keep(ids, found, version, history) {
			break
		}
	}
	return found, nil
}

func (c *Cache) inHistory() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.history
}

func (c *Cache) keep(ids []string, found map[string]*resident, version int64, history int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.version || history != c.history {
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
