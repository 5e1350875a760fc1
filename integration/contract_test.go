package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// A site is both listeners in this process, on real Postgres and Redis, and the
// document they serve.
type site struct {
	*testing.T
	public, admin http.Handler
	catalogue     *pgtiers.Catalogue
	draining      atomic.Bool
	document      document
	validator     validator.Validator
	seen          map[string]map[int]bool // by operation: the statuses that were answered
	made          int
}

// A document is what of OpenAPI the tests look at themselves.
type document struct {
	Paths map[string]map[string]json.RawMessage
}

type documentedOperation struct {
	OperationID string `json:"operationId"`
	Responses   map[string]any
	Parameters  []struct{ Name, In string }
	RequestBody *struct{}
}

func newSite(t *testing.T) *site {
	t.Helper()
	url := newDatabase(t)
	s := &site{T: t, catalogue: openCatalogue(t, url), seen: make(map[string]map[int]bool)}
	cache := follow(t, url)
	cpu, err := load.New(load.Config{Tiers: cache.Tiers, Control: cache.LoadControl, Meter: load.Fixed(0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cpu.Close)
	lim, err := tierlimit.New(tierlimit.Config{
		Store: newStore(t, newClient(t, redisServer.URL, 2*time.Second)), Tiers: cache, Load: cpu, Budget: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{
		Limiter: lim, Catalogue: s.catalogue, Keyring: cache, Load: cpu, AdminToken: adminToken,
		Health: api.Health{Draining: &s.draining}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if s.public, err = api.Public(cfg); err != nil {
		t.Fatal(err)
	}
	s.admin = api.Admin(cfg)
	text := s.serve(s.public, "GET", "/openapi.json", "").Body.Bytes()
	if err := json.Unmarshal(text, &s.document); err != nil {
		t.Fatal(err)
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	if s.validator, errs = validator.NewValidator(doc); len(errs) > 0 {
		t.Fatal(errs)
	}
	return s
}

func (s *site) serve(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A call is one request to an operation.
type call struct {
	method, path, body string
	header             map[string]string
	reader             io.Reader       // in place of the body
	ctx                context.Context //nolint:containedctx // to be a dead one
}

func (c call) with(name, value string) call {
	header := map[string]string{name: value}
	for n, v := range c.header {
		if n != name {
			header[n] = v
		}
	}
	c.header = header
	return c
}

func (c call) without(name string) call {
	c = c.with(name, "")
	delete(c.header, name)
	return c
}

func (c call) query(q string) call {
	c.path += "?" + q
	return c
}

func (s *site) handler(path string) http.Handler {
	if strings.HasPrefix(path, "/admin/") {
		return s.admin
	}
	return s.public
}

// do makes a call and holds what is answered against the document; what is sent
// too, where it was accepted.
func (s *site) do(id string, c call) *httptest.ResponseRecorder {
	s.Helper()
	send := func() *http.Request {
		var body io.Reader = strings.NewReader(c.body)
		if c.reader != nil {
			body = c.reader
		}
		r := httptest.NewRequest(c.method, "http://127.0.0.1:8080"+c.path, body)
		if strings.HasPrefix(c.path, "/admin/") {
			r = httptest.NewRequest(c.method, "http://127.0.0.1:8081"+c.path, body)
		}
		if c.ctx != nil {
			r = r.WithContext(c.ctx)
		}
		if c.body != "" {
			r.Header.Set("Content-Type", "application/json")
			if c.method == http.MethodPatch {
				r.Header.Set("Content-Type", "application/merge-patch+json")
			}
		}
		for name, value := range c.header {
			r.Header.Set(name, value)
		}
		return r
	}
	w := httptest.NewRecorder()
	s.handler(c.path).ServeHTTP(w, send())
	if s.seen[id] == nil {
		s.seen[id] = make(map[int]bool)
	}
	s.seen[id][w.Code] = true
	if c.method != http.MethodHead { // which has no content to hold against it
		result := w.Result()
		result.Body = io.NopCloser(bytes.NewReader(w.Body.Bytes()))
		c.reader = nil
		if ok, errs := s.validator.ValidateHttpResponse(send(), result); !ok {
			s.Errorf("%s %s answers %d, which is not as documented: %v\n%s", c.method, c.path, w.Code, errs, w.Body)
		}
	}
	if w.Code < 300 {
		if ok, errs := s.validator.ValidateHttpRequest(send()); !ok {
			s.Errorf("%s %s is accepted, which is not as documented: %v\n%s", c.method, c.path, errs, c.body)
		}
	}
	return w
}

// operations calls each with every operation of the document.
func (s *site) operations(each func(method, path string, o documentedOperation)) {
	s.Helper()
	for path, item := range s.document.Paths {
		for method, text := range item {
			if method == "servers" || method == "parameters" {
				continue
			}
			var o documentedOperation
			if err := json.Unmarshal(text, &o); err != nil {
				s.Fatal(err)
			}
			each(strings.ToUpper(method), path, o)
		}
	}
}

func (s *site) name(kind string) string {
	s.made++
	return fmt.Sprintf("%s_%d", kind, s.made)
}

// fixtures make what the calls are about.

func (s *site) subject() (id, version string) {
	s.Helper()
	made, err := s.catalogue.CreateSubject(s.Context(), tiers.Subject{ID: s.name("acct"), Tier: "free"})
	if err != nil {
		s.Fatal(err)
	}
	return made.ID, tag(made.Version)
}

func (s *site) tier() (key, version string) {
	s.Helper()
	t := tiers.Builtin()[0]
	t.Key, t.Default = s.name("tier"), false
	made, err := s.catalogue.CreateTier(s.Context(), t)
	if err != nil {
		s.Fatal(err)
	}
	return made.Key, tag(made.Version)
}

func (s *site) override() (path, version string) {
	s.Helper()
	id, _ := s.subject()
	made, err := s.catalogue.CreateOverride(s.Context(), id, tiers.Override{
		Limit: "per_minute", Max: 9, StartsAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Reason: "a test",
	})
	if err != nil {
		s.Fatal(err)
	}
	return "/admin/v1/subjects/" + id + "/overrides/per_minute", tag(made.Version)
}

func (s *site) credential(kind access.Kind, role access.Role) (c access.Credential) {
	s.Helper()
	c = access.Credential{Kind: kind, Name: s.name("name"), Role: role}
	if kind == access.Key {
		c.Subject, _ = s.subject()
	}
	c = c.WithSecret()
	made, err := s.catalogue.CreateCredential(s.Context(), c)
	if err != nil {
		s.Fatal(err)
	}
	c.Version = made.Version
	return c
}

func (s *site) loadVersion() string {
	s.Helper()
	l, err := s.catalogue.LoadControl(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return tag(l.Version)
}

func tag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }

const limitsJSON = `"limits":{"per_minute":{"max":5,"window":"60s","adaptive":true},"per_month":{"max":null,"period":"month","anchor":"billing"}}`

// good makes a call that each operation does as it is asked. It is new each time.
func (s *site) good(id string) call {
	s.Helper()
	c := s.goodAs(id)
	c.header = map[string]string{"Authorization": "Bearer " + adminToken}
	if tag := c.ctxTag(); tag != "" {
		c.header["If-Match"] = tag
	}
	c.ctx = nil
	return c
}

type tagKey struct{}

func (c call) ctxTag() string {
	if c.ctx == nil {
		return ""
	}
	tag, _ := c.ctx.Value(tagKey{}).(string)
	return tag
}

func change(method, path, version, body string) call {
	return call{method: method, path: path, body: body, ctx: context.WithValue(context.Background(), tagKey{}, version)}
}

func (s *site) goodAs(id string) call {
	s.Helper()
	const v1 = "/admin/v1"
	switch id {
	case "take", "peek":
		return call{method: "POST", path: "/v1/" + id, body: fmt.Sprintf(`{"subject":%q,"scope":"search","cost":1}`, s.name("acct"))}
	case "refund":
		w := s.serve(s.public, "POST", "/v1/take", fmt.Sprintf(`{"subject":%q}`, s.name("acct")), "Authorization", "Bearer "+adminToken)
		var d struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.ID == "" {
			s.Fatalf("take answers %s", w.Body)
		}
		return call{method: "POST", path: "/v1/refund", body: fmt.Sprintf(`{"id":%q}`, d.ID)}
	case "usage":
		return call{method: "GET", path: "/v1/usage/acct_42"}
	case "load":
		return call{method: "GET", path: "/v1/load"}
	case "live":
		return call{method: "GET", path: "/livez"}
	case "live-head":
		return call{method: "HEAD", path: "/livez"}
	case "ready":
		return call{method: "GET", path: "/readyz"}
	case "ready-head":
		return call{method: "HEAD", path: "/readyz"}
	case "openapi":
		return call{method: "GET", path: "/openapi.json"}
	case "docs":
		return call{method: "GET", path: "/docs"}

	case "list-tiers":
		return call{method: "GET", path: v1 + "/tiers"}
	case "create-tier":
		return call{method: "POST", path: v1 + "/tiers", body: fmt.Sprintf(`{"key":%q,%s}`, s.name("tier"), limitsJSON)}
	case "read-tier":
		return call{method: "GET", path: v1 + "/tiers/pro"}
	case "replace-tier":
		key, version := s.tier()
		return change("PUT", v1+"/tiers/"+key, version, fmt.Sprintf(`{"key":%q,"name":"Ours","load":{"start":0.5,"full":0.9,"floor":0.2},%s}`, key, limitsJSON))
	case "patch-tier":
		key, version := s.tier()
		return change("PATCH", v1+"/tiers/"+key, version, `{"limits":{"per_minute":{"max":7}}}`)
	case "delete-tier":
		key, version := s.tier()
		return change("DELETE", v1+"/tiers/"+key, version, "")

	case "list-subjects":
		return call{method: "GET", path: v1 + "/subjects?tier=free&status=active&prefix=acct&limit=2"}
	case "create-subject":
		return call{method: "POST", path: v1 + "/subjects", body: fmt.Sprintf(`{"id":%q,"tier":"free","trial":{"tier":"pro","ends_at":"2926-12-01T00:00:00Z"},"billing_anchor":"2026-11-30T00:00:00Z"}`, s.name("acct"))}
	case "read-subject":
		subject, _ := s.subject()
		return call{method: "GET", path: v1 + "/subjects/" + subject}
	case "replace-subject":
		subject, version := s.subject()
		return change("PUT", v1+"/subjects/"+subject, version, fmt.Sprintf(`{"id":%q,"tier":"free","status":"past_due","grace_until":"2926-12-01T00:00:00Z","next":{"tier":"pro","at":"2926-12-01T00:00:00Z"}}`, subject))
	case "patch-subject":
		subject, version := s.subject()
		return change("PATCH", v1+"/subjects/"+subject, version, `{"tier":"pro","blocked_until":"2926-12-01T00:00:00Z"}`)
	case "delete-subject":
		subject, version := s.subject()
		return change("DELETE", v1+"/subjects/"+subject, version, "")

	case "list-overrides":
		path, _ := s.override()
		return call{method: "GET", path: strings.TrimSuffix(path, "/per_minute")}
	case "create-override":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/subjects/" + subject + "/overrides", body: `{"limit":"per_minute","max":9,"expires_at":"2926-12-01T00:00:00Z","reason":"launch day"}`}
	case "read-override":
		path, _ := s.override()
		return call{method: "GET", path: path}
	case "replace-override":
		path, version := s.override()
		return change("PUT", path, version, `{"limit":"per_minute","max":null,"expires_at":"2926-12-01T00:00:00Z","reason":"launch day"}`)
	case "patch-override":
		path, version := s.override()
		return change("PATCH", path, version, `{"max":12}`)
	case "delete-override":
		path, version := s.override()
		return change("DELETE", path, version, "")
	case "admin-usage":
		return call{method: "GET", path: v1 + "/subjects/acct_42/usage"}
	case "reset-usage":
		return call{method: "DELETE", path: v1 + "/subjects/acct_42/usage?limit=per_minute&limit=per_day"}

	case "list-keys":
		k := s.credential(access.Key, "")
		return call{method: "GET", path: v1 + "/keys?subject=" + k.Subject}
	case "create-api-key":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/keys", body: fmt.Sprintf(`{"name":"production","subject":%q,"expires_at":"2926-12-01T00:00:00Z"}`, subject)}
	case "list-tokens":
		return call{method: "GET", path: v1 + "/tokens?limit=1"}
	case "create-token":
		return call{method: "POST", path: v1 + "/tokens", body: fmt.Sprintf(`{"name":%q,"role":"viewer"}`, s.name("token"))}
	case "read-api-key", "replace-api-key", "patch-api-key", "delete-api-key":
		k := s.credential(access.Key, "")
		return s.onCredential(strings.TrimSuffix(id, "-api-key"), v1+"/keys/", k, fmt.Sprintf(`{"name":"ours","subject":%q}`, k.Subject))
	case "read-token", "replace-token", "patch-token", "delete-token":
		return s.onCredential(strings.TrimSuffix(id, "-token"), v1+"/tokens/", s.credential(access.Token, access.Viewer), fmt.Sprintf(`{"name":%q,"role":"operator"}`, s.name("token")))

	case "read-load-control":
		return call{method: "GET", path: v1 + "/load"}
	case "replace-load-control":
		return change("PUT", v1+"/load", s.loadVersion(), `{"mode":"observe","pins":{"free":{"multiplier":0.5,"expires_at":"2926-12-01T00:00:00Z"}}}`)
	case "patch-load-control":
		return change("PATCH", v1+"/load", s.loadVersion(), `{"pins":{"free":null}}`)
	case "list-events":
		return call{method: "GET", path: v1 + "/audit?kind=subject&actor=unknown&limit=3"}
	}
	s.Fatalf("the document has %q, of which the tests know nothing", id)
	return call{}
}

func (s *site) onCredential(verb, path string, c access.Credential, body string) call {
	path += c.ID
	switch verb {
	case "read":
		return call{method: "GET", path: path}
	case "replace":
		return change("PUT", path, tag(c.Version), body)
	case "patch":
		return change("PATCH", path, tag(c.Version), `{"expires_at":"2926-12-01T00:00:00Z"}`)
	default:
		return change("DELETE", path, tag(c.Version), "")
	}
}

// slow is a body that does not come in time.
type slow struct{}

func (slow) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// fails makes calls that an operation answers with a status.
func (s *site) fails(id string, o documentedOperation, status int) []call {
	s.Helper()
	c := s.good(id)
	dead, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	cancel()
	path, _, _ := strings.Cut(c.path, "?")
	unknown := func(old, other string) call {
		c.path = strings.Replace(c.path, old, other, 1)
		return c
	}
	switch status {
	case http.StatusBadRequest:
		var list []call
		if o.RequestBody != nil {
			wrong := c
			wrong.body = `{"nope":1}`
			list = append(list, wrong)
		}
		for _, p := range o.Parameters {
			switch {
			case p.Name == "If-Match":
				list = append(list, c.with("If-Match", "twelve"))
			case p.In == "query":
				wrong := c
				wrong.path = path + "?" + p.Name + "=%00"
				list = append(list, wrong)
				wrong.path = path + "?nope=1"
				list = append(list, wrong)
			}
		}
		if len(list) == 0 && strings.HasPrefix(c.path, "/admin/") {
			list = append(list, c.query("nope=1"))
		}
		if len(list) == 0 {
			list = append(list, unknown("acct_42", strings.Repeat("x", 257)))
		}
		return list
	case http.StatusUnauthorized:
		key := s.credential(access.Key, "")
		return []call{
			c.without("Authorization"), c.with("Authorization", "Bearer nonsense"), c.with("Authorization", "Bearer "+key.Secret),
			c.with("Authorization", "Basic "+adminToken),
		}
	case http.StatusForbidden:
		role := access.Service
		if o.OperationID == "take" || o.OperationID == "refund" {
			role = access.Viewer
		}
		return []call{c.with("Authorization", "Bearer "+s.credential(access.Token, role).Secret)}
	case http.StatusNotFound:
		switch {
		case strings.Contains(id, "override"):
			return []call{unknown("/subjects/", "/subjects/nobody_")}
		case strings.Contains(id, "tier"):
			return []call{{method: c.method, path: "/admin/v1/tiers/nowhere", body: `{` + limitsJSON + `}`, header: c.header}}
		case strings.Contains(id, "key"):
			return []call{{method: c.method, path: "/admin/v1/keys/aaaaaaaaaaaaaaaa", body: `{"name":"x","subject":"acct_1"}`, header: c.header}}
		case strings.Contains(id, "token"):
			return []call{{method: c.method, path: "/admin/v1/tokens/aaaaaaaaaaaaaaaa", body: `{"name":"x","role":"viewer"}`, header: c.header}}
		default:
			return []call{{method: c.method, path: "/admin/v1/subjects/nobody", body: `{"tier":"free"}`, header: c.header}}
		}
	case http.StatusRequestTimeout:
		c.reader = slow{}
		return []call{c}
	case http.StatusConflict:
		switch id {
		case "create-tier", "create-subject", "create-override", "create-token":
			if w := s.do(id, c); w.Code != http.StatusCreated {
				s.Fatalf("%s: %d %s", id, w.Code, w.Body)
			}
			return []call{c}
		case "replace-tier", "patch-tier":
			free, err := s.catalogue.Tier(s.Context(), "free")
			if err != nil {
				s.Fatal(err)
			}
			c = c.with("If-Match", tag(free.Version))
			c.path, c.body = "/admin/v1/tiers/free", `{"default":false}`
			if id == "replace-tier" {
				c.body = `{"default":false,` + limitsJSON + `}`
			}
			return []call{c}
		case "delete-tier":
			if _, err := s.catalogue.CreateSubject(s.Context(), tiers.Subject{ID: s.name("acct"), Tier: strings.TrimPrefix(c.path, "/admin/v1/tiers/")}); err != nil {
				s.Fatal(err)
			}
			return []call{c}
		default: // a token takes another's name
			c.body = fmt.Sprintf(`{"name":%q,"role":"viewer"}`, s.credential(access.Token, access.Viewer).Name)
			if id == "delete-token" {
				s.Fatal("what should be in the way?")
			}
			return []call{c}
		}
	case http.StatusPreconditionFailed:
		return []call{c.with("If-Match", `"999999"`)}
	case http.StatusPreconditionRequired:
		return []call{c.without("If-Match")}
	case http.StatusRequestEntityTooLarge:
		c.body = `{"subject":"` + strings.Repeat("x", 64<<10) + `"}`
		return []call{c}
	case http.StatusUnprocessableEntity:
		c = c.with("Idempotency-Key", s.name("key"))
		if w := s.do(id, c); w.Code != http.StatusCreated {
			s.Fatalf("%s: %d %s", id, w.Code, w.Body)
		}
		c.body += " "
		return []call{c}
	case http.StatusServiceUnavailable:
		if strings.HasPrefix(id, "ready") {
			return []call{c}
		}
		c.ctx = dead
		if id == "take" || id == "peek" { // which the policy answers; but a token may have to be looked up
			c = c.with("Authorization", "Bearer "+s.credential(access.Token, access.Service).Secret)
		}
		return []call{c}
	}
	s.Fatalf("%s answers %d, of which the tests know nothing", id, status)
	return nil
}

// Every operation, and every error in the document, as it really is.
func TestTheDocumentTellsWhatIsAnswered(t *testing.T) {
	s := newSite(t)
	if ok, errs := s.validator.ValidateDocument(); !ok {
		t.Fatalf("the document is not OpenAPI 3.1: %v", errs)
	}
	s.operations(func(_, _ string, o documentedOperation) {
		id := o.OperationID
		w := s.do(id, s.good(id))
		if w.Code >= 300 || o.Responses[strconv.Itoa(w.Code)] == nil {
			t.Errorf("%s answers %d: %s", id, w.Code, w.Body)
		}
		if slices.ContainsFunc(o.Parameters, func(p struct{ Name, In string }) bool { return p.Name == "dry_run" }) {
			if w := s.do(id, s.good(id).query("dry_run=true")); w.Code != 200 || !strings.Contains(w.Body.String(), `"dry_run":true`) {
				t.Errorf("%s, tried: %d %s", id, w.Code, w.Body)
			}
		}
		for code := range o.Responses {
			status, err := strconv.Atoi(code)
			if err != nil {
				t.Fatal(err)
			}
			if status < 300 {
				continue
			}
			s.draining.Store(strings.HasPrefix(id, "ready"))
			for _, c := range s.fails(id, o, status) {
				if w := s.do(id, c); w.Code != status {
					t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, w.Code, status, w.Body)
				}
			}
			s.draining.Store(false)
		}
		for code := range o.Responses {
			if status, _ := strconv.Atoi(code); !s.seen[id][status] {
				t.Errorf("%s was never answered with %s", id, code)
			}
		}
		for status := range s.seen[id] {
			if o.Responses[strconv.Itoa(status)] == nil {
				t.Errorf("%s was answered with %d, which is not documented", id, status)
			}
		}
	})
}

// Who may do what, written down by hand: every operation, every role, every cell.
func TestRolesAndRoutes(t *testing.T) {
	const (
		everybody = "nobody service viewer operator owner"
		decides   = "service operator owner"
		looks     = "service viewer operator owner"
		reads     = "viewer operator owner"
		changes   = "operator owner"
		governs   = "owner"
	)
	may := map[string]string{
		"live": everybody, "live-head": everybody, "ready": everybody, "ready-head": everybody, "openapi": everybody, "docs": everybody, "load": everybody,
		"take": decides, "refund": decides, "peek": looks, "usage": looks,
		"list-tiers": reads, "read-tier": reads, "create-tier": governs, "replace-tier": governs, "patch-tier": governs, "delete-tier": governs,
		"list-subjects": reads, "read-subject": reads, "create-subject": changes, "replace-subject": changes, "patch-subject": changes, "delete-subject": changes,
		"list-overrides": reads, "read-override": reads, "create-override": changes, "replace-override": changes, "patch-override": changes, "delete-override": changes,
		"admin-usage": reads, "reset-usage": changes,
		"list-keys": reads, "read-api-key": reads, "create-api-key": changes, "replace-api-key": changes, "patch-api-key": changes, "delete-api-key": changes,
		"list-tokens": reads, "read-token": reads, "create-token": governs, "replace-token": governs, "patch-token": governs, "delete-token": governs,
		"read-load-control": reads, "replace-load-control": governs, "patch-load-control": governs,
		"list-events": reads,
	}
	s := newSite(t)
	secrets := map[string]string{"nobody": ""}
	for _, role := range []access.Role{access.Service, access.Viewer, access.Operator, access.Owner} {
		secrets[string(role)] = s.credential(access.Token, role).Secret
	}
	cells := 0
	s.operations(func(method, path string, o documentedOperation) {
		roles, known := may[o.OperationID]
		if !known {
			t.Errorf("nobody has said who may %s %s (%s)", method, path, o.OperationID)
		}
		delete(may, o.OperationID)
		for role, secret := range secrets {
			c := s.good(o.OperationID).without("Authorization")
			if secret != "" {
				c = c.with("Authorization", "Bearer "+secret)
			}
			w := s.do(o.OperationID, c)
			cells++
			allowed := slices.Contains(strings.Fields(roles), role)
			switch {
			case allowed && w.Code >= 300, !allowed && role == "nobody" && w.Code != 401, !allowed && role != "nobody" && w.Code != 403:
				t.Errorf("a %s on %s %s: %d %s", role, method, path, w.Code, w.Body)
			}
		}
	})
	if len(may) > 0 || cells < 200 {
		t.Errorf("%d cells tried; not in the document: %v", cells, may)
	}
}
