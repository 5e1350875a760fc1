package console_test

import (
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/api/console"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/observe"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

const (
	ownerToken   = "owner-token-of-the-tests"
	serviceToken = "service-token-of-the-tests"
)

// A site is a console on a catalogue and counters in memory.
type site struct {
	*testing.T
	catalogue *memtiers.Catalogue
	limiter   *tierlimit.Limiter
	tokens    *api.Tokens
	config    console.Config
	handler   *console.Console
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, tokens: api.NewTokens([]string{ownerToken}, []string{serviceToken})}
	var err error
	s.catalogue, err = memtiers.New(tiers.Builtin())
	s.must(err)
	cpu, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(.2)})
	s.must(err)
	t.Cleanup(cpu.Close)
	counts := observe.New(observe.Config{})
	s.limiter, err = tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: s.catalogue, Load: cpu, Observer: counts})
	s.must(err)
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg := api.Config{Limiter: s.limiter, Catalogue: s.catalogue, Keyring: s.catalogue, Load: cpu, Tokens: s.tokens, Logger: quiet}
	public, err := api.Public(cfg)
	s.must(err)
	admin := api.Admin(cfg)
	s.config = console.Config{
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v1/") {
				public.ServeHTTP(w, r)
				return
			}
			admin.ServeHTTP(w, r)
		}),
		Secrets: s.tokens.OwnerHashes, Counts: counts, Replica: "replica-1", Logger: quiet,
	}
	s.handler = s.newConsole()
	return s
}

