package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
)

// A fakeSource is a catalogue somewhere else, which can be lost, slow or deaf.
type fakeSource struct {
	mu       sync.Mutex
	version  int64
	tiers    []tiers.Tier
	tiersAt  int64
	subjects map[string]tiers.Subject
	removed  []tiers.Removal
	keys     map[string]access.Credential
	used     map[string]time.Time

	pageAtMost int // subjects that it can read in its time; 0: any number
	err        error
	delay      time.Duration
	deaf       bool
	pagesFail  error
	origin     string
	unheard    bool // whether notifications are lost
	listed     bool // if false, AllSubjects returns nothing, as if there were no room
	wake       func()
	lookups    [][]string
	slow       time.Duration   // delay of Changes
	always     []tiers.Subject // returned by each call of Changes
	changes    int             // number of calls of Changes
}

// asked returns how often changes were asked for.
func (f *fakeSource) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

func newFakeSource() *fakeSource {
	return &fakeSource{version: 1, tiersAt: 1, tiers: tiers.Builtin(), subjects: make(map[string]tiers.Subject), keys: make(map[string]access.Credential)}
}

func (f *fakeSource) Changes(_ context.Context, since int64) (tiers.Changes, error) {
	f.mu.Lock()
	defer func() {
		slow := f.slow
		f.mu.Unlock()
		time.Sleep(slow)
	}()
	f.changes++
	if f.err != nil {
		return tiers.Changes{}, f.err
	}
	ch := tiers.Changes{Version: f.version, Origin: f.origin, Subjects: slices.Clone(f.always)}
	if f.tiersAt > since {
		ch.Tiers = slices.Clone(f.tiers)
	}
	for _, s := range f.subjects {
		if s.Version > since {
			ch.Subjects = append(ch.Subjects, s)
		}
	}
	for _, k := range f.keys {
		if k.Version > since {
			ch.Credentials = append(ch.Credentials, k)
		}
	}
	for _, s := range f.removed {
		if s.Version > since {
			ch.Removed = append(ch.Removed, s)
		}
	}
	return ch, nil
}

func (f *fakeSource) AllSubjects(_ context.Context, after string, most int) (list []tiers.Subject, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(f.subjects)) {
		if id > after && len(list) < most && f.listed {
			list = append(list, f.subjects[id])
		}
	}
	if f.pageAtMost > 0 && len(list) > f.pageAtMost {
		return nil, fmt.Errorf("%d rows: %w", len(list), tiers.ErrUnavailable)
	}
	return list, errors.Join(f.err, f.pagesFail)
}

func (f *fakeSource) AllCredentials(_ context.Context, after string, most int) (list []access.Credential, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(f.keys)) {
		if id > after && len(list) < most && f.listed {
			list = append(list, f.keys[id])
		}
	}
	return list, f.err
}

func (f *fakeSource) LookupSubjects(ctx context.Context, ids []string) ([]tiers.Subject, int64, error) {
	f.mu.Lock()
	delay := f.delay
	f.lookups = append(f.lookups, ids)
	var found []tiers.Subject
	for _, id := range ids {
		if s, ok := f.subjects[id]; ok {
			found = append(found, s)
		}
	}
	version, err := f.version, f.err
	f.mu.Unlock()
	if delay > 0 { // what was read may be old by the time it arrives
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(delay):
		}
	}
	return found, version, err
}

func (f *fakeSource) LookupCredentials(_ context.Context, ids []string) (found []access.Credential, version int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups = append(f.lookups, ids)
	for _, id := range ids {
		if k, ok := f.keys[id]; ok {
			found = append(found, k)
		}
	}
	return found, f.version, f.err
}

func (f *fakeSource) UsedCredentials(_ context.Context, used map[string]time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = used
	return f.err
}

func (f *fakeSource) Listen(ctx context.Context, wake func()) error {
	f.mu.Lock()
	f.wake = wake
	unheard := f.unheard
	f.mu.Unlock()
	if unheard {
		return tiers.ErrNotHeard
	}
	wake()
	<-ctx.Done()
	return ctx.Err()
}

