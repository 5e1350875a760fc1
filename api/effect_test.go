package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/tiers"
)

// An effectJSON is what a client reads of a dry run.
type effectJSON struct {
	Action  string
	Changes []struct {
		Field    string
		From, To any
	}
	Affected struct {
		Subjects int
		Sample   []string
		Unknown  bool
		Refused  string
		Limits   []struct {
			Limit         string
			Before, After *struct {
				Max  *int64
				From string
			}
			Used   int64
			Denies bool
		}
	}
}

func (a answer) effect() (e effectJSON) {
	a.Helper()
	if err := json.Unmarshal(a.body, &e); err != nil {
		a.Fatalf("%v: %s", err, a.body)
	}
	return e
}

func TestADryRunSaysWhoWouldBeAffectedAndHow(t *testing.T) {
	s := newSite(t, 0)
	for i := range 12 {
		s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":"acct_%02d","tier":"pro"}`, i)).want(201)
	}
	tag := s.ask(s.admin, "GET", "/admin/v1/tiers/pro", "").want(200).header.Get("Etag")
	e := s.ask(s.admin, "PATCH", "/admin/v1/tiers/pro?dry_run=true", `{"name":"Pro+","limits":{"per_minute":{"max":80},"burst":{"max":5,"window":"1s"}}}`, "If-Match", tag).want(200).effect()
	var changed []string
	for _, c := range e.Changes {
		changed = append(changed, fmt.Sprint(c.Field, " ", c.From, " ", c.To))
	}
	want := []string{"limits.burst <nil> map[max:5 window:1s]", "limits.per_minute.max 100 80", "name Pro Pro+"}
	if e.Action != "tier.replace" || !slices.Equal(changed, want) {
		t.Errorf("%s changes %q, want %q", e.Action, changed, want)
	}
	if a := e.Affected; a.Subjects != 12 || len(a.Sample) != 10 || a.Sample[0] != "acct_00" || a.Unknown {
		t.Errorf("affected: %+v", a)
	}
	s.ask(s.admin, "GET", "/admin/v1/tiers/pro", "").want(200, `"name":"Pro"`, `"max":100`)

	// The default tier is also that of whoever nobody knows.
	tag = s.ask(s.admin, "GET", "/admin/v1/tiers/free", "").want(200).header.Get("Etag")
	if a := s.ask(s.admin, "PATCH", "/admin/v1/tiers/free?dry_run=true", `{"name":"x"}`, "If-Match", tag).want(200).effect().Affected; a.Subjects != 0 || !a.Unknown {
		t.Errorf("affected by the default tier: %+v", a)
	}
	s.ask(s.admin, "DELETE", "/admin/v1/tiers/free?dry_run=true", "", "If-Match", tag).want(409)
	s.ask(s.admin, "DELETE", "/admin/v1/tiers/pro?dry_run=maybe", "", "If-Match", tag).want(400, "dry_run", "maybe")
}

