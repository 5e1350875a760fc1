package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
)

// A customer's life, told over HTTP alone, and seen by two replicas within a
// second of each step. What is dated acts at its instant without anybody's help.
func TestACustomersLife(t *testing.T) {
	url := newDatabase(t)
	replicas := []*replica{startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url)}
	r := replicas[0]
	operator := r.token("alice", "operator")
	id := newSubject(t)
	subject := "/admin/v1/subjects/" + id

	everywhere := func(what string, holds func(tierlimit.Decision) bool) {
		t.Helper()
		for i, r := range replicas {
			var last tierlimit.Decision
			eventually(t, time.Second, fmt.Sprintf("%s on replica %d", what, i), func() bool {
				last = r.must("peek", id)
				return holds(last)
			})
		}
	}
	patch := func(body string) {
		t.Helper()
		h, _ := r.want(200, "GET", r.admin+subject, "")
		r.want(200, "PATCH", r.admin+subject, body, "If-Match", h.Get("Etag"), "Authorization", operator)
	}
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	on := func(tier, from string, most int64) func(tierlimit.Decision) bool {
		return func(d tierlimit.Decision) bool {
			for _, w := range d.Windows {
				if w.Limit == "per_minute" {
					return d.Tier == tier && w.From == from && w.Max == most && !d.Degraded
				}
			}
			return false
		}
	}

	r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"free"}`, id), "Authorization", operator)
	everywhere("signed up on free", on("free", "tier", 5))
	for range 5 {
		if d := replicas[1].must("take", id); !d.Allowed {
			t.Fatalf("%+v", d)
		}
	}
	everywhere("the limit is hit", func(d tierlimit.Decision) bool { return d.Reason == tierlimit.Exceeded })

	ends := time.Now().Add(1500 * time.Millisecond)
	patch(fmt.Sprintf(`{"trial":{"tier":"pro","ends_at":%q}}`, ends.UTC().Format(time.RFC3339Nano)))
	everywhere("a trial of pro, usage kept", func(d tierlimit.Decision) bool {
		return on("pro", "trial", 100)(d) && d.Allowed && d.Windows[0].Used == 5
	})
	time.Sleep(time.Until(ends)) // it is its instant that is looked at
	everywhere("the trial has ended by itself", on("free", "tier", 5))

	patch(`{"tier":"pro"}`)
	everywhere("upgraded", on("pro", "tier", 100))

	expires := time.Now().Add(1500 * time.Millisecond)
	r.want(http.StatusCreated, "POST", r.admin+subject+"/overrides",
		fmt.Sprintf(`{"limit":"per_minute","max":500,"expires_at":%q,"reason":"launch day"}`, expires.UTC().Format(time.RFC3339Nano)))
	everywhere("launch day", on("pro", "override", 500))
	time.Sleep(time.Until(expires))
	everywhere("launch day is over", on("pro", "tier", 100))

	grace := time.Now().Add(1500 * time.Millisecond)
	patch(fmt.Sprintf(`{"status":"past_due","grace_until":%q}`, grace.UTC().Format(time.RFC3339Nano)))
	everywhere("past due, with grace", on("pro", "tier", 100))
	time.Sleep(time.Until(grace))
	everywhere("suspended when grace has ended", func(d tierlimit.Decision) bool { return d.Reason == tierlimit.Suspended })
	patch(`{"status":"active","grace_until":null}`)
	everywhere("paid", on("pro", "tier", 100))

	patch(fmt.Sprintf(`{"blocked_until":%q}`, in(time.Hour)))
	everywhere("blocked", func(d tierlimit.Decision) bool { return d.Reason == tierlimit.Blocked && d.RetryAfter > 50*time.Minute })
	patch(`{"blocked_until":null}`)

	due := time.Now().Add(1500 * time.Millisecond)
	patch(fmt.Sprintf(`{"next":{"tier":"free","at":%q}}`, due.UTC().Format(time.RFC3339Nano)))
	everywhere("a downgrade is scheduled", on("pro", "tier", 100))
	time.Sleep(time.Until(due))
	everywhere("downgraded by itself", on("free", "tier", 5))
	_, text := r.want(200, "GET", r.admin+subject, "")
	var read struct {
		Tier string
		Next *struct{}
	}
	if err := json.Unmarshal(text, &read); err != nil || read.Tier != "free" || read.Next != nil {
		t.Errorf("%s, %v; want what is in force", text, err)
	}

	_, text = r.want(200, "GET", r.admin+"/admin/v1/audit?limit=100&object="+id, "")
	var log struct{ Data []tiers.Event }
	if err := json.Unmarshal(text, &log); err != nil || len(log.Data) != 9 {
		t.Fatalf("%d events, %v: %s", len(log.Data), err, text)
	}
	for i, action := range []string{"subject.create", "subject.replace", "subject.replace", "override.create"} {
		actor := "token:alice"
		if action == "override.create" {
			actor = "owner"
		}
		if e := log.Data[len(log.Data)-1-i]; e.Action != action || e.Actor != actor || e.Object != id {
			t.Errorf("event %d: %+v, want %s", i+1, e, action)
		}
	}
}

// One date that not all can hold, written by hand, stopped every replica from
// following the catalogue.
func TestADateThatCannotBeReadCannotBeWritten(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	if _, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: "a", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"infinity", "-infinity", "12000-01-01", "1969-12-31"} {
		for _, set := range []string{
			"trial_tier = 'pro', trial_ends_at = $", "next_tier = 'pro', next_at = $", "billing_anchor = $",
			"status = 'past_due', grace_until = $", "blocked_until = $",
		} {
			set = strings.ReplaceAll(set, "$", "'"+when+"'")
			if err := execute(t.Context(), url, "UPDATE tierlimit.subjects SET "+set+" WHERE id = 'a'"); err == nil {
				t.Errorf("%s: done", set)
			}
		}
	}
	for _, expires := range []string{"infinity", "12000-01-01"} {
		if err := execute(t.Context(), url, "INSERT INTO tierlimit.overrides VALUES ('a', 'per_minute', 9, now(), '"+expires+"', 'x')"); err == nil {
			t.Errorf("an override that expires at %s: done", expires)
		}
	}
	if _, err := c.Changes(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

func TestTruncatedOverridesAreHeard(t *testing.T) {
	url := newDatabase(t)
	admin, replica := openCatalogue(t, url), follow(t, url)
	if _, err := edit(admin).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	if _, err := edit(admin).CreateOverride(t.Context(), "acct_42", tiers.Override{
		Limit: "per_minute", Max: 777, StartsAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(time.Hour), Reason: "x",
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "overridden", func() bool { return maxOf(planOf(t, replica, "acct_42"), "per_minute") == 777 })
	if err := execute(t.Context(), url, "TRUNCATE tierlimit.overrides"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "as before", func() bool { return maxOf(planOf(t, replica, "acct_42"), "per_minute") == 100 })
}

// The audit log tells the story, and nobody rewrites it: the test's own role owns
// the tables.
func TestTheAuditLogCannotBeRewritten(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	if _, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"DELETE FROM tierlimit.audit", "TRUNCATE tierlimit.audit", "UPDATE tierlimit.audit SET actor = 'nobody'",
	} {
		if err := execute(t.Context(), url, sql); err == nil {
			t.Errorf("%s: done", sql)
		}
	}
	if list, err := c.Events(t.Context(), tiers.EventFilter{Most: 10}); err != nil || len(list) != 1 || list[0].Action != "subject.create" {
		t.Errorf("%+v, %v", list, err)
	}
}

// asUser returns the URL of a database for another user.
func asUser(t *testing.T, url, user, password string) string {
	t.Helper()
	u, err := neturl.Parse(url)
	must(t, err)
	u.User = neturl.UserPassword(user, password)
	return u.String()
}

// The service runs as a role that owns nothing, and then not even it can rewrite
// the audit log.
func TestTheServiceNeedsNoOwnership(t *testing.T) {
	url := newDatabase(t)
	role := fmt.Sprintf("service_%d", time.Now().UnixNano())
	if err := execute(t.Context(), url, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Grant(t.Context(), url, role); err != nil {
		t.Fatal(err)
	}
	lesser := asUser(t, url, role, "secret")
	other := role + "_other"
	must(t, execute(t.Context(), url, "CREATE ROLE "+other))
	if err := migrations.Grant(t.Context(), lesser, other); err == nil || !strings.Contains(err.Error(), "as the owner") {
		t.Errorf("granted by who may not: %v", err)
	}
	r := startReplica(t, redisServer.URL, lesser)
	id := newSubject(t)
	tag, _ := r.want(201, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, id))
	r.token("alice", "viewer")
	r.want(201, "POST", r.admin+"/admin/v1/keys", fmt.Sprintf(`{"name":"k","subject":%q}`, id))
	r.want(201, "POST", r.admin+"/admin/v1/tiers", `{"key":"team","default":true,"limits":{"per_day":{"max":5,"period":"day"}}}`)
	r.want(200, "PUT", r.admin+"/admin/v1/load", `{"mode":"off","pins":{}}`, "If-Match", `"0"`)
	eventually(t, time.Second, "pro", func() bool { return r.must("take", id).Tier == "pro" })
	r.want(204, "DELETE", r.admin+"/admin/v1/subjects/"+id, "", "If-Match", tag.Get("Etag"))
	for _, sql := range []string{
		"DELETE FROM tierlimit.audit", "TRUNCATE tierlimit.audit", "UPDATE tierlimit.audit SET actor = 'nobody'",
		"ALTER TABLE tierlimit.audit DISABLE TRIGGER audit_stays", "DROP TRIGGER audit_stays ON tierlimit.audit", "DROP TABLE tierlimit.audit",
		"CREATE OR REPLACE FUNCTION tierlimit.audit_stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
	} {
		if err := execute(t.Context(), lesser, sql); err == nil {
			t.Errorf("%s: done", sql)
		}
	}
	must(t, execute(t.Context(), url, "GRANT USAGE ON SCHEMA tierlimit TO "+other+"; GRANT SELECT ON tierlimit.audit TO "+other))
	for _, sql := range []string{
		"SET tierlimit.erases = 'on'; DELETE FROM tierlimit.audit", "SET tierlimit.erases = 'on'; UPDATE tierlimit.audit SET actor = 'nobody'",
		"SET ROLE " + other + "; SELECT tierlimit.erase_events('subject', 'x', 1, 'me', 'me')",
	} {
		as := lesser
		if strings.HasPrefix(sql, "SET ROLE") {
			as = url
		}
		if err := execute(t.Context(), as, sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	_, answer := r.want(200, "POST", r.admin+"/admin/v1/audit:erase", fmt.Sprintf(`{"subject":%q}`, id))
	if strings.TrimSpace(string(answer)) != `{"dry_run":false,"events":4}` { // subject and key created; key and subject deleted
		t.Errorf("erased: %s", answer)
	}
	if _, list := r.want(200, "GET", r.admin+"/admin/v1/audit?limit=1", ""); !strings.Contains(string(list), `"action":"audit.erase"`) {
		t.Errorf("the last event is %s", list)
	}
	if strings.Contains(r.log(), "denied") {
		t.Errorf("the log says %s", r.log())
	}
}

// Every replica can settle a hold; only one settlement succeeds.
func TestAHoldIsSettledOnAnotherReplica(t *testing.T) {
	url := newDatabase(t)
	a, b := startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url)
	id := newSubject(t)
	var d tierlimit.Decision
	_, answer := a.want(200, "POST", a.public+"/v1/take", fmt.Sprintf(`{"subject":%q,"cost":3,"hold_ms":60000}`, id))
	must(t, json.Unmarshal(answer, &d))
	for i, r := range []*replica{b, a, b} {
		_, answer := r.want(200, "POST", r.public+"/v1/settle", fmt.Sprintf(`{"id":%q,"cost":1}`, d.ID))
		if want := fmt.Sprintf(`{"settled":%t,`, i == 0); !strings.HasPrefix(string(answer), want) {
			t.Errorf("settled %d: %s, want %s", i+1, answer, want)
		}
	}
	if d := a.must("peek", id); d.Windows[0].Used != 1 || d.Windows[1].Used != 1 {
		t.Errorf("after the settlement: %+v", d)
	}
}
