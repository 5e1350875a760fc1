package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/tiers"
)

func TestWhoGuessesTokensIsSlowedDownAndNobodyElse(t *testing.T) {
	cfg := newSite(t, 0).cfg
	cfg.Who.Address.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	admin := api.Admin(cfg)
	ask := func(from, forwarded, token string) (int, http.Header) {
		r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
		r.RemoteAddr = from
		r.Header.Set("X-Forwarded-For", forwarded)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code, w.Header()
	}
	const guesser = "[2001:db8:1:2::3]:4711"
	if code, _ := ask("192.0.2.8:1", "", adminToken); code != 200 {
		t.Fatalf("before: %d", code)
	}
	for i := range 20 {
		from := fmt.Sprintf("[2001:db8:1:2::%x]:4711", i) // all in one /64
		if code, _ := ask(from, "203.0.113.9", fmt.Sprint("guess", i)); code != 401 {
			t.Fatalf("guess %d: %d", i, code)
		}
		ask("192.0.2.8:1", "", fmt.Sprint("guess", i))
		ask("10.1.2.3:1", "203.0.113.1, 198.51.100.1", fmt.Sprint("guess", i))
	}
	for _, c := range []struct {
		what, from, forwarded, token string
		want                         int
	}{
		{"another guess", guesser, "", "guess", 429},
		{"the right token, from where it was guessed at", guesser, "", adminToken, 200},
		{"a made-up header", guesser, "203.0.113.77", "guess", 429},
		{"another network", "[2001:db8:1:3::3]:1", "", adminToken, 200},
		{"who has a neighbour that guesses", "192.0.2.8:2", "", adminToken, 200},
		{"that neighbour", "192.0.2.8:2", "", "guess", 429},
		{"a guesser behind a proxy", "10.1.2.3:1", "198.51.100.1", "guess", 429},
		{"another client of the proxy", "10.1.2.3:1", "198.51.100.2", adminToken, 200},
	} {
		code, h := ask(c.from, c.forwarded, c.token)
		if code != c.want {
			t.Errorf("%s: %d, want %d", c.what, code, c.want)
		}
		if wait, err := strconv.Atoi(h.Get("Retry-After")); code == 429 && (err != nil || wait < 1 || wait > 60) {
			t.Errorf("%s: Retry-After %q", c.what, h.Get("Retry-After"))
		}
	}
}

// slowRing knows no token, and takes its time to say so.
type slowRing struct {
	asked  atomic.Int64
	answer chan struct{}
}

func (k *slowRing) Held(string) (access.Credential, error) {
	return access.Credential{}, tiers.ErrUnavailable
}

func (k *slowRing) Authenticate(context.Context, string) (access.Credential, error) {
	k.asked.Add(1)
	<-k.answer
	return access.Credential{}, tiers.ErrNotFound
}

// Two hundred guesses that came at once were all looked at.
func TestGuessesThatComeAtOnceAreNotAllLookedAt(t *testing.T) {
	cfg := newSite(t, 0).cfg
	ring := &slowRing{answer: make(chan struct{})}
	cfg.Keyring = ring
	admin := api.Admin(cfg)
	codes := make(chan int)
	for i := range 200 {
		go func() {
			r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
			r.Header.Set("Authorization", fmt.Sprint("Bearer guess", i))
			w := httptest.NewRecorder()
			admin.ServeHTTP(w, r)
			codes <- w.Code
		}()
	}
	for range 180 {
		if code := <-codes; code != http.StatusTooManyRequests {
			t.Errorf("%d, want 429", code)
		}
	}
	close(ring.answer)
	for range 20 {
		if code := <-codes; code != http.StatusUnauthorized {
			t.Errorf("%d, want 401", code)
		}
	}
	if n := ring.asked.Load(); n != 20 {
		t.Errorf("%d were looked at", n)
	}
}

// rightRing is a keyring that has no token in memory, but finds every token by look-up.
type rightRing struct {
	slowRing
	found access.Credential
}

func (k *rightRing) Authenticate(context.Context, string) (access.Credential, error) {
	k.asked.Add(1)
	<-k.answer
	return k.found, nil
}

// Regression test: 180 of 200 concurrent first requests with one valid token got 429.
func TestOneTokenIsLookedUpOnceForAllWhoBringIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := newSite(t, 0).cfg
		ring := &rightRing{slowRing: slowRing{answer: make(chan struct{})}, found: access.Credential{ID: "aaaaaaaaaaaaaaaa", Kind: access.Token, Name: "ci", Role: access.Viewer}}
		cfg.Keyring = ring
		admin := api.Admin(cfg)
		codes := make(chan int, 200)
		for range 200 {
			go func() {
				r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
				r.Header.Set("Authorization", "Bearer valid")
				w := httptest.NewRecorder()
				admin.ServeHTTP(w, r)
				codes <- w.Code
			}()
		}
		synctest.Wait()
		close(ring.answer)
		for range 200 {
			if code := <-codes; code != http.StatusOK {
				t.Errorf("%d, want 200", code)
			}
		}
		if n := ring.asked.Load(); n != 1 {
			t.Errorf("looked up %d times", n)
		}
	})
}