func TestADryRunSaysThatADowngradeWouldDeny(t *testing.T) {
	s := newSite(t, 0)
	tag := s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201).header.Get("Etag")
	s.take(`{"subject":"acct_42","cost":7}`).want(200, `"allowed":true`)
	e := s.ask(s.admin, "PATCH", "/admin/v1/subjects/acct_42?dry_run=true", `{"tier":"free"}`, "If-Match", tag).want(200).effect()
	seen := make(map[string]bool)
	for _, l := range e.Affected.Limits {
		seen[l.Limit] = true
		switch l.Limit {
		case "per_minute":
			if *l.Before.Max != 100 || *l.After.Max != 5 || l.Used != 7 || !l.Denies {
				t.Errorf("per_minute: %+v", l)
			}
		case "per_day":
			if l.Before != nil || *l.After.Max != 1000 || l.Denies {
				t.Errorf("per_day: %+v", l)
			}
		case "per_month":
			if l.After != nil || l.Denies {
				t.Errorf("per_month: %+v", l)
			}
		}
	}
	if len(seen) != 3 || e.Affected.Subjects != 1 {
		t.Errorf("affected: %+v", e.Affected)
	}
	s.take(`{"subject":"acct_42"}`).want(200, `"allowed":true`, `"tier":"pro"`)

	o := `{"limit":"per_minute","max":null,"expires_at":"2926-12-01T00:00:00Z","reason":"launch day"}`
	e = s.ask(s.admin, "POST", "/admin/v1/subjects/acct_42/overrides?dry_run=true", o).want(200).effect()
	for _, l := range e.Affected.Limits {
		if l.Limit == "per_minute" && (l.After.Max != nil || l.After.From != "override") {
			t.Errorf("overridden: %+v", l.After)
		}
	}
	if e = s.ask(s.admin, "PATCH", "/admin/v1/subjects/acct_42?dry_run=true", `{"status":"suspended"}`, "If-Match", tag).want(200).effect(); e.Affected.Refused != "suspended" {
		t.Errorf("a suspension: %+v", e.Affected)
	}
	e = s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42?dry_run=true", "", "If-Match", tag).want(200).effect()
	for _, l := range e.Affected.Limits {
		if l.Limit == "per_minute" && (*l.After.Max != 5 || l.After.From != "default") {
			t.Errorf("deleted: %+v", l.After)
		}
	}
}

// What was used of a limit that the plan of today does not have is not forgotten, and
// load and shadow are reckoned in.
func TestADryRunKnowsWhatWouldDeny(t *testing.T) {
	s := newSite(t, 0.95) // free is scaled to a tenth
	for key, limits := range map[string]string{
		"small": `{"per_day":{"max":3,"period":"day"}}`, "big": `{"wide":{"max":100,"window":"60s"}}`,
		"shadow": `{"per_day":{"max":3,"period":"day","shadow":true}}`, "minute": `{"per_minute":{"max":100,"window":"60s"}}`,
	} {
		s.ask(s.admin, "POST", "/admin/v1/tiers", fmt.Sprintf(`{"key":%q,"limits":%s}`, key, limits)).want(201)
	}
	for _, c := range []struct {
		from, by, to, limit string
		cost                int
		denies              bool
	}{
		{"small", "big", "small", "per_day", 3, true},
		{"shadow", "shadow", "small", "per_day", 4, true},
		{"minute", "minute", "free", "per_minute", 2, true}, // of 5, and a tenth of that
		{"minute", "minute", "pro", "per_minute", 2, false},
		{"small", "small", "shadow", "per_day", 3, false},
	} {
		id := c.from + "_" + c.by + "_" + c.to
		tag := s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":%q}`, id, c.from)).want(201).header.Get("Etag")
		s.take(fmt.Sprintf(`{"subject":%q,"cost":%d}`, id, c.cost)).want(200, `"allowed":true`)
		tag = s.ask(s.admin, "PATCH", "/admin/v1/subjects/"+id, fmt.Sprintf(`{"tier":%q}`, c.by), "If-Match", tag).want(200).header.Get("Etag")
		e := s.ask(s.admin, "PATCH", "/admin/v1/subjects/"+id+"?dry_run=true", fmt.Sprintf(`{"tier":%q}`, c.to), "If-Match", tag).want(200).effect()
		found := false
		for _, l := range e.Affected.Limits {
			if l.Limit == c.limit {
				found = true
				if l.Used != int64(c.cost) || l.Denies != c.denies {
					t.Errorf("%s: used %d, denies %v; want %d, %v", id, l.Used, l.Denies, c.cost, c.denies)
				}
			}
		}
		if !found {
			t.Errorf("%s: no %s in %+v", id, c.limit, e.Affected)
		}
	}
	tag := s.ask(s.admin, "GET", "/admin/v1/subjects/small_big_small", "").want(200).header.Get("Etag")
	s.store.err = tierlimit.ErrStoreUnavailable
	s.ask(s.admin, "PATCH", "/admin/v1/subjects/small_big_small?dry_run=true", `{"tier":"small"}`, "If-Match", tag).want(200, `"used":null,"denies":null`)
}

