package cache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
)

// issue puts a new key of subject into the source.
func (f *fakeSource) issue(subject string, expires *time.Time) access.Credential {
	k := access.Credential{Kind: access.Key, Name: "k", Subject: subject, ExpiresAt: expires}.WithSecret()
	kept := k
	kept.Secret = ""
	f.change(func(v int64) {
		kept.Version = v
		f.keys[k.ID] = kept
	})
	return k
}

func (f *fakeSource) revoke(k access.Credential) {
	f.change(func(v int64) {
		delete(f.keys, k.ID)
		f.removed = append(f.removed, tiers.Removal{Kind: string(access.Key), ID: k.ID, Version: v})
	})
}

func wantSubject(t *testing.T, k tiers.Keyring, secret, want string) {
	t.Helper()
	if got, err := tiers.SubjectOf(k)(context.Background(), secret); err != nil || got != want {
		t.Fatalf("the key names %q, %v; want %q", got, err, want)
	}
}

func TestAKeyNamesItsSubjectUntilItIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		k := f.issue("acct_42", nil)
		wantSubject(t, c, k.Secret, "acct_42")
		wantSubject(t, c, k.Secret[:len(k.Secret)-1]+"1", "") // which no secret has
		f.revoke(k)
		settle()
		wantSubject(t, c, k.Secret, "")
	})
}

// What a look-up has learned is not unlearned by changes that were read before.
func TestAnOlderAnswerDoesNotUndoARevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		settle()
		f.set(func() { f.slow = time.Second })
		k := f.issue("acct_42", nil) // read, and on its way for a second
		time.Sleep(100 * time.Millisecond)
		f.set(func() { f.version++; delete(f.keys, k.ID) }) // gone, and nobody has heard
		wantSubject(t, c, k.Secret, "")
		time.Sleep(1500 * time.Millisecond)
		f.set(func() { f.slow = 0 })
		wantSubject(t, c, k.Secret, "")
	})
}

func TestAKeyEndsAtItsInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		expires := time.Now().Add(time.Hour)
		k := f.issue("acct_42", &expires)
		wantSubject(t, c, k.Secret, "acct_42")
		time.Sleep(time.Hour - time.Nanosecond)
		wantSubject(t, c, k.Secret, "acct_42")
		time.Sleep(time.Nanosecond)
		wantSubject(t, c, k.Secret, "")
	})
}

func TestAKnownKeyOutlivesAnOutageAndAnotherNamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		known := f.issue("acct_42", nil)
		wantSubject(t, c, known.Secret, "acct_42")
		f.set(func() { f.err = errors.New("down") })
		other := f.issue("acct_43", nil)
		wantSubject(t, c, known.Secret, "acct_42")
		wantSubject(t, c, other.Secret, "")
		if _, err := c.Authenticate(t.Context(), other.Secret); !errors.Is(err, tiers.ErrUnavailable) {
			t.Errorf("what could not be learned is %v", err)
		}
	})
}

func TestWhatIsNoSecretIsNotLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		k := f.issue("acct_42", nil)
		for _, secret := range []string{"", "tl_", "tl_key_", "sk_live_1234", k.Secret + "a", "tl_key_" + k.ID, "tl_key_" + k.ID + "_", "tl_king" + k.Secret[6:], "TL_KEY" + k.Secret[6:]} {
			wantSubject(t, c, secret, "")
		}
		if len(f.lookups) != 0 {
			t.Errorf("looked up %q", f.lookups)
		}
	})
}

func TestATokenIsNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		token := access.Credential{Kind: access.Token, Name: "ci", Role: access.Owner}.WithSecret()
		f.change(func(v int64) { token.Version = v; f.keys[token.ID] = token })
		wantSubject(t, c, token.Secret, "")
		if got, err := c.Authenticate(t.Context(), token.Secret); err != nil || got.Role != access.Owner {
			t.Errorf("the token is %+v, %v", got, err)
		}
		asKey := "tl_key_" + token.Secret[len("tl_token_"):]
		if _, err := c.Authenticate(t.Context(), asKey); !errors.Is(err, tiers.ErrNotFound) {
			t.Errorf("a token called a key: %v", err)
		}
	})
}

func TestUsesAreToldNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource()
		c := newCache(t, f, cache.Config{})
		k := f.issue("acct_42", nil)
		used := func() (n int) {
			f.set(func() { n = len(f.used) })
			return n
		}
		wantSubject(t, c, k.Secret, "acct_42")
		time.Sleep(6 * time.Second) // a poll
		if used() != 1 {
			t.Error("not told")
		}
		f.set(func() { f.used = nil; f.err = errors.New("down") })
		wantSubject(t, c, k.Secret, "acct_42")
		time.Sleep(2 * time.Minute)
		f.set(func() { f.used = nil; f.err = nil })
		time.Sleep(2 * time.Minute)
		if used() != 1 {
			t.Error("lost in an outage")
		}
		f.set(func() { f.used = nil })
		wantSubject(t, c, k.Secret, "acct_42")
		c.Close()
		if used() != 1 {
			t.Error("lost at the end")
		}
	})
}
