// Package cache answers which plan a subject is on, and whose a secret is, from a copy in
// memory of a catalogue that lives elsewhere. It follows the catalogue's changes through a
// tiers.Source, such as pgtiers.
package cache

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Config tunes a Cache. The zero Config is ready for use.
type Config struct {
	Subjects int           // maximum number of cached subjects, and of cached keys and tokens; default 1,000,000
	Poll     time.Duration // how often the source is asked although nothing was heard; default 5s
	Logger   *slog.Logger  // told when the source is lost and found again; default slog.Default
}

// A Cache answers from memory for a catalogue that lives elsewhere. It holds all tiers, and
// all subjects, keys and tokens up to a bound; beyond the bound, the most recently requested
// ones. The Cache learns of changes by the source's notifications, or at the latest with the
// next poll. During an outage of the source it answers with what it holds.
//
// A subject that is not cached needs one look-up, shared by all callers. Look-ups are
// batched: only one query runs at a time, however many unknown names are requested.
//
// A Cache is safe for concurrent use; reads share no lock.
type Cache struct {
	source  tiers.Source
	cfg     Config
	set     atomic.Pointer[tiers.Set]
	control atomic.Pointer[tiers.LoadControl]
	puzzled atomic.Pointer[tiers.Set] // the tiers that lacked one a subject is on

	mu          sync.Mutex
	partial     bool                    // guarded by mu: the initial load is not complete
	version     int64                   // guarded by mu: all changes up to it are applied
	origin      string                  // guarded by mu: Changes.Origin of version
	history     int                     // guarded by mu: how often the source went back in time
	subjects    *shelf[*tiers.Resident] // changed under mu
	credentials *shelf[*credential]     // changed under mu

	asOf    atomic.Int64  // when the last successful request to the source began, in ns since the epoch
	lost    atomic.Bool   // whether the last request to the source failed
	unheard atomic.Bool   // whether notifications do not arrive: ErrNotHeard
	stale   chan struct{} // holds one element when the source should be asked
	uses    uses
	cancel  context.CancelFunc
	running sync.WaitGroup
}

var (
	_ tierlimit.Resolver = (*Cache)(nil)
	_ tiers.Keyring      = (*Cache)(nil)
)

// New loads the catalogue from source, which must be reachable, and follows it until
// Close.
func New(ctx context.Context, source tiers.Source, cfg Config) (*Cache, error) {
	if cfg.Subjects <= 0 {
		cfg.Subjects = 1_000_000
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Cache{source: source, cfg: cfg, stale: make(chan struct{}, 1)}
	c.control.Store(&tiers.LoadControl{})
	c.subjects, c.credentials = newShelf[*tiers.Resident](cfg.Subjects), newShelf[*credential](cfg.Subjects)
	c.asOf.Store(time.Now().UnixNano())
	if err := c.refresh(ctx); err != nil {
		return nil, fmt.Errorf("load the catalogue: %w", err)
	}
	if c.set.Load() == nil {
		return nil, fmt.Errorf("load the catalogue: %w", tierlimit.ErrNoPlan)
	}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.subjects.begin(ctx, c, c.lookupSubjects)
	c.credentials.begin(ctx, c, c.lookupCredentials)
	c.running.Go(func() { c.follow(ctx) })
	c.running.Go(func() { c.listen(ctx) })
	c.running.Go(func() { c.tellUses(ctx) })
	return c, nil
}

// Close stops following the source and returns when everything has stopped. The
// cache goes on answering with what it has.
func (c *Cache) Close() {
	c.cancel()
	c.running.Wait()
	c.subjects.wait()
	c.credentials.wait()
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	c.uses.tell(ctx, c.source, 0)
}

// Tiers returns the tiers in force, the lowest priority first.
func (c *Cache) Tiers() []tiers.Tier { return c.set.Load().List() }

// LoadControl returns what an administrator says of load.
func (c *Cache) LoadControl() tiers.LoadControl { return *c.control.Load() }

// Known reports whether subject is held as a customer; false also for one that is not
// held. It never blocks.
func (c *Cache) Known(subject string) bool {
	_, ok := c.subjects.known.Load().peek(subject)
	return ok
}

// Version returns the version of the catalogue the cache has caught up with.
func (c *Cache) Version() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Age returns how old the cached data may be: the time since the source last answered which
// changes it has. While the source is reachable, the age is a few seconds at most.
func (c *Cache) Age() time.Duration { return time.Since(time.Unix(0, c.asOf.Load())) }

// IsFollowing reports whether c follows its source: changes arrive.
func (c *Cache) IsFollowing() bool { return !c.lost.Load() && c.Age() <= 2*c.cfg.Poll+lookupTimeout }

// Lookups returns the number of subjects and credentials that are being looked up.
func (c *Cache) Lookups() int { return c.subjects.underWay() + c.credentials.underWay() }

// LookupStats are counts of the queries for unknown subjects or credentials.
type LookupStats struct {
	Queries int64 // each looks up to 512 ids up
	Failed  int64 // of them
	Took    time.Duration
}

// LookupStats returns the counts of queries for subjects and for credentials since the start.
func (c *Cache) LookupStats() (subjects, credentials LookupStats) {
	return c.subjects.counted(), c.credentials.counted()
}

// Following describes to a user whether c follows its source, and the age of its data.
func (c *Cache) Following() string {
	age := c.Age().Round(100 * time.Millisecond)
	if !c.IsFollowing() {
		return fmt.Sprintf("not followed, as of %v ago", age)
	}
	return fmt.Sprintf("followed, as of %v ago", age)
}

// Resolve implements tierlimit.Resolver. For a subject it holds it never waits; for
// another it waits at most half of the time until the deadline, so that the rest of the
// decision keeps its share.
func (c *Cache) Resolve(ctx context.Context, subject string, deadline time.Time) (*tierlimit.Plan, error) {
	if r, ok := c.subjects.get(subject); ok {
		return c.plan(r, subject)
	}
	answer := c.subjects.ask(subject)
	if !answer.await(ctx, deadline) {
		return c.set.Load().Fallback(subject), nil
	}
	return c.plan(answer.found, subject)
}

// plan returns that of a subject; r is nil for one that nobody knows.
func (c *Cache) plan(r *tiers.Resident, subject string) (*tierlimit.Plan, error) {
	current := c.set.Load()
	if r == nil {
		return current.Plan("", subject), nil
	}
	plan, err := r.Plan(current)
	if err == nil && plan.Fallback() && c.puzzled.Swap(current) != current {
		c.wake() // on a tier these do not have: ask once whether there are newer ones
	}
	return plan, err
}

func (c *Cache) lookupSubjects(ctx context.Context, ids []string) ([]*tiers.Resident, int64, error) {
	list, version, err := c.source.LookupSubjects(ctx, ids)
	residents := make([]*tiers.Resident, len(list))
	for i, s := range list {
		residents[i] = tiers.NewResident(s)
	}
	return residents, version, err
}

func (c *Cache) inHistory() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.history
}

// unlessChanged keeps what was read at version, if nothing is known that came
// after it.
func (c *Cache) unlessChanged(version int64, history int, keep func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.version || history != c.history {
		return false
	}
	keep()
	return true
}