func TestACreationAskedForAgainIsMadeOnce(t *testing.T) {
	s := newSite(t, 0)
	body := `{"name":"ci","role":"viewer"}`
	first := s.ask(s.admin, "POST", "/admin/v1/tokens", body, "Idempotency-Key", "k1").want(201, `"secret":"tl_token_`)
	again := s.ask(s.admin, "POST", "/admin/v1/tokens", body, "Idempotency-Key", "k1").want(201)
	var a, b struct{ ID, Secret string }
	if json.Unmarshal(first.body, &a) != nil || json.Unmarshal(again.body, &b) != nil || a.ID == "" || a.ID != b.ID || b.Secret != "" {
		t.Errorf("first %s, again %s", first.body, again.body)
	}
	if again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Etag") != first.header.Get("Etag") {
		t.Errorf("again: %v, first: %v", again.header, first.header)
	}
	s.ask(s.admin, "POST", "/admin/v1/tokens", `{"name":"cd","role":"viewer"}`, "Idempotency-Key", "k1").want(422, "used for something else")
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`, "Idempotency-Key", "k1").want(422)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`, "Idempotency-Key", "käy").want(400, "Idempotency-Key")
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"nowhere"}`, "Idempotency-Key", "k2").want(400)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`, "Idempotency-Key", "k2").want(201) // what was refused used up nothing

	var wg sync.WaitGroup
	answers := make([]answer, 8)
	for i := range answers {
		wg.Go(func() {
			answers[i] = s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_43","tier":"pro"}`, "Idempotency-Key", "k3")
		})
	}
	wg.Wait()
	replayed := 0
	for _, a := range answers {
		a.want(201, `"id":"acct_43"`)
		if a.header.Get("Idempotent-Replayed") != "" {
			replayed++
		}
	}
	if replayed != 7 {
		t.Errorf("%d of 8 were replayed", replayed)
	}
	s.ask(s.admin, "POST", "/admin/v1/subjects?dry_run=true", `{"id":"acct_44","tier":"pro"}`, "Idempotency-Key", "k4").want(200)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_44","tier":"pro"}`, "Idempotency-Key", "k4").want(201) // what was only tried neither
}

func TestAConflictSaysWhatIsInTheWay(t *testing.T) {
	s := newSite(t, 0)
	tag := s.ask(s.admin, "GET", "/admin/v1/tiers/pro", "").want(200).header.Get("Etag")
	for i := range 12 {
		s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":"acct_%02d","tier":"pro"}`, i)).want(201)
	}
	a := s.ask(s.admin, "DELETE", "/admin/v1/tiers/pro", "", "If-Match", tag).want(409, "12 subjects are on it", `"in_the_way":["acct_00"`, "and others")
	if n := strings.Count(string(a.body), `"acct_`); n != 20 { // in words and as a list
		t.Errorf("%d are named: %s", n, a.body)
	}
	s.ask(s.admin, "GET", "/admin/v1/subjects?tier=pro&limit=1", "").want(200, `"has_more":true`)
}

func TestAKeyLivesOverHTTP(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	s.ask(s.admin, "POST", "/admin/v1/keys", `{"name":"k","subject":"nobody"}`).want(400, "subject", "nobody")
	s.ask(s.admin, "POST", "/admin/v1/keys", `{"name":"k","subject":"acct_42","role":"owner"}`).want(400, "role")
	s.ask(s.admin, "POST", "/admin/v1/keys", `{"id":"aaaaaaaaaaaaaaaa","name":"k","subject":"acct_42"}`).want(400, "id")
	made := s.ask(s.admin, "POST", "/admin/v1/keys", `{"name":"k","subject":"acct_42"}`).want(201, `"secret":"tl_key_`)
	var k struct{ ID, Secret string }
	if err := json.Unmarshal(made.body, &k); err != nil {
		t.Fatal(err)
	}
	for _, header := range [][]string{{"X-Api-Key", k.Secret, "Authorization", ""}, {"Authorization", "Bearer " + k.Secret}} {
		s.ask(s.public, "GET", "/demo/data", "", header...).want(200, `"subject":"acct_42"`, `"tier":"pro"`)
	}
	s.ask(s.public, "GET", "/v1/usage/acct_42", "", "Authorization", "Bearer "+k.Secret).want(401) // a key is no token
	s.ask(s.admin, "GET", "/admin/v1/keys/"+k.ID, "").want(200, `"last_used_at":`)
	s.ask(s.admin, "GET", "/admin/v1/tokens/"+k.ID, "").want(404)
	s.ask(s.admin, "DELETE", "/admin/v1/keys/"+k.ID, "", "If-Match", made.header.Get("Etag")).want(204)
	s.ask(s.public, "GET", "/demo/data", "", "X-Api-Key", k.Secret, "Authorization", "").want(200, `"subject":"ip:192.0.2.1"`, `"tier":"free"`)
	seen := string(s.ask(s.admin, "GET", "/admin/v1/audit", "").want(200, `"key.create"`, `"key.delete"`).body)
	if strings.Contains(seen, k.Secret) {
		t.Errorf("the audit log has the secret: %s", seen)
	}
}

