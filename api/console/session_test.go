package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

func TestSigningInAndOut(t *testing.T) {
	s := newSite(t)
	p := s.visit("")
	p.follow(p.get("subjects?tier=pro")).has(t, http.StatusOK, "Token", `value="subjects?tier=pro"`)
	wrong := p.post("sign-in", url.Values{"token": {"a-token-that-nobody-made"}, "next": {"subjects?tier=pro"}})
	wrong.has(t, http.StatusUnauthorized, "not valid", `value="subjects?tier=pro"`)
	if strings.Contains(wrong.text, "a-token-that-nobody-made") {
		t.Error("the page shows the token")
	}
	p.post("sign-in", url.Values{"token": {serviceToken}}).has(t, http.StatusForbidden, "role service")
	p.get("./").has(t, http.StatusSeeOther)

	in := p.post("sign-in", url.Values{"token": {ownerToken}, "next": {"subjects?tier=pro"}})
	cookie := in.header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Expires="} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie is %q, without %s", cookie, want)
		}
	}
	if strings.Contains(cookie, ownerToken) || strings.Contains(cookie, "Secure") {
		t.Errorf("the cookie is %q", cookie)
	}
	if got := in.header.Get("Location"); got != "subjects?tier=pro" {
		t.Errorf("it leads to %s", got)
	}
	p.get("subjects").has(t, http.StatusOK, "Sign out")
	p.follow(p.post("sign-out", nil)).has(t, http.StatusOK, "Token")
	p.get("subjects").has(t, http.StatusSeeOther)
}

func TestASignInLeadsToNoOtherSite(t *testing.T) {
	s := newSite(t)
	p := s.visit("")
	for _, next := range []string{"https://example.org/", "//example.org", `\\example.org`, "/etc", "../secret", "javascript:alert(1)", ".", ""} {
		in := p.post("sign-in", url.Values{"token": {ownerToken}, "next": {next}})
		if got := in.header.Get("Location"); got != "./" {
			t.Errorf("%q leads to %s", next, got)
		}
	}
}

func TestTheCookieIsSecureBehindTLS(t *testing.T) {
	s := newSite(t)
	p := s.visit("")
	in := p.post("sign-in", url.Values{"token": {ownerToken}}, "Origin", "https://limits.example.org", "Sec-Fetch-Site", "same-origin")
	if cookie := in.header.Get("Set-Cookie"); !strings.Contains(cookie, "; Secure") {
		t.Errorf("behind a proxy with TLS the cookie is %q", cookie)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "https://127.0.0.1/console/sign-in", strings.NewReader("token="+ownerToken))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	s.handler.ServeHTTP(w, r)
	if cookie := w.Header().Get("Set-Cookie"); !strings.Contains(cookie, "; Secure") {
		t.Errorf("with TLS the cookie is %q", cookie)
	}
}

func TestARevokedTokenEndsItsSessionsAtOnce(t *testing.T) {
	s := newSite(t)
	secret, id := s.credential(access.Credential{Kind: access.Token, Name: "ada", Role: access.Owner})
	p := s.signedIn(secret)
	p.get("tiers").has(t, http.StatusOK, "token:ada")
	s.do(tiers.Operation{Ref: tiers.CredentialRef(access.Token, id), Expect: tiers.Present})
	p.get("tiers").has(t, http.StatusSeeOther)
}

func TestASessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/console/sign-in", strings.NewReader("token="+ownerToken))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		s.handler.ServeHTTP(w, r)
		look := func() int {
			r := httptest.NewRequest(http.MethodGet, "/console/tiers", nil)
			for _, c := range w.Result().Cookies() {
				r.AddCookie(c)
			}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			return w.Code
		}
		time.Sleep(12*time.Hour - time.Minute)
		if got := look(); got != http.StatusOK {
			t.Errorf("before its end the session gets %d", got)
		}
		time.Sleep(2 * time.Minute)
		if got := look(); got != http.StatusSeeOther {
			t.Errorf("after its end the session gets %d", got)
		}
	})
}