// Regression test: invalid tokens from 240,000 addresses locked out all 200 other clients.
func TestGuessersElsewhereLockOutNobody(t *testing.T) {
	cfg := newSite(t, 0).cfg
	cfg.Keyring = &wrongRing{}
	admin := api.Admin(cfg)
	ask := func(from, token string) int {
		r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
		r.RemoteAddr, r.Header = from, http.Header{"Authorization": {"Bearer " + token}}
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code
	}
	for i := range 20_000 {
		ask(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), "guess")
	}
	for i := range 200 {
		if code := ask(fmt.Sprintf("192.0.2.%d:1", i), "another guess"); code != http.StatusUnauthorized {
			t.Fatalf("a stranger's first token: %d", code)
		}
		if code := ask(fmt.Sprintf("192.0.2.%d:1", i), adminToken); code != http.StatusOK {
			t.Fatalf("a valid token: %d", code)
		}
	}
}

// wrongRing is an empty keyring.
type wrongRing struct{}

func (*wrongRing) Held(string) (access.Credential, error) {
	return access.Credential{}, tiers.ErrUnavailable
}

func (*wrongRing) Authenticate(context.Context, string) (access.Credential, error) {
	return access.Credential{}, tiers.ErrNotFound
}

// During a rotation two tokens are valid.
func TestTokensOfTheConfigurationAreRotated(t *testing.T) {
	cfg := newSite(t, 0).cfg
	cfg.Tokens = api.NewTokens([]string{"owner-token-before"}, []string{"service-token-of-all"})
	admin := api.Admin(cfg)
	ask := func(token string) int {
		r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code
	}
	for _, step := range []struct {
		owners        []string
		before, after int
	}{
		{[]string{"owner-token-before"}, 200, 401},
		{[]string{"owner-token-before", "owner-token-after"}, 200, 200},
		{[]string{"owner-token-after"}, 401, 200},
	} {
		cfg.Tokens.Set(step.owners, []string{"service-token-of-all"})
		if before, after := ask("owner-token-before"), ask("owner-token-after"); before != step.before || after != step.after {
			t.Errorf("%q: %d and %d, want %d and %d", step.owners, before, after, step.before, step.after)
		}
	}
	if code := ask("service-token-of-all"); code != 403 {
		t.Errorf("a service reads tiers: %d", code)
	}
}

// Tokens that were right put each other out of a table that was too small.
func TestManyRightTokensOfOneAddressGoOn(t *testing.T) {
	s := newSite(t, 0)
	admin := api.Admin(s.cfg)
	ask := func(token string) int {
		r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code
	}
	var tokens []string
	for i := range 200 {
		c := access.Credential{Kind: access.Token, Name: fmt.Sprint("token", i), Role: access.Viewer}.WithSecret()
		if _, err := tiers.NewEditor(s.cfg.Catalogue, tiers.Actor{}).CreateCredential(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, c.Secret)
		if code := ask(c.Secret); code != 200 {
			t.Fatalf("token %d: %d", i, code)
		}
	}
	for i := range 25 {
		ask(fmt.Sprint("guess", i))
	}
	for i, token := range tokens {
		if code := ask(token); code != 200 {
			t.Errorf("token %d: %d", i, code)
		}
	}
}

// A token that was right and has been revoked is a guess like any other.
func TestARevokedTokenIsNotTriedWithoutEnd(t *testing.T) {
	s := newSite(t, 0)
	admin := api.Admin(s.cfg)
	c := access.Credential{Kind: access.Token, Name: "ci", Role: access.Viewer}.WithSecret()
	kept, err := tiers.NewEditor(s.cfg.Catalogue, tiers.Actor{}).CreateCredential(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() int {
		r := httptest.NewRequest(http.MethodGet, "/admin/v1/tiers", nil)
		r.Header.Set("Authorization", "Bearer "+c.Secret)
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code
	}
	if code := ask(); code != 200 {
		t.Fatalf("before: %d", code)
	}
	if err := tiers.NewEditor(s.cfg.Catalogue, tiers.Actor{}).DeleteCredential(t.Context(), access.Token, kept.ID, kept.Version); err != nil {
		t.Fatal(err)
	}
	var codes []int
	for range 30 {
		codes = append(codes, ask())
	}
	if codes[0] != 401 || codes[19] != 401 || codes[21] != 429 || codes[29] != 429 {
		t.Errorf("answered %v", codes)
	}
}
