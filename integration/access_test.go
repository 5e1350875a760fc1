package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// token makes a token, and returns what Authorization says with it.
func (r *replica) token(name, role string) string {
	r.Helper()
	_, body := r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/tokens", fmt.Sprintf(`{"name":%q,"role":%q}`, name, role))
	var made struct{ Secret string }
	if err := json.Unmarshal(body, &made); err != nil || made.Secret == "" {
		r.Fatalf("%v: %s", err, body)
	}
	return "Bearer " + made.Secret
}

func TestATokenActsAndEndsOnEveryReplica(t *testing.T) {
	url := newDatabase(t)
	a, b := startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url)
	service := a.token("app", "service")
	take := func(r *replica) int {
		status, _, _, err := r.ask("POST", r.public+"/v1/take", `{"subject":"acct_42"}`, "Authorization", service)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	eventually(t, time.Second, "let in", func() bool { return take(b) == 200 && take(a) == 200 })
	b.want(403, "GET", b.admin+"/admin/v1/tiers", "", "Authorization", service)

	_, body := a.want(200, "GET", a.admin+"/admin/v1/tokens", "")
	var list struct{ Data []access.Credential }
	if err := json.Unmarshal(body, &list); err != nil || len(list.Data) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	one := list.Data[0]
	a.want(204, "DELETE", a.admin+"/admin/v1/tokens/"+one.ID, "", "If-Match", tag(one.Version))
	eventually(t, time.Second, "revoked everywhere", func() bool { return take(b) == 401 && take(a) == 401 })
}

func TestAKeyIsKnownAndRevokedWithinASecondAndItsUseIsTold(t *testing.T) {
	url := newDatabase(t)
	admin, replica := openCatalogue(t, url), follow(t, url)
	if _, err := edit(admin).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	k := access.Credential{Kind: access.Key, Name: "k", Subject: "acct_42"}.WithSecret()
	is := func(want string) func() bool {
		return func() bool {
			got, err := tiers.SubjectOf(replica)(t.Context(), k.Secret)
			return err == nil && got == want
		}
	}
	if !is("")() {
		t.Fatal("a key before it was made")
	}
	made, err := edit(admin).CreateCredential(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "known", is("acct_42"))
	eventually(t, 10*time.Second, "told", func() bool {
		c, err := admin.Credential(t.Context(), access.Key, k.ID)
		return err == nil && c.LastUsedAt != nil && c.Version == made.Version // a use is no change
	})
	if err := edit(admin).DeleteCredential(t.Context(), access.Key, k.ID, made.Version); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "revoked", is(""))

	again := access.Credential{Kind: access.Key, Name: "k", Subject: "acct_42"}.WithSecret()
	if _, err := edit(admin).CreateCredential(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	k = again
	eventually(t, time.Second, "known", is("acct_42"))
	s, err := admin.Subject(t.Context(), "acct_42")
	if err != nil {
		t.Fatal(err)
	}
	if err := edit(admin).DeleteSubject(t.Context(), "acct_42", s.Version); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "gone with its subject", is(""))
}

// A load control that somebody wrote by hand, or took away, holds up nothing else:
// every replica went on with the tokens of yesterday.
func TestALoadControlByHandHoldsUpNothing(t *testing.T) {
	url := newDatabase(t)
	admin, replica := openCatalogue(t, url), follow(t, url)
	for _, sql := range []string{
		`UPDATE tierlimit.load_control SET pins = '{"free":{"multiplier":0.5,"expires_at":"2026-12-01 00:00:00+00"}}'`,
		`UPDATE tierlimit.load_control SET pins = '{"free":{"multiplier":0.5,"note":"x"}}'`,
		`UPDATE tierlimit.load_control SET pins = '{"free":{"multiplier":0}}'`,
	} {
		if err := execute(t.Context(), url, sql); err == nil {
			t.Errorf("%s: done", sql)
		}
	}
	for i, sql := range []string{
		`UPDATE tierlimit.load_control SET pins = '{"free":{"multiplier":0.5,"expires_at":"2926-12-01T00:00:00Z"}}'`,
		`DELETE FROM tierlimit.load_control`, `INSERT INTO tierlimit.load_control DEFAULT VALUES`, `TRUNCATE tierlimit.load_control`,
		`INSERT INTO tierlimit.load_control DEFAULT VALUES; ALTER TABLE tierlimit.load_control DISABLE TRIGGER load_control_changes; UPDATE tierlimit.load_control SET pins = '{"free":5}'`,
	} {
		if err := execute(t.Context(), url, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		s, err := edit(admin).CreateSubject(t.Context(), tiers.Subject{ID: fmt.Sprint("acct_", i), Tier: "pro"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "followed", func() bool { return replica.Version() >= s.Version })
		pinned := replica.LoadControl().Pins["free"].Multiplier == 0.5
		if pinned != (i == 0) {
			t.Errorf("%s: pinned %v", sql, pinned)
		}
		l, err := admin.LoadControl(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if i == 1 || i == 4 { // it can be mended
			if _, err := edit(admin).SetLoadControl(t.Context(), tiers.LoadControl{Mode: "observe"}, l.Version); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
			if err := execute(t.Context(), url, `DELETE FROM tierlimit.load_control`); err != nil {
				t.Error(err)
			}
		}
	}
}

// What an administrator says of load reaches every replica.
func TestAPinActsEverywhere(t *testing.T) {
	url := newDatabase(t)
	a, b := startReplica(t, redisServer.URL, url, "--load-fixed", "0"), startReplica(t, redisServer.URL, url, "--load-fixed", "0")
	a.want(200, "PATCH", a.admin+"/admin/v1/load", `{"pins":{"free":{"multiplier":0.4}}}`, "If-Match", `"0"`)
	for _, r := range []*replica{a, b} {
		eventually(t, time.Second, "pinned", func() bool {
			d := r.must("peek", "acct_42")
			return d.Multiplier == 0.4 && d.Windows[len(d.Windows)-1].EffectiveMax == 2
		})
	}
	h, _ := a.want(200, "GET", a.admin+"/admin/v1/load", "")
	b.want(200, "PATCH", b.admin+"/admin/v1/load", `{"mode":"off"}`, "If-Match", h.Get("Etag"))
	for _, r := range []*replica{a, b} {
		eventually(t, time.Second, "off", func() bool { return r.must("peek", "acct_42").Multiplier == 1 })
	}
}