func TestWhoActedIsTold(t *testing.T) {
	s := newSite(t, 0)
	made := s.ask(s.admin, "POST", "/admin/v1/tokens", `{"name":"alice","role":"operator"}`).want(201)
	var token struct{ Secret string }
	if err := json.Unmarshal(made.body, &token); err != nil {
		t.Fatal(err)
	}
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`, "Authorization", "Bearer "+token.Secret).want(201)
	s.ask(s.admin, "POST", "/admin/v1/tiers", `{}`, "Authorization", "Bearer "+token.Secret).want(403, "the role operator may not do this; it needs the role owner")
	s.ask(s.admin, "GET", "/admin/v1/audit?object=acct_42", "").want(200, `"actor":"token:alice"`)
}

func TestACustomerReadsItsOwnUsage(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	var made struct{ Secret string }
	body := s.ask(s.admin, "POST", "/admin/v1/keys", `{"name":"k","subject":"acct_42"}`).want(201).body
	if err := json.Unmarshal(body, &made); err != nil {
		t.Fatal(err)
	}
	s.ask(s.public, "POST", "/v1/take", `{"subject":"acct_42","cost":3}`).want(200)
	for _, header := range [][]string{{"X-Api-Key", made.Secret, "Authorization", ""}, {"Authorization", "Bearer " + made.Secret}} {
		s.ask(s.public, "GET", "/v1/usage", "", header...).want(200, `"subject":"acct_42"`, `"used":3`)
	}
	s.ask(s.public, "GET", "/v1/usage", "").want(401, "API key") // an owner's token names no customer
	s.ask(s.public, "GET", "/v1/usage/acct_42", "", "Authorization", "Bearer "+made.Secret).want(401)
	s.ask(s.public, "GET", "/v1/load", "", "Authorization", "").want(401)
}

// A dry run that was asked for in an unclear way was carried out.
func TestAnUnclearDryRunIsRefused(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	for _, query := range []string{"dry_run=", "dry_run=false&dry_run=true", "dry_run=true&dry_run=true", "dry_run=yes"} {
		s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage?"+query, "").want(400, `"field":"dry_run"`)
		s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42?"+query, "", "If-Match", "*").want(400, `"field":"dry_run"`)
		s.ask(s.admin, "POST", "/admin/v1/audit:erase?"+query, `{"subject":"acct_42"}`).want(400, `"field":"dry_run"`)
	}
}

// A reset leaves open holds open, and its dry run said otherwise.
func TestADryRunOfAResetLeavesHoldsOpen(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/tiers", `{"key":"jobs","limits":{"jobs":{"max":5,"concurrent":true},"per_day":{"max":9,"period":"day"}}}`).want(201)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"jobs"}`).want(201)
	s.ask(s.public, "POST", "/v1/take", `{"subject":"acct_42","hold_ms":60000}`).want(200, `"allowed":true`)
	const usage = "/admin/v1/subjects/acct_42/usage"
	s.ask(s.admin, "DELETE", usage+"?dry_run=true", "").want(200, `"before":{"jobs":1,"per_day":1},"after":{"jobs":1,"per_day":0}`)
	s.ask(s.admin, "DELETE", usage, "").want(204)
	s.ask(s.admin, "DELETE", usage+"?dry_run=true", "").want(200, `"changes":[]`)
}