func (s *site) newConsole() *console.Console {
	s.Helper()
	c, err := console.New(s.config)
	s.must(err)
	s.Cleanup(c.Close)
	return c
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// credential makes a key or a token and returns its secret and id.
func (s *site) credential(c access.Credential) (secret, id string) {
	s.Helper()
	c = c.WithSecret()
	s.do(tiers.Operation{Ref: tiers.CredentialRef(c.Kind, c.ID), Put: c})
	return c.Secret, c.ID
}

func (s *site) token(role access.Role) string {
	secret, _ := s.credential(access.Credential{Kind: access.Token, Name: "a " + string(role), Role: role})
	return secret
}

func (s *site) subject(subject tiers.Subject) {
	s.Helper()
	s.do(tiers.Operation{Ref: tiers.SubjectRef(subject.ID), Put: subject})
}

func (s *site) do(o tiers.Operation) {
	s.Helper()
	if o.Put != nil {
		o.Expect = tiers.Absent
	}
	_, err := s.catalogue.Do(s.Context(), tiers.Command{Actor: tiers.Actor{ID: "test", Name: "test"}, Operations: []tiers.Operation{o}})
	s.must(err)
}

func (s *site) tierOf(id string) string {
	s.Helper()
	subject, err := s.catalogue.Subject(context.Background(), id)
	s.must(err)
	return subject.Tier
}

// A person is a browser without scripts.
type person struct {
	*site
	server *httptest.Server
	home   string // the URL of the overview
	client *http.Client
}

// visit starts a server and returns somebody who looks at it. prefix is what a proxy puts before the
// path and takes away.
func (s *site) visit(prefix string) *person {
	s.Helper()
	server := httptest.NewServer(http.StripPrefix(prefix, s.handler))
	s.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	s.must(err)
	return &person{site: s, server: server, home: server.URL + prefix + console.Path, client: &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// signedIn is visit, and signs in.
func (s *site) signedIn(token string) *person {
	s.Helper()
	p := s.visit("")
	if got := p.post("sign-in", url.Values{"token": {token}}); got.code != http.StatusSeeOther {
		s.Fatalf("sign-in answers %d: %s", got.code, got.text)
	}
	return p
}

// A page is an answer.
type page struct {
	code   int
	header http.Header
	text   string
}

func (p *person) get(path string) page { return p.send(http.MethodGet, path, nil) }

func (p *person) post(path string, form url.Values, header ...string) page {
	return p.send(http.MethodPost, path, form, header...)
}

func (p *person) send(method, path string, form url.Values, header ...string) page {
	p.Helper()
	home, err := url.Parse(p.home)
	p.must(err)
	target, err := home.Parse(path)
	p.must(err)
	r, err := http.NewRequest(method, target.String(), strings.NewReader(form.Encode()))
	p.must(err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(r)
	p.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	p.must(err)
	return page{resp.StatusCode, resp.Header, string(text)}
}

// follow gets the page that an answer redirects to.
func (p *person) follow(from page) page {
	p.Helper()
	if from.code != http.StatusSeeOther {
		p.Fatalf("no redirect but %d: %s", from.code, from.text)
	}
	return p.get(from.header.Get("Location"))
}

var hiddenInput = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// hidden returns the hidden fields of the form of a page.
func (g page) hidden() url.Values {
	v := make(url.Values)
	for _, m := range hiddenInput.FindAllStringSubmatch(g.text, -1) {
		v.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return v
}

// has reports an error unless the page contains all words.
func (g page) has(t *testing.T, code int, words ...string) {
	t.Helper()
	if g.code != code {
		t.Errorf("answers %d, want %d: %s", g.code, code, g.text)
	}
	for _, word := range words {
		if !strings.Contains(g.text, word) {
			t.Errorf("the page does not say %q: %s", word, g.text)
		}
	}
}

// change fills in the form of a change, looks at the review and applies it. It returns the review,
// and the answer to the change.
func (p *person) change(query string, fields url.Values) (review, made page) {
	p.Helper()
	form := p.get("change?" + query)
	values := form.hidden()
	for name, list := range fields {
		values[name] = list
	}
	review = p.post("change", values)
	if review.code != http.StatusOK {
		return review, review
	}
	values = review.hidden()
	values.Set("step", "apply")
	return review, p.post("change", values)
}

func TestAChangeIsReviewedMadeAndUndone(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	p := s.signedIn(ownerToken)
	review, made := p.change("do=plan&id=acct_42", url.Values{"tier": {"pro"}})
	review.has(t, http.StatusOK, "Nothing has been changed yet", "per_month", "100,000")
	after := p.follow(made)
	after.has(t, http.StatusOK, "Changed subject", "Undo")
	if got := s.tierOf("acct_42"); got != "pro" {
		t.Errorf("the tier is %s", got)
	}
	undo := regexp.MustCompile(`change\?do=undo&amp;event=\d+`).FindString(after.text)
	review = p.get(html.UnescapeString(undo))
	review.has(t, http.StatusOK, "Undo", "pro", "free")
	values := review.hidden()
	values.Set("step", "apply")
	p.follow(p.post("change", values)).has(t, http.StatusOK, "Changed subject")
	if got := s.tierOf("acct_42"); got != "free" {
		t.Errorf("after the undo the tier is %s", got)
	}
}

// What goes along with a change is not in the place of the change.
func TestADeletedSubjectIsOfferedBack(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "pro"})
	s.credential(access.Credential{Kind: access.Key, Name: "production", Subject: "acct_42"})
	p := s.signedIn(ownerToken)
	review := p.get("change?do=delete-subject&id=acct_42")
	review.has(t, http.StatusOK, "1 further change with it", "key.delete")
	values := review.hidden()
	values.Set("step", "apply")
	p.follow(p.post("change", values)).has(t, http.StatusOK, "Deleted subject <code>acct_42</code>", "Undo")
}

// Whatever can be undone is as it was before.
func TestUndo(t *testing.T) {
	for _, c := range []struct {
		name, change string
		fields       url.Values
		page         string // shows the state
	}{
		{"a new subject", "do=create-subject", url.Values{"id": {"acct_new"}, "tier": {"pro"}}, "subject?id=acct_new"},
		{"a deleted subject", "do=delete-subject&id=acct_42", nil, "subject?id=acct_42"},
		{"a trial", "do=trial&id=acct_42", url.Values{"trial.tier": {"pro"}, "trial.ends_at": {"2990-01-01T00:00"}}, "subject?id=acct_42"},
		{"an override", "do=create-override&id=acct_42", url.Values{"limit": {"per_minute"}, "max": {"7"}, "expires_at": {"2990-01-01T00:00"}, "reason": {"a test"}}, "subject?id=acct_42"},
		{"a limit", "do=tier&key=pro", url.Values{"limits.per_minute.max": {"12,345"}}, "tier?key=pro"},
		{"thresholds", "do=tier&key=pro", url.Values{"alerts": {"80, 100 %"}}, "tier?key=pro"},
		{"a removed limit", "do=tier&key=pro", url.Values{"remove.per_minute": {"true"}}, "tier?key=pro"},
		{"an added limit", "do=tier&key=pro", url.Values{"new_limit": {"per_hour"}, "limits.+.max": {"unlimited"}, "limits.+.window": {"1h"}}, "tier?key=pro"},
		{"a new tier", "do=create-tier", url.Values{"key": {"team"}, "new_limit": {"per_day"}, "limits.+.max": {"9"}, "limits.+.window": {"day"}}, "tiers"},
		{"a pin", "do=pin&key=free", url.Values{"pins.free.multiplier": {"0.25"}}, "load"},
		{"a mode", "do=load-mode", url.Values{"mode": {"off"}}, "load"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
			p := s.signedIn(ownerToken)
			before := p.state(c.page)
			fields := typed(p.get("change?" + c.change))
			for name, list := range c.fields {
				fields[name] = list
			}
			if c.fields == nil {
				fields.Set("step", "apply")
			}
			review := p.post("change", fields)
			made := review
			if c.fields != nil {
				review.has(t, http.StatusOK, "Nothing has been changed yet")
				values := review.hidden()
				values.Set("step", "apply")
				made = p.post("change", values)
			}
			done := p.follow(made)
			changed := p.state(c.page)
			if changed == before {
				t.Fatal("nothing was changed")
			}
			undo := regexp.MustCompile(`change\?do=undo&amp;event=\d+`).FindString(done.text)
			values := p.get(html.UnescapeString(undo)).hidden()
			values.Set("step", "apply")
			p.follow(p.post("change", values))
			if after := p.state(c.page); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

var (
	cardOf  = regexp.MustCompile(`(?s)(<section class="card[^"]*" aria-labelledby="(?:account|windows|overrides|limits|rules)".*?</section>)|(<div class="(?:plans|card flush)">.*?</table>)|(<h1.*?</h1>)|(<div class="plans">.*</div>)|(<div><dt>Mode.*?</div>)`)
	seconds = regexp.MustCompile(`free again in [^<·]*|[\d.]+ s ago`)
)

// state returns the parts of a page that say how things are.
func (p *person) state(path string) string {
	p.Helper()
	return seconds.ReplaceAllString(strings.Join(cardOf.FindAllString(p.get(path).text, -1), "\n"), "")
}

var (
	inputs  = regexp.MustCompile(`<input [^>]*name="([^"]*)"[^>]*value="([^"]*)"([^>]*)>`)
	checked = regexp.MustCompile(`type="checkbox"[^>]* name="([^"]*)" value="([^"]*)" checked`)
	selects = regexp.MustCompile(`(?s)<select [^>]*name="([^"]*)"[^>]*>(.*?)</select>`)
	chosen  = regexp.MustCompile(`<option value="([^"]*)" selected>`)
)

// typed returns what the form of a page would send as it is.
func typed(g page) url.Values {
	v := make(url.Values)
	for _, m := range inputs.FindAllStringSubmatch(g.text, -1) {
		if !strings.Contains(m[0], "checkbox") {
			v.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
		}
	}
	for _, m := range checked.FindAllStringSubmatch(g.text, -1) {
		v.Add(m[1], m[2])
	}
	for _, m := range selects.FindAllStringSubmatch(g.text, -1) {
		value := ""
		if o := chosen.FindStringSubmatch(m[2]); o != nil {
			value = o[1]
		}
		v.Set(m[1], value)
	}
	return v
}

func TestAnErrorIsBesideItsFieldAndKeepsWhatWasTyped(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	p := s.signedIn(ownerToken)
	for _, c := range []struct {
		change string
		fields url.Values
		kept   []string
	}{
		{
			"do=create-override&id=acct_42",
			url.Values{"limit": {"per_minute"}, "max": {"a <few>"}, "expires_at": {"2990-01-01T00:00"}, "reason": {"launch & learn"}},
			[]string{`value="a &lt;few&gt;"`, `value="launch &amp; learn"`, `value="2990-01-01T00:00"`, `id="f-max-error">Must be a whole number from 0 to 1000000000000000, or unlimited.`, `aria-invalid="true" aria-describedby="f-max-error"`},
		},
		{"do=plan&id=acct_42", url.Values{"tier": {"gold"}}, []string{"Must be the key of a tier that exists."}},
		{"do=create-subject", url.Values{"id": {"acct_42"}, "tier": {"pro"}}, []string{`value="acct_42"`, `<option value="pro" selected>`}},
		{"do=tier&key=free", url.Values{"name": {"Gratis"}, "limits.per_minute.max": {"5"}, "limits.per_minute.window": {"soon"}, "limits.per_day.max": {"9"}, "limits.per_day.window": {"day"}}, []string{`value="Gratis"`, `value="soon"`, `id="f-limits-per_minute-window-error"`}},
		{"do=create-tier", url.Values{"key": {"Team A"}, "new_limit": {"per_day"}, "limits.+.max": {"x"}}, []string{`value="Team A"`, `id="f-key-error"`}},
		{"do=pin&key=free", url.Values{"pins.free.multiplier": {"7"}}, []string{`value="7"`, `id="f-pins-free-multiplier-error"`}},
		{"do=create-token", url.Values{"name": {""}, "role": {"owner"}}, []string{`<option value="owner" selected>`, `id="f-name-error"`}},
	} {
		review, _ := p.change(c.change, c.fields)
		review.has(t, http.StatusUnprocessableEntity, c.kept...)
	}
}

func TestAFormThatIsTooOldIsKeptAndReviewedAgain(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	p := s.signedIn(ownerToken)
	old := p.get("change?do=status&id=acct_42").hidden()
	old.Set("status", "suspended")
	p.change("do=plan&id=acct_42", url.Values{"tier": {"pro"}})
	kept := p.post("change", old)
	kept.has(t, http.StatusUnprocessableEntity, "Somebody else has changed it", `<option value="suspended" selected>`)
	values := kept.hidden()
	values.Set("status", "suspended")
	p.post("change", values).has(t, http.StatusOK, "Nothing has been changed yet")
}

func TestASecretIsShownOnceAndMadeOnce(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	p := s.signedIn(ownerToken)
	form := p.get("change?do=create-key&id=acct_42").hidden()
	form.Set("name", "production")
	form.Set("subject", "acct_42")
	review := p.post("change", form)
	values := review.hidden()
	values.Set("step", "apply")
	made := p.post("change", values)
	made.has(t, http.StatusOK, "tl_key_")
	if again := p.post("change", values); strings.Contains(again.text, "tl_key_") {
		t.Error("a form that was sent twice shows a secret twice")
	}
	if n := strings.Count(p.get("keys").text, "production</th>"); n != 1 {
		t.Errorf("there are %d keys", n)
	}
}

func TestManySubjectsAreImportedAndMoved(t *testing.T) {
	s := newSite(t)
	p := s.signedIn(ownerToken)
	var lines strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&lines, `{"id":"acct_%d","tier":"free"}`+"\n", i)
	}
	check := p.upload("check", lines.String())
	check.has(t, http.StatusOK, "1,200 subjects", "1,200 would be created", "Nothing has been changed yet")
	if !strings.Contains(check.text, "acct_1199") {
		t.Error("the text is not kept for the next step")
	}
	p.upload("apply", lines.String()).has(t, http.StatusOK, "Import is done", "1,200 created", "</html>")
	p.upload("apply", `{"id":"acct_1","tier":"gold"}`).has(t, http.StatusOK, "gold", "acct_1")
	p.upload("check", "").has(t, http.StatusUnprocessableEntity, "nothing to import")

	form := url.Values{"to": {"pro"}, "prefix": {"acct_11"}}
	p.post("move", form).has(t, http.StatusOK, "111 would be changed", "Move 111 subjects", `value="acct_11"`)
	if got := s.tierOf("acct_11"); got != "free" {
		t.Errorf("after the check the tier is %s", got)
	}
	form.Set("step", "apply")
	p.post("move", form).has(t, http.StatusOK, "Move is done", "111 changed")
	if got := s.tierOf("acct_11"); got != "pro" {
		t.Errorf("the tier is %s", got)
	}
	p.post("move", url.Values{"to": {"pro"}}).has(t, http.StatusUnprocessableEntity, "everybody")
}

// upload sends the form of an import with a file.
func (p *person) upload(step, lines string) page {
	p.Helper()
	const boundary = "boundary-of-the-test"
	part := func(name, more, value string) string {
		return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%q%s\r\n\r\n%s\r\n", boundary, name, more, value)
	}
	body := part("text", "", "") + part("file", `; filename="subjects.ndjson"`, lines) + part("step", "", step) + "--" + boundary + "--\r\n"
	r, err := http.NewRequest(http.MethodPost, p.home+"import", strings.NewReader(body))
	p.must(err)
	r.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	resp, err := p.client.Do(r)
	p.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	p.must(err)
	return page{resp.StatusCode, resp.Header, string(text)}
}

// What is typed and stored is text, wherever it is shown.
func TestNothingThatIsStoredBecomesMarkup(t *testing.T) {
	s := newSite(t)
	const id = `<script>alert(1)</script>"'&`
	s.subject(tiers.Subject{ID: id, Tier: "free"})
	s.credential(access.Credential{Kind: access.Key, Name: id, Subject: id})
	p := s.signedIn(ownerToken)
	for range 8 {
		_, err := s.limiter.Take(t.Context(), tierlimit.Request{Subject: id, Cost: 1})
		s.must(err)
	}
	at := url.QueryEscape(id)
	for _, path := range []string{"./", "subjects", "subjects?prefix=" + at, "subject?id=" + at, "keys", "keys?subject=" + at, "audit", "audit?object=" + at, "change?do=plan&id=" + at, "bulk?prefix=" + at, "sign-in?next=" + at} {
		if got := p.get(path); strings.Contains(got.text, "<script>alert") || got.code != http.StatusOK {
			t.Errorf("%s: %d: %s", path, got.code, got.text)
		}
	}
}

var pages = []string{
	"./", "subjects", "subject?id=acct_42", "subject?id=unknown", "tiers", "tier?key=free", "keys", "tokens", "webhooks", "load", "audit", "bulk",
	"change?do=create-subject", "change?do=plan&id=acct_42", "change?do=trial&id=acct_42", "change?do=schedule&id=acct_42", "change?do=status&id=acct_42",
	"change?do=block&id=acct_42", "change?do=billing&id=acct_42", "change?do=delete-subject&id=acct_42", "change?do=reset&id=acct_42",
	"change?do=create-override&id=acct_42", "change?do=create-key&id=acct_42", "change?do=create-token", "change?do=create-tier", "change?do=tier&key=free",
	"change?do=load-mode", "change?do=pin&key=free", "change?do=create-webhook",
}

var links = regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)

// Behind a proxy that adds a prefix all links lead to pages that are there.
func TestEveryLinkWorksUnderAPrefix(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	s.credential(access.Credential{Kind: access.Key, Name: "production", Subject: "acct_42"})
	p := s.visit("/tools/limits")
	if got := p.get("sign-in"); got.code != http.StatusOK {
		t.Fatalf("%d: %s", got.code, got.text)
	}
	p.follow(p.post("sign-in", url.Values{"token": {ownerToken}})).has(t, http.StatusOK, "Overview")
	seen := make(map[string]bool)
	queue := slices.Clone(pages)
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		if seen[path] || path == "sign-out" || path == "change" || path == "move" || path == "import" {
			continue
		}
		seen[path] = true
		got := p.get(path)
		if got.code != http.StatusOK && got.code != http.StatusSeeOther && got.code != http.StatusUnprocessableEntity { // a review may be refused
			t.Errorf("%s: %d", path, got.code)
		}
		for _, m := range links.FindAllStringSubmatch(got.text, -1) {
			link := html.UnescapeString(m[1])
			link, _, _ = strings.Cut(link, "#")
			if strings.HasPrefix(link, "/") || strings.Contains(link, "://") {
				t.Errorf("%s has the link %s", path, link)
			}
			if link != "" {
				queue = append(queue, link)
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d pages were found", len(seen))
	}
}

func TestEachRoleSeesAndDoesWhatItMay(t *testing.T) {
	s := newSite(t)
	s.subject(tiers.Subject{ID: "acct_42", Tier: "free"})
	s.credential(access.Credential{Kind: access.Key, Name: "production", Subject: "acct_42"})
	asked := regexp.MustCompile(`change\?do=([a-z-]+)`)
	governs := []string{"create-tier", "tier", "delete-tier", "create-token", "token", "delete-token", "load-mode", "pin", "unpin", "create-webhook", "webhook", "delete-webhook"}
	for role, may := range map[access.Role]func(string) bool{
		access.Viewer:   func(string) bool { return false },
		access.Operator: func(do string) bool { return !slices.Contains(governs, do) },
		access.Owner:    func(string) bool { return true },
	} {
		p := s.signedIn(s.token(role))
		for _, path := range pages[:11] {
			got := p.get(path)
			got.has(t, http.StatusOK)
			for _, m := range asked.FindAllStringSubmatch(got.text, -1) {
				if !may(m[1]) {
					t.Errorf("%s sees %s on %s", role, m[1], path)
				}
			}
			if role == access.Viewer && strings.Contains(got.text, `href="bulk`) {
				t.Errorf("a viewer sees bulk changes on %s", path)
			}
		}
		for _, path := range pages[12:] {
			u, err := url.Parse(path)
			s.must(err)
			want := http.StatusForbidden
			if may(u.Query().Get("do")) {
				want = http.StatusOK
			}
			if got := p.get(path); got.code != want {
				t.Errorf("%s gets %s: %d, want %d", role, path, got.code, want)
			}
		}
		if role == access.Viewer {
			p.post("change", url.Values{"do": {"plan"}, "id": {"acct_42"}, "tier": {"pro"}, "step": {"apply"}}).has(t, http.StatusForbidden)
			p.post("move", url.Values{"to": {"pro"}, "everybody": {"true"}, "step": {"apply"}}).has(t, http.StatusForbidden)
			p.get("bulk").has(t, http.StatusForbidden)
		}
		if got := s.tierOf("acct_42"); got != "free" {
			t.Errorf("%s: the tier is %s", role, got)
		}
	}
}

// An owner makes a webhook, is shown its secret once, and has messages sent; a viewer sees what it
// received and has no buttons.
func TestWebhooksAreMadeAndUsed(t *testing.T) {
	s := newSite(t)
	p := s.signedIn(ownerToken)
	p.get("webhooks").has(t, http.StatusOK, "No webhook yet")
	fields := typed(p.get("change?do=create-webhook"))
	fields["name"], fields["url"] = []string{"billing"}, []string{"ftp://example.com"}
	p.post("change", fields).has(t, http.StatusUnprocessableEntity, "an http or https URL", `value="billing"`)
	fields["url"] = []string{"https://example.com/hook"}
	values := p.post("change", fields).hidden()
	values.Set("step", "apply")
	p.post("change", values).has(t, http.StatusOK, "whsec_", "shown now and never again")
	id := regexp.MustCompile(`webhook\?id=([a-z2-7]{16})`).FindStringSubmatch(p.get("webhooks").text)
	if id == nil {
		t.Fatalf("no webhook is listed: %s", p.get("webhooks").text)
	}
	p.get("webhook?id="+id[1]).has(t, http.StatusOK, "billing", "https://example.com/hook", "limit.threshold", "limit.recovered", "No message")
	use := func(do string) page {
		return p.post("webhook", url.Values{"id": {id[1]}, "do": {do}})
	}
	p.follow(use("test")).has(t, http.StatusOK, "A test message waits", "webhook.test", "pending")
	p.get("webhook?id="+id[1]+"&ask=secret").has(t, http.StatusOK, "Make a new secret?")
	use("secret").has(t, http.StatusOK, "The new secret", "whsec_")
	p.follow(use("resend")).has(t, http.StatusOK, "sent again")
	use("nothing").has(t, http.StatusNotFound)

	secret, _ := s.credential(access.Credential{Kind: access.Token, Name: "viewer", Role: access.Viewer})
	viewer := s.signedIn(secret)
	seen := viewer.get("webhook?id=" + id[1])
	seen.has(t, http.StatusOK, "webhook.test")
	if strings.Contains(seen.text, "<button name=") || strings.Contains(seen.text, "delete-webhook") {
		t.Error("a viewer has buttons")
	}
	viewer.post("webhook", url.Values{"id": {id[1]}, "do": {"test"}}).has(t, http.StatusForbidden)
}