// change does something to the source and lets those who listen know.
func (f *fakeSource) change(do func(version int64)) {
	f.mu.Lock()
	f.version++
	do(f.version)
	wake := f.wake
	if f.deaf {
		wake = nil
	}
	f.mu.Unlock()
	if wake != nil {
		wake()
	}
}

func (f *fakeSource) put(id, tier string) {
	f.change(func(v int64) { f.subjects[id] = tiers.Subject{ID: id, Tier: tier, Version: v} })
}

// A subject is suspended even while the tier it is on has not arrived.
func TestASuspendedSubjectOnAnUnknownTierIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.set(func() {
			f.subjects["acct_42"] = tiers.Subject{ID: "acct_42", Tier: "not_here_yet", Status: tiers.Suspended, Version: 1}
		})
		c := newCache(t, f, cache.Config{})
		if plan, err := c.Resolve(t.Context(), "acct_42", time.Now().Add(time.Second)); err != nil || plan.Config().Refusal != tierlimit.Suspended || !plan.Fallback() {
			t.Errorf("%+v, %v", plan, err)
		}
	})
}

// A row by hand may lack the grace that the admin API asks for.
func TestASubjectThatIsPastDueWithoutAGraceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.set(func() {
			f.subjects["acct_42"] = tiers.Subject{ID: "acct_42", Tier: "pro", Status: tiers.PastDue, Version: 1}
		})
		c := newCache(t, f, cache.Config{})
		if reason := resolve(t, c, "acct_42").Config().Refusal; reason != tierlimit.Suspended {
			t.Errorf("refused as %q", reason)
		}
	})
}

func (f *fakeSource) remove(id string) {
	f.change(func(v int64) {
		delete(f.subjects, id)
		f.removed = append(f.removed, tiers.Removal{Kind: tiers.KindSubject, ID: id, Version: v})
	})
}

func (f *fakeSource) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func newCache(t *testing.T, f *fakeSource, cfg cache.Config) *cache.Cache {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	c, err := cache.New(t.Context(), f, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// resolve asks as the engine does, with a decision's budget.
func resolve(t *testing.T, c *cache.Cache, subject string) *tierlimit.Plan {
	t.Helper()
	p, err := c.Resolve(context.Background(), subject, time.Now().Add(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// settle lets what was woken finish, in a bubble's time.
func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

func wantTier(t *testing.T, p *tierlimit.Plan, tier string, fallback bool) {
	t.Helper()
	if p.Tier() != tier || p.Fallback() != fallback {
		t.Fatalf("on %s, fallback %v; want %s, %v", p.Tier(), p.Fallback(), tier, fallback)
	}
}

func TestCacheFollowsSubjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		wantTier(t, resolve(t, c, "nobody"), "free", false)

		f.put("acct_42", "enterprise")
		f.put("nobody", "pro")
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "enterprise", false)
		wantTier(t, resolve(t, c, "nobody"), "pro", false)

		f.remove("acct_42")
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "free", false)
		if n := len(f.lookups); n != 2 {
			t.Errorf("%d look-ups for two subjects: %v", n, f.lookups)
		}
	})
}

func TestCacheFollowsTiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		resolve(t, c, "nobody")
		f.change(func(v int64) {
			f.tiers, f.tiersAt = tiers.Builtin(), v
			f.tiers[0].Limits["per_minute"] = tiers.Limit{Max: 50, Window: tierlimit.Window{Length: time.Minute}}
		})
		settle()
		if most := resolve(t, c, "nobody").Config().Limits[1].Max; most != 50 {
			t.Errorf("per_minute is %d after it was set to 50", most)
		}
	})
}

func TestCachePollsWhenNotificationsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "free")
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "free", false)
		settle() // the look that comes with listening is over
		f.set(func() { f.deaf = true })
		f.put("acct_42", "pro")
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "free", false)
		time.Sleep(5*time.Second + time.Millisecond) // the bubble's clock
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
	})
}

func TestCacheNeverTakesInvalidTiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		for name, bad := range map[string][]tiers.Tier{
			"empty":      {},
			"no default": tiers.Builtin()[1:],
			"an invalid": {{Key: "free", Default: true}},
		} {
			f.change(func(v int64) { f.tiers, f.tiersAt = bad, v })
			settle()
			if p := resolve(t, c, "nobody"); p.Tier() != "free" || len(p.Config().Limits) != 2 {
				t.Errorf("%s: put in force: %+v", name, p)
			}
		}
		f.change(func(v int64) { f.tiers, f.tiersAt = tiers.Builtin(), v })
		settle()
		if c.Version() != f.version {
			t.Errorf("at version %d after valid tiers came back, want %d", c.Version(), f.version)
		}
	})
}

func TestCacheOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		f.put("acct_43", "pro")
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		f.set(func() { f.err = errors.New("connection refused") })
		time.Sleep(time.Hour)
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		wantTier(t, resolve(t, c, "acct_43"), "free", true)
		f.set(func() { f.err = nil })
		time.Sleep(time.Second)
		wantTier(t, resolve(t, c, "acct_43"), "pro", false)
	})
}

func TestALookUpTakesAtMostHalfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		f.delay = 200 * time.Millisecond
		c := newCache(t, f, cache.Config{})
		start := time.Now()
		wantTier(t, resolve(t, c, "acct_42"), "free", true)
		if took := time.Since(start); took != 25*time.Millisecond {
			t.Errorf("waited %v of a budget of 50ms", took)
		}
		time.Sleep(time.Second)
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
	})
}

// A guard asks for the plan of a request that it may refuse.
func TestALimiterKnowsAPlanWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		f.delay = 200 * time.Millisecond
		lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: newCache(t, f, cache.Config{Subjects: 1})})
		if err != nil {
			t.Fatal(err)
		}
		plan := func(subject string) *tierlimit.Plan {
			t.Helper()
			start := time.Now()
			p, err := lim.Plan(t.Context(), subject)
			if err != nil || time.Since(start) > 0 {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
			return p
		}
		wantTier(t, plan("acct_43"), "free", true)
		time.Sleep(time.Second) // the look-up was made all the same
		wantTier(t, plan("acct_43"), "free", false)
		if p := plan("acct_42"); p.Priority() != priorityOf(p.Tier()) {
			t.Errorf("priority %d of %s", p.Priority(), p.Tier())
		}
		if _, err := lim.Plan(t.Context(), ""); err == nil {
			t.Error("a plan for nobody")
		}
	})
}

func priorityOf(tier string) int {
	for _, t := range tiers.Builtin() {
		if t.Key == tier {
			return t.Priority
		}
	}
	return -1
}

func TestALookUpOvertakenByAChangeIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "free")
		f.delay = 100 * time.Millisecond
		c := newCache(t, f, cache.Config{})
		resolve(t, c, "acct_42")
		synctest.Wait() // read as free, and on its way
		f.put("acct_42", "pro")
		time.Sleep(time.Second)
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
	})
}

func TestManyWhoAskForOneSubjectShareALookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		f.delay = 10 * time.Millisecond
		c := newCache(t, f, cache.Config{})
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { wantTier(t, resolve(t, c, "acct_42"), "pro", false) })
		}
		wg.Wait()
		if len(f.lookups) != 1 {
			t.Errorf("%d look-ups", len(f.lookups))
		}
	})
}

func TestAFloodOfMadeUpSubjectsIsAFewQueriesAndEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "pro")
		c := newCache(t, f, cache.Config{Subjects: 1000})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		f.set(func() { f.delay = 5 * time.Millisecond })
		var wg sync.WaitGroup
		for i := range 20_000 {
			wg.Go(func() { resolve(t, c, fmt.Sprint("made-up-", i)) })
		}
		wg.Wait()
		time.Sleep(time.Second)
		f.set(func() {
			if n := len(f.lookups); n > 20_000/512+2 {
				t.Errorf("%d queries for 20,000 names", n)
			}
			f.lookups = nil
		})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		if len(f.lookups) != 0 {
			t.Error("the flood evicted a customer")
		}
	})
}

func TestATierThatIsNotValidHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "free")
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "free", false)
		f.change(func(v int64) {
			f.tiers, f.tiersAt = tiers.Builtin(), v
			f.tiers[0].Limits = nil // what a constraint did not stop
			f.tiers[1].Limits["per_minute"] = tiers.Limit{Max: 77, Window: tierlimit.Window{Length: time.Minute}}
		})
		f.put("acct_42", "pro")
		settle()
		if p := resolve(t, c, "acct_42"); p.Tier() != "pro" || p.Config().Limits[0].Max != 77 {
			t.Errorf("%+v, want pro as it is now", p)
		}
		if p := resolve(t, c, "nobody"); p.Tier() != "free" || len(p.Config().Limits) != 2 {
			t.Errorf("%+v, want free as it was", p)
		}
	})
}

func TestACatalogueThatWentBackIsReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		for range 10 {
			f.put("acct_42", "pro")
		}
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		f.change(func(int64) { // restored from a backup of before
			f.version, f.tiersAt = 2, 1
			f.subjects["acct_42"] = tiers.Subject{ID: "acct_42", Tier: "free", Version: 2}
		})
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "free", false)
		f.put("acct_43", "enterprise")
		settle()
		wantTier(t, resolve(t, c, "acct_43"), "enterprise", false)
	})
}

// A look-up that was read before the catalogue went back has a higher version than
// anything that follows, and would have stayed.
func TestALookUpFromBeforeTheCatalogueWentBackIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		for range 10 {
			f.put("acct_42", "pro")
		}
		c := newCache(t, f, cache.Config{})
		f.set(func() { f.delay = 200 * time.Millisecond })
		wantTier(t, resolve(t, c, "acct_42"), "free", true) // its look-up is on its way, as pro
		f.change(func(int64) {
			f.version, f.tiersAt = 2, 1
			f.subjects["acct_42"] = tiers.Subject{ID: "acct_42", Tier: "enterprise", Version: 2}
		})
		time.Sleep(time.Second)
		wantTier(t, resolve(t, c, "acct_42"), "enterprise", false)
	})
}

func TestAFailingSourceIsAskedSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		f.set(func() { f.err = errors.New("connection refused") })
		for i := range 2000 {
			resolve(t, c, fmt.Sprint("made-up-", i))
			time.Sleep(time.Millisecond)
		}
		f.set(func() {
			if n := len(f.lookups); n > 6 {
				t.Errorf("%d queries in two seconds of an outage", n)
			}
		})
	})
}

// A subject on a tier that is not there yet made the cache ask its source with each
// request.
func TestATierThatIsNotKnownIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.set(func() { f.subjects["acct_42"] = tiers.Subject{ID: "acct_42", Tier: "not_here_yet", Version: 1} })
		c := newCache(t, f, cache.Config{Poll: time.Hour})
		settle()
		before := f.asked()
		for range 100 {
			p := resolve(t, c, "acct_42")
			wantTier(t, p, "free", true)
			if !p.Config().Unknown {
				t.Fatal("a subject whose tier was not learned counts as a customer")
			}
			time.Sleep(50 * time.Millisecond)
		}
		if n := f.asked() - before; n > 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A change that was on its way while a newer one was applied changes nothing.
func TestAnOlderRowUndoesNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.put("acct_42", "free")
		f.put("acct_42", "pro")
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
		f.change(func(int64) { // told as a change, with the version it had before
			f.always = []tiers.Subject{{ID: "acct_42", Tier: "free", Version: 1}}
		})
		settle()
		wantTier(t, resolve(t, c, "acct_42"), "pro", false)
	})
}

func TestKeysDoNotOutliveACatalogueThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		for range 10 {
			f.put("acct_42", "pro")
		}
		k := f.issue("acct_42", nil)
		settle()
		wantSubject(t, c, k.Secret, "acct_42")
		f.change(func(int64) { // restored from a backup in which there is no such key
			f.version, f.tiersAt = 2, 1
			delete(f.keys, k.ID)
		})
		settle()
		wantSubject(t, c, k.Secret, "")
	})
}

// A tier that is not valid stays as it was, except that it may cease to be the default.
func TestAWrongTierHoldsUpNoOtherThatBecomesTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		wantTier(t, resolve(t, c, "nobody"), "free", false)
		f.change(func(v int64) {
			list := tiers.Builtin()
			list[0].Default, list[1].Default = false, true
			list[0].Priority = -5 // no release would write that
			f.tiers, f.tiersAt = list, v
		})
		settle()
		wantTier(t, resolve(t, c, "nobody"), "pro", false)
	})
}
