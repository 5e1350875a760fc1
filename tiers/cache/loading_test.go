package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
)

// Regression test: during an outage of Postgres a paying customer was on the default tier on
// each replica that had not cached it.
func TestACustomerWhomAReplicaHasNotMetKeepsItsPlanInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed = true
		for i := range 25_000 { // several pages
			id := fmt.Sprintf("acct_%05d", i)
			f.subjects[id] = tiers.Subject{ID: id, Tier: "enterprise", Version: 1}
		}
		key := access.Credential{Kind: access.Key, Name: "production", Subject: "acct_00042", Version: 1}.WithSecret()
		f.keys[key.ID] = key
		c := newCache(t, f, cache.Config{})
		f.put("acct_new", "pro")
		f.remove("acct_00007")
		settle()
		f.set(func() { f.err = errors.New("connection refused") })
		time.Sleep(time.Hour)
		for _, id := range []string{"acct_00000", "acct_09999", "acct_10000", "acct_24999"} {
			wantTier(t, resolve(t, c, id), "enterprise", false)
		}
		wantTier(t, resolve(t, c, "acct_new"), "pro", false)
		if n := len(f.lookups); n != 0 {
			t.Errorf("%d look-ups of subjects that are held", n)
		}
		if got, err := c.Authenticate(t.Context(), key.Secret); err != nil || got.Subject != "acct_00042" {
			t.Errorf("a key that nobody has brought yet: %+v, %v", got, err)
		}
		wantTier(t, resolve(t, c, "acct_00007"), "free", false)
	})
}

// After a restore of the source, new data replaces the cached data only once it is complete.
func TestWhatIsReadAnewStandsOnceItIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed = true
		f.version = 50
		f.subjects["acct_1"] = tiers.Subject{ID: "acct_1", Tier: "pro", Version: 50}
		f.subjects["acct_2"] = tiers.Subject{ID: "acct_2", Tier: "pro", Version: 49}
		c := newCache(t, f, cache.Config{})
		settle()
		f.set(func() { // restore a backup: one subject is on another tier, one does not exist yet
			f.version, f.tiersAt = 10, 5
			f.subjects["acct_1"] = tiers.Subject{ID: "acct_1", Tier: "enterprise", Version: 9}
			delete(f.subjects, "acct_2")
			f.pagesFail = errors.New("connection refused")
		})
		f.wake()
		settle()
		wantTier(t, resolve(t, c, "acct_1"), "pro", false)
		wantTier(t, resolve(t, c, "acct_2"), "pro", false)
		f.set(func() { f.pagesFail = nil })
		time.Sleep(6 * time.Second)
		wantTier(t, resolve(t, c, "acct_1"), "enterprise", false)
		wantTier(t, resolve(t, c, "acct_2"), "free", false)
	})
}

// If as many changes follow a restore as it has undone, versions are the same but denote other
// changes.
func TestACatalogueOfAnotherOriginIsReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed, f.origin = true, "one"
		f.put("acct_1", "pro")
		c := newCache(t, f, cache.Config{})
		settle()
		f.set(func() {
			f.origin = "another"
			f.subjects["acct_1"] = tiers.Subject{ID: "acct_1", Tier: "enterprise", Version: f.version}
		})
		time.Sleep(6 * time.Second)
		wantTier(t, resolve(t, c, "acct_1"), "enterprise", false)
	})
}

// Regression test: a replica did not start if the database was too slow for a page of 10,000.
func TestASlowSourceIsReadInSmallerPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed, f.pageAtMost = true, 700
		for i := range 5000 {
			id := fmt.Sprintf("acct_%04d", i)
			f.subjects[id] = tiers.Subject{ID: id, Tier: "pro", Version: 1}
		}
		c := newCache(t, f, cache.Config{})
		for _, id := range []string{"acct_0000", "acct_0624", "acct_0625", "acct_4999"} {
			if !c.Known(id) {
				t.Errorf("%s is not held", id)
			}
		}
	})
}

// With more subjects than room, requested subjects are looked up and cached.
func TestBeyondTheBoundSubjectsAreLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed = true
		for i := range 300 {
			id := fmt.Sprintf("acct_%03d", i)
			f.subjects[id] = tiers.Subject{ID: id, Tier: "pro", Version: 1}
		}
		c := newCache(t, f, cache.Config{Subjects: 100})
		for range 2 {
			wantTier(t, resolve(t, c, "acct_299"), "pro", false)
			settle()
		}
		if n := len(f.lookups); n != 1 {
			t.Errorf("%d look-ups, want 1", n)
		}
	})
}

// If notifications do not arrive, as behind a pooler, the cache polls every second.
func TestASourceThatIsNotHeardIsPolledEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		f.listed, f.deaf, f.unheard = true, true, true
		c := newCache(t, f, cache.Config{})
		settle()
		f.put("acct_1", "pro")
		time.Sleep(1100 * time.Millisecond)
		wantTier(t, resolve(t, c, "acct_1"), "pro", false)
	})
}

func TestACacheSaysWhetherItsSourceIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		settle()
		if age := c.Age(); age > time.Second {
			t.Errorf("as of %v ago", age)
		}
		f.set(func() { f.err = errors.New("connection refused") })
		time.Sleep(time.Minute)
		if age, says := c.Age(), c.Following(); age < 50*time.Second || says != fmt.Sprintf("not followed, as of %v ago", age.Round(100*time.Millisecond)) {
			t.Errorf("%q", says)
		}
	})
}
