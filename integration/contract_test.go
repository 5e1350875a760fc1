package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

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
	if strings.HasPrefix(id, "check") {
		return s.failingCheck(id, status)
	}
	if id == "own-usage" {
		return s.failingOwnUsage(status)
	}
	switch status {
	case http.StatusBadRequest:
		var list []call
		if o.RequestBody != nil && id != "import-subjects" { // import-subjects reports errors line by line
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
		if o.OperationID == "take" || o.OperationID == "settle" || o.OperationID == "renew" || o.OperationID == "report-load" {
			role = access.Viewer
		}
		return []call{c.with("Authorization", "Bearer "+s.credential(access.Token, role).Secret)}
	case http.StatusNotFound:
		switch {
		case strings.Contains(id, "override"), id == "release-hold":
			return []call{unknown("/subjects/", "/subjects/nobody_")}
		case strings.Contains(id, "webhook") || strings.Contains(id, "deliveries") || strings.HasPrefix(id, "resend"):
			_, behind, _ := strings.Cut(strings.TrimPrefix(c.path, "/admin/v1/webhooks/"), "/")
			c.path = strings.TrimSuffix("/admin/v1/webhooks/aaaaaaaaaaaaaaaa/"+behind, "/")
			return []call{c}
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
	case http.StatusTooManyRequests:
		c.from = "198.51.100.7:4711"
		guess := c.with("Authorization", "Bearer guess")
		for guesses := 0; s.do(id, guess).Code != http.StatusTooManyRequests; guesses++ {
			if guesses > 100 {
				s.Fatal("whoever guesses may go on")
			}
		}
		return []call{guess}
	case http.StatusConflict:
		switch id {
		case "create-tier", "create-subject", "create-override", "create-token":
			if w := s.do(id, c); w.Code != http.StatusCreated {
				s.Fatalf("%s: %d %s", id, w.Code, w.Body)
			}
			return []call{c}
		case "apply-tiers":
			c.body = `{"tiers":[{"key":"free","default":false,` + limitsJSON + `}]}`
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
			if _, err := edit(s.catalogue).CreateSubject(s.Context(), tiers.Subject{ID: s.name("acct"), Tier: strings.TrimPrefix(c.path, "/admin/v1/tiers/")}); err != nil {
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
		c.body = `{"subject":"` + strings.Repeat("x", 1<<20) + `"}`
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
		answers := []string{"take", "peek", "import-subjects", "load", "report-load", "read-identity"} // by the policy, or they go on
		if slices.Contains(answers, id) || strings.HasSuffix(id, "denials") {
			c.blind = true
			return []call{c.with("Authorization", "Bearer a-token-that-nobody-holds")}
		}
		c.ctx = dead
		return []call{c}
	}
	s.Fatalf("%s answers %d, of which the tests know nothing", id, status)
	return nil
}

// failingOwnUsage makes a call of a customer that is answered with a status.
func (s *site) failingOwnUsage(status int) []call {
	s.Helper()
	c := s.good("own-usage")
	switch status {
	case http.StatusBadRequest:
		return []call{c.query("nope=1")}
	case http.StatusUnauthorized:
		token := s.credential(access.Token, access.Owner).Secret
		return []call{c.without("X-Api-Key"), c.with("X-Api-Key", "nonsense"), c.without("X-Api-Key").with("Authorization", "Bearer "+token)}
	case http.StatusTooManyRequests:
		guess := c.with("X-Api-Key", "guess")
		guess.from = "198.51.100.8:4711"
		eventually(s.T, time.Second, "refused", func() bool { return s.do("own-usage", guess).Code == status })
		return []call{guess}
	case http.StatusServiceUnavailable:
		c.blind = true
		return []call{c}
	}
	s.Fatalf("own-usage answers %d, of which the tests know nothing", status)
	return nil
}

// failingCheck makes a call of a gateway that is answered with a status.
func (s *site) failingCheck(id string, status int) []call {
	s.Helper()
	c := s.good(id)
	customer := func(change func(*tiers.Subject)) call {
		subject := tiers.Subject{ID: s.name("acct"), Tier: "free"}
		change(&subject)
		_, err := edit(s.catalogue).CreateSubject(s.Context(), subject)
		must(s.T, err)
		key := access.Credential{Kind: access.Key, Name: "production", Subject: subject.ID}.WithSecret()
		_, err = edit(s.catalogue).CreateCredential(s.Context(), key)
		must(s.T, err)
		return c.with("X-Api-Key", key.Secret)
	}
	switch status {
	case http.StatusBadRequest:
		return []call{c.with("X-Forwarded-Uri", "no path")}
	case http.StatusForbidden:
		c := customer(func(subject *tiers.Subject) { subject.Status = tiers.Suspended })
		eventually(s.T, time.Second, "suspended", func() bool { return s.do(id, c).Code == status })
		return []call{c}
	case http.StatusTooManyRequests:
		c := customer(func(*tiers.Subject) {})
		eventually(s.T, time.Second, "exceeded", func() bool { return s.do(id, c).Code == status })
		return []call{c}
	case http.StatusServiceUnavailable:
		tier := tiers.Tier{Key: s.name("closed"), OnStoreError: tierlimit.Closed, Limits: map[string]tiers.Limit{"only": {Max: 1000, Window: tierlimit.Window{Length: time.Minute}}}}
		_, err := edit(s.catalogue).CreateTier(s.Context(), tier)
		must(s.T, err)
		c := customer(func(subject *tiers.Subject) { subject.Tier = tier.Key })
		eventually(s.T, time.Second, "known", func() bool { return strings.HasPrefix(s.do(id, c).Header().Get("RateLimit"), `"only"`) })
		dead, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		cancel()
		c.ctx = dead
		return []call{c}
	}
	s.Fatalf("%s answers %d, of which the tests know nothing", id, status)
	return nil
}

// creates returns a PUT that creates an object.
func (s *site) creates(id string) call {
	c := s.good(id).without("If-Match").with("If-None-Match", "*")
	if id == "replace-override" {
		c.path = strings.TrimSuffix(c.path, "per_minute") + "per_day"
		c.body = strings.Replace(c.body, "per_minute", "per_day", 1)
		return c
	}
	name := c.path[strings.LastIndexByte(c.path, '/')+1:]
	c.path, c.body = c.path+"_new", strings.Replace(c.body, name, name+"_new", 1)
	return c
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
		if o.Responses["201"] != nil && strings.HasPrefix(id, "replace-") {
			if w := s.do(id, s.creates(id)); w.Code != 201 || w.Header().Get("Location") == "" {
				t.Errorf("%s creates with %d: %s", id, w.Code, w.Body)
			}
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
		"live": everybody, "ready": everybody, "openapi": everybody, "docs": everybody, "load": looks, "report-load": decides, "own-usage": everybody,
		"take": decides, "settle": decides, "renew": decides, "peek": looks, "usage": looks,
		"list-tiers": reads, "read-tier": reads, "create-tier": governs, "replace-tier": governs, "patch-tier": governs, "delete-tier": governs, "apply-tiers": governs,
		"list-subjects": reads, "read-subject": reads, "create-subject": changes, "replace-subject": changes, "patch-subject": changes, "delete-subject": changes,
		"import-subjects": changes, "export-subjects": reads, "move-subjects": changes,
		"list-overrides": reads, "read-override": reads, "create-override": changes, "replace-override": changes, "patch-override": changes, "delete-override": changes,
		"admin-usage": reads, "reset-usage": changes, "list-holds": reads, "release-hold": changes,
		"list-keys": reads, "read-api-key": reads, "create-api-key": changes, "replace-api-key": changes, "patch-api-key": changes, "delete-api-key": changes,
		"list-tokens": reads, "read-token": reads, "create-token": governs, "replace-token": governs, "patch-token": governs, "delete-token": governs,
		"read-load-control": reads, "replace-load-control": governs, "patch-load-control": governs,
		"check": everybody, "check-nginx": everybody, "check-envoy": everybody,
		"list-events": reads, "erase-events": governs, "read-identity": looks,
		"list-denials": reads, "subject-denials": reads, "explain": reads, "near-limits": reads, "usage-history": reads,
		"list-webhooks": reads, "read-webhook": reads, "create-webhook": governs, "replace-webhook": governs, "patch-webhook": governs, "delete-webhook": governs,
		"change-webhook-secret": governs, "test-webhook": governs, "list-deliveries": reads, "resend-dead": governs, "resend-message": governs,
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