func TestTheAuditLogIsErasedByAnOwner(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	const erase = "/admin/v1/audit:erase"
	s.ask(s.admin, "POST", erase+"?dry_run=true", `{"subject":"acct_42"}`).want(200, `{"dry_run":true,"events":1}`)
	s.ask(s.admin, "GET", "/admin/v1/audit?object=acct_42", "").want(200, `"action":"subject.create"`)
	s.ask(s.admin, "POST", erase, `{"subject":"acct_42"}`).want(200, `{"dry_run":false,"events":1}`)
	s.ask(s.admin, "GET", "/admin/v1/audit?object=acct_42", "").want(200, `"data":[]`)
	s.ask(s.admin, "GET", "/admin/v1/audit?kind=audit", "").want(200, `"action":"audit.erase"`, `"actor":"owner"`, `"after":{"events":1}`)
	s.ask(s.admin, "POST", erase, `{"subject":"acct_42"}`, "Authorization", "Bearer "+serviceToken).want(403)
	for body, want := range map[string]string{
		`{}`:                                "one of the three",
		`{"subject":"a","actor_id":"b"}`:    "one of the three",
		`{"before":"2999-01-01T00:00:00Z"}`: "has passed",
		`{"before":"soon"}`:                 `"field":"before"`,
		`{"subject":"","before":"2020-01-01T00:00:00Z"}`: `"field":"subject"`,
		`{"subject":"acct_42","everybody":"x"}`:          `"field":"everybody"`,
	} {
		s.ask(s.admin, "POST", erase, body).want(400, want)
	}
}

// The page about the API is itself alone: it loads nothing, and runs nothing.
func TestTheDocsNeedNoNetwork(t *testing.T) {
	s := newSite(t, 0)
	for _, h := range []http.Handler{s.public, s.admin} {
		a := s.ask(h, "GET", "/docs", "", "Authorization", "").want(200, "/admin/v1/subjects/{id}/overrides/{limit}", `id="schema-Decision"`, "Charge a subject")
		for _, loads := range []string{"<script", "src=", "@import", "url(", "<link", "<iframe"} {
			if strings.Contains(string(a.body), loads) {
				t.Errorf("the page has %q", loads)
			}
		}
		_, rest, _ := strings.Cut(string(a.body), "<style>")
		style, _, _ := strings.Cut(rest, "</style>")
		sum := sha256.Sum256([]byte(style))
		policy := a.header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';") {
			t.Errorf("its policy is %s", policy)
		}
	}
}

func TestAllThatIsWrongIsNamedAtOnce(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	for _, c := range []struct {
		method, path, body string
		fields             []string
	}{
		{
			"POST", "/tiers", `{"key":"X!","name":5,"priority":"high","load":{"start":2,"full":1,"floor":0},"limits":{"a":{"max":-1,"window":"5x","nope":1},"b":{"max":1}}}`,
			[]string{"key", "name", "priority", "load.start", "load.full", "load.floor", "limits.a.max", "limits.a.window", "limits.a.nope", "limits.b.window"},
		},
		{"POST", "/subjects", `{"id":"","tier":5,"trial":{"tier":"pro","ends_at":"soon"},"status":"late","plan":1}`, []string{"id", "tier", "trial.ends_at", "status", "plan"}},
		{"PUT", "/subjects/acct_42", `{"tier":"No!","next":{"tier":"Pro","at":"2026-01-01T00:00:00Z"},"status":"past_due"}`, []string{"tier", "next.tier", "grace_until"}},
		{"POST", "/subjects/acct_42/overrides", `{"limit":"X!","max":"many","expires_at":"soon"}`, []string{"limit", "max", "expires_at", "reason"}},
		{"POST", "/tokens", `{"name":"","role":"king","expires_at":"soon"}`, []string{"name", "role", "expires_at"}},
		{"PUT", "/load", `{"mode":"loud","pins":{"free":{"multiplier":2,"expires_at":"soon"},"pro":{"multiplier":2}}}`, []string{"mode", "pins.free.expires_at", "pins.pro.multiplier"}},
	} {
		a := s.ask(s.admin, c.method, "/admin/v1"+c.path, c.body, "If-Match", `"1"`).want(400)
		var p struct{ Errors []struct{ Field string } }
		if err := json.Unmarshal(a.body, &p); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Field)
		}
		slices.Sort(got)
		slices.Sort(c.fields)
		if !slices.Equal(got, c.fields) {
			t.Errorf("%s %s %s\nnames %q, want %q", c.method, c.path, c.body, got, c.fields)
		}
	}
}