// Replicas share what their configuration has. While a token is rotated, the old one still opens
// sessions.
func TestReplicasServeEachOthersSessions(t *testing.T) {
	s := newSite(t)
	p := s.signedIn(s.token(access.Viewer))
	moved := *s
	moved.handler = s.newConsole()
	other := moved.visit("")
	u, err := url.Parse(p.home)
	s.must(err)
	there, err := url.Parse(other.home)
	s.must(err)
	other.client.Jar.SetCookies(there, p.client.Jar.Cookies(u))
	other.get("tiers").has(t, http.StatusOK)
	s.tokens.Set([]string{"the-next-owner-token", ownerToken}, nil)
	other.get("tiers").has(t, http.StatusOK)
	s.tokens.Set([]string{"the-next-owner-token"}, nil)
	other.get("tiers").has(t, http.StatusSeeOther)
}

func TestACookieThatWasMadeUpIsNoSession(t *testing.T) {
	s := newSite(t)
	p := s.signedIn(ownerToken)
	u, err := url.Parse(p.home)
	s.must(err)
	good := p.client.Jar.Cookies(u)[0].Value
	for _, value := range []string{"", "x", strings.Repeat("A", len(good)), good[:len(good)-2] + "xx", "A" + good, good[1:]} {
		r := httptest.NewRequest(http.MethodGet, "/console/tiers", nil)
		r.AddCookie(&http.Cookie{Name: "tierlimit_console", Value: value})
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != http.StatusSeeOther {
			t.Errorf("%q is answered %d", value, w.Code)
		}
	}
}

// Wrong tokens are counted by address as those of the API; a right one still works.
func TestGuessesAreThrottled(t *testing.T) {
	s := newSite(t)
	p := s.visit("")
	for range 20 {
		p.post("sign-in", url.Values{"token": {"a-token-that-nobody-made"}}).has(t, http.StatusUnauthorized)
	}
	p.post("sign-in", url.Values{"token": {"a-token-that-nobody-made"}}).has(t, http.StatusTooManyRequests, "Try again in")
	p.post("sign-in", url.Values{"token": {ownerToken}}).has(t, http.StatusSeeOther)
}

func TestAFormOfAnotherSiteIsRefused(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	p := s.signedIn(ownerToken)
	form := url.Values{"do": {"plan"}, "id": {"acct_42"}, "tier": {"pro"}, "step": {"apply"}}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://example.org"}} {
		p.post("change", form, header...).has(t, http.StatusForbidden, "another site")
		p.post("sign-in", url.Values{"token": {ownerToken}}, header...).has(t, http.StatusForbidden)
	}
	if got := s.tierOf("acct_42"); got != "free" {
		t.Errorf("the tier is %s", got)
	}
	p.post("change", form, "Sec-Fetch-Site", "same-origin").has(t, http.StatusSeeOther)
}

func TestPagesSayWhatTheyMayLoad(t *testing.T) {
	s := newSite(t)
	p := s.signedIn(ownerToken)
	for _, path := range []string{"./", "static/console.css", "sign-in", "nothing"} {
		got := p.get(path)
		if policy := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"} {
			if got := got.header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		if strings.Contains(got.text, " style=") || strings.Contains(got.text, " onclick=") {
			t.Errorf("%s has what its policy forbids", path)
		}
	}
}

func TestTheOverviewShowsDecisionsOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for range 8 {
			_, err := s.limiter.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 1})
			s.must(err)
		}
		time.Sleep(11 * time.Second)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/console/sign-in", strings.NewReader("token="+ownerToken))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		s.handler.ServeHTTP(w, r)
		r = httptest.NewRequest(http.MethodGet, "/console/?part=live", nil)
		r.AddCookie(w.Result().Cookies()[0])
		w = httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		text := w.Body.String()
		for _, want := range []string{"10 s: allowed 5; denied, limit exceeded 3", "in the last 10 s: 5 allowed and 3 denied in all", `<td class="n">5</td><td class="n">3</td>`} {
			if !strings.Contains(text, want) {
				t.Errorf("the overview does not say %q: %s", want, text)
			}
		}
		if strings.Contains(text, "<html") {
			t.Error("the live part is a whole page")
		}
	})
}
