package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
)

// connectTo returns a connection of the test's own.
func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

// Administration does not wait for the alerts of customers, however many there are, whoever holds
// them, and whether the planner knows of them or not. All windows of a month end at once.
func TestManyAlertsHoldNobodyUp(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	conn := connectTo(t, url)
	const windows = 100_000
	must(t, execute(t.Context(), url, fmt.Sprintf(`
		ALTER TABLE tierlimit.alerts SET (autovacuum_enabled = off);
		INSERT INTO tierlimit.alerts (subject, limit_name, ends_at, threshold, tier)
			SELECT 'acct_' || n, 'per_month', 1000000000000, t, 'pro' FROM generate_series(1, %d) n, unnest(ARRAY[80, 100]) t;
		INSERT INTO tierlimit.messages (type, at, data) SELECT 'webhook.test', now() - interval '8 days', '{}' FROM generate_series(1, 12000)`, windows)))
	_, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: "acct_1", Tier: "pro"})
	must(t, err)
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE tierlimit.alerts SET check_at = check_at WHERE subject = 'acct_1'`)
	must(t, err)
	pro, err := c.Tier(t.Context(), "pro")
	must(t, err)
	pro.Alerts = []int{90}
	_, err = edit(c).ReplaceTier(t.Context(), pro, pro.Version)
	must(t, err)
	s, err := c.Subject(t.Context(), "acct_1")
	must(t, err)
	s.Tier = "free"
	_, err = edit(c).ReplaceSubject(t.Context(), s, s.Version)
	must(t, err)
	must(t, tx.Rollback(t.Context()))

	ended := 0
	for {
		n, err := c.EndAlerts(t.Context())
		must(t, err)
		if ended += n; n == 0 {
			break
		}
	}
	if ended != windows {
		t.Errorf("%d windows ended", ended)
	}
	for more := true; more; {
		more, err = c.Prune(t.Context(), time.Now().Add(-7*24*time.Hour))
		must(t, err)
	}
	var left int
	must(t, conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM tierlimit.alerts) + (SELECT count(*) FROM tierlimit.messages)`).Scan(&left))
	if left != 0 {
		t.Errorf("%d old rows are left", left)
	}
}

// A changed tier has all its alerts checked, page by page.
func TestTheAlertsOfAChangedTierAreChecked(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	must(t, execute(t.Context(), url, `
		INSERT INTO tierlimit.alerts (subject, limit_name, ends_at, threshold, tier)
			SELECT 'acct_' || n, 'per_month', 4000000000000, 80, (ARRAY['pro', 'free'])[1 + n % 2] FROM generate_series(1, 9000) n`))
	pro, err := c.Tier(t.Context(), "pro")
	must(t, err)
	pro.Name = "Another name"
	pro, err = edit(c).ReplaceTier(t.Context(), pro, pro.Version) // no reason to look
	must(t, err)
	pro.Alerts = []int{90}
	_, err = edit(c).ReplaceTier(t.Context(), pro, pro.Version)
	must(t, err)
	checked := make(map[string]bool)
	eventually(t, time.Minute, "4,500 alerts are checked", func() bool {
		list, err := c.AlertsToCheck(t.Context(), 500)
		must(t, err)
		for _, a := range list {
			checked[a.Subject] = true
			if a.Tier != "pro" {
				t.Fatalf("checked %+v", a)
			}
		}
		return len(checked) == 4500
	})
	var checks int
	must(t, connectTo(t, url).QueryRow(t.Context(), `SELECT count(*) FROM tierlimit.alert_checks`).Scan(&checks))
	if checks > 1 { // the last page may be empty
		t.Errorf("%d changes are left", checks)
	}
}

// A role without rights to the outbox can administer everything else, and the log says what to do.
func TestAdministrationNeedsNoRightToWebhooks(t *testing.T) {
	url := newDatabase(t)
	role := fmt.Sprintf("outbox_%d", time.Now().UnixNano())
	must(t, execute(t.Context(), url, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'"))
	must(t, migrations.Grant(t.Context(), url, role))
	must(t, execute(t.Context(), url, "REVOKE ALL ON tierlimit.webhooks, tierlimit.alerts, tierlimit.alert_checks, tierlimit.messages, tierlimit.deliveries FROM "+role))
	r := startReplica(t, redisServer.URL, asUser(t, url, role, "secret"))
	r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, newSubject(t)))
	eventually(t, time.Minute, "the log says what to do", func() bool {
		return strings.Contains(r.log(), "messages cannot be sent") && strings.Contains(r.log(), "tierlimit migrate grant")
	})

	// Nobody else can have the service's triggers fire.
	must(t, execute(t.Context(), url, "REVOKE ALL ON ALL TABLES IN SCHEMA tierlimit FROM "+role))
	err := execute(t.Context(), asUser(t, url, role, "secret"), `
		CREATE TEMPORARY TABLE forged (id bigint, at timestamptz, kind text, object text, action text, detail text, before jsonb, after jsonb);
		CREATE TRIGGER t AFTER INSERT ON forged REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.tell_changes()`)
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a role without rights made a trigger: %v", err)
	}
}

// A reset beside the deletion of a webhook is made.
func TestAResetBesideADeletedWebhook(t *testing.T) {
	url := newDatabase(t)
	r := startReplica(t, redisServer.URL, url)
	c := openCatalogue(t, url)
	w, err := edit(c).CreateWebhook(t.Context(), tiers.Webhook{Name: "x", URL: "https://example.com", Events: []string{tiers.SubjectChanged}}.WithID(time.Now()))
	must(t, err)
	id := newSubject(t)
	r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, id))
	conn, looks := connectTo(t, url), connectTo(t, url)
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `DELETE FROM tierlimit.webhooks WHERE id = $1`, w.ID)
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { r.want(http.StatusNoContent, "DELETE", r.admin+"/admin/v1/subjects/"+id+"/usage", "") })
	eventually(t, time.Minute, "the reset waits", func() bool {
		var waiting int
		must(t, looks.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting))
		return waiting > 0
	})
	must(t, tx.Commit(t.Context()))
	wg.Wait()
}

// What a receiver has Go say in an error can be kept.
func TestAnyErrorOfAReceiverIsKept(t *testing.T) {
	c := openCatalogue(t, newDatabase(t))
	w, err := edit(c).CreateWebhook(t.Context(), tiers.Webhook{Name: "x", URL: "https://example.com", Events: []string{tiers.LimitThreshold}}.WithID(time.Now()))
	must(t, err)
	must(t, c.Alert(t.Context(), []tierlimit.Crossing{{Subject: "acct_1", Tier: "pro", Limit: "l", Threshold: 80, Used: 8, Max: 10, EndsAt: time.Now().Add(time.Hour), At: time.Now()}}))
	list, err := c.Claim(t.Context(), time.Minute, 1, nil)
	must(t, err)
	must(t, c.Finish(t.Context(), list[0], tiers.DeliveryOutcome{State: tiers.Dead, Error: "x509: not a\x00b \xff\n\x1b[31m"}))
	got, err := c.Deliveries(t.Context(), tiers.DeliveryFilter{Webhook: w.ID, Most: 1})
	must(t, err)
	if got[0].State != tiers.Dead || !strings.HasPrefix(got[0].LastError, "x509: not a") {
		t.Errorf("%+v", got[0])
	}
}