// A change is told to deny only what is allowed before it.
func TestADryRunDoesNotBlameAChangeForWhatIsDeniedAlready(t *testing.T) {
	s := newSite(t, 0)
	tag := s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"free"}`).want(201).header.Get("Etag")
	s.take(`{"subject":"acct_42","cost":5}`).want(200, `"allowed":true`)
	e := s.ask(s.admin, "PATCH", "/admin/v1/subjects/acct_42?dry_run=true", `{"billing_anchor":"2026-01-31T09:00:00Z"}`, "If-Match", tag).want(200).effect()
	for _, l := range e.Affected.Limits {
		if l.Denies {
			t.Errorf("%+v", l)
		}
	}
}

// Two callers that happen to send one key get no answer that was the other's.
func TestAnIdempotencyKeyIsItsCallersOwn(t *testing.T) {
	s := newSite(t, 0)
	var tokens []string
	for _, name := range []string{"alice", "bob"} {
		c := access.Credential{Kind: access.Token, Name: name, Role: access.Operator}.WithSecret()
		if _, err := tiers.NewEditor(s.cfg.Catalogue, tiers.Actor{}).CreateCredential(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, c.Secret)
	}
	create := func(token string) answer {
		return s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`, "Authorization", "Bearer "+token, "Idempotency-Key", "1")
	}
	create(tokens[0]).want(201)
	if a := create(tokens[0]).want(201); a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same caller: %v", a.header)
	}
	if a := create(tokens[1]).want(409); a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("another caller: %v", a.header)
	}
}

// A catalogue that is away is answered 503, as something that passes.
func TestACatalogueThatIsAwayIsNoErrorOfTheServer(t *testing.T) {
	s := newSite(t, 0)
	s.cfg.Catalogue = awayCatalogue{s.cfg.Catalogue}
	s.ask(api.Admin(s.cfg), "GET", "/admin/v1/tiers", "").want(503)
}

type awayCatalogue struct{ tiers.Catalogue }

func (awayCatalogue) Tiers(context.Context) ([]tiers.Tier, error) {
	return nil, fmt.Errorf("dial: %w", tiers.ErrUnavailable)
}

// A dry run of a tier change lists the subjects that it would deny, and by how much.
func TestATriedTierSaysWhoWouldBeDenied(t *testing.T) {
	s := newSite(t, 0)
	for id, cost := range map[string]int{"light": 3, "heavy": 60, "at_the_edge": 20} {
		s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, id)).want(201)
		s.take(fmt.Sprintf(`{"subject":%q,"cost":%d}`, id, cost)).want(200, `"allowed":true`)
	}
	tried := s.ask(s.admin, "PATCH", "/admin/v1/tiers/pro?dry_run=true", `{"limits":{"per_minute":{"max":20}}}`, "If-Match", "*")
	tried.want(200, `"checked":3`, `"denied":[{"subject":"at_the_edge","limit":"per_minute","used":20,"max":20,"over":0},{"subject":"heavy","limit":"per_minute","used":60,"max":20,"over":40}]`)
	s.ask(s.admin, "PATCH", "/admin/v1/tiers/pro", `{"limits":{"per_minute":{"max":20}}}`, "If-Match", "*").want(200)
	for subject, allowed := range map[string]string{"light": "true", "heavy": "false", "at_the_edge": "false"} {
		s.take(fmt.Sprintf(`{"subject":%q}`, subject)).want(200, `"allowed":`+allowed)
	}
}
