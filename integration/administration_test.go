package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/tierstest"
)

// Administration with an unusual database configuration, a pooler, a failover, and replicas of
// another release.

// hostile creates a database with unusual default settings for its sessions.
func hostile(t *testing.T) (url string) {
	t.Helper()
	return newDatabaseWith(t,
		"timezone = 'IST-05:30'", "default_transaction_isolation = 'serializable'", "lock_timeout = '1ms'",
		"statement_timeout = '20s'", "search_path = 'pg_temp'", "datestyle = 'German'", "intervalstyle = 'sql_standard'",
		"bytea_output = 'escape'", "idle_in_transaction_session_timeout = '50ms'", "extra_float_digits = -2",
	)
}

// newDatabaseWith creates a database with default settings for its sessions.
func newDatabaseWith(t *testing.T, settings ...string) (url string) {
	t.Helper()
	url = newDatabase(t)
	name := url[strings.LastIndexByte(url, '/')+1:]
	if at := strings.IndexByte(name, '?'); at >= 0 {
		name = name[:at]
	}
	for _, set := range settings {
		must(t, execute(t.Context(), url, "ALTER DATABASE "+name+" SET "+set))
	}
	return url
}

// Regression test: with a time zone east of UTC, a valid override was a 500 and, once stored,
// stopped all replicas from following changes. With another default isolation level or lock
// timeout, concurrent changes caused a 500.
func TestSessionsDoNotDependOnWhatTheyBeginWith(t *testing.T) {
	tierstest.Run(t, func(t *testing.T) tiers.Catalogue { return openCatalogue(t, hostile(t)) })
	t.Run("the last instant of all", func(t *testing.T) {
		url := hostile(t)
		admin, replica := edit(openCatalogue(t, url)), follow(t, url)
		_, err := admin.CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"})
		must(t, err)
		last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		_, err = admin.CreateOverride(t.Context(), "acct_42", tiers.Override{
			Limit: "per_minute", Max: 777, StartsAt: time.Now().Add(-time.Hour), ExpiresAt: last, Reason: "for ever",
		})
		must(t, err)
		eventually(t, time.Second, "overridden", func() bool { return maxOf(planOf(t, replica, "acct_42"), "per_minute") == 777 })
		if o, err := admin.Override(t.Context(), "acct_42", "per_minute"); err != nil || !o.ExpiresAt.Equal(last) {
			t.Errorf("%+v, %v", o, err)
		}
	})
	t.Run("changes at the same time", func(t *testing.T) {
		c := edit(openCatalogue(t, hostile(t)))
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := c.CreateSubject(t.Context(), tiers.Subject{ID: fmt.Sprint("acct_", i), Tier: "pro"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// Regression test: the planner expected many rows in a table that was never analyzed, and
// compiled each look-up. A look-up took 200 ms instead of 0.2 ms; meanwhile the customer was on
// the default tier. The server reports a statement's plan in a notice.
// Regression test: while a transaction held the catalogue's lock and eight administrators
// waited, uncached enterprise customers were on the default tier.
func TestLookUpsDoNotWaitForAdministrators(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	for i := range 12 {
		_, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: fmt.Sprint("acct_", i), Tier: "enterprise"})
		must(t, err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `BEGIN; SELECT FROM tierlimit.catalogue FOR UPDATE`)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, _ = edit(c).CreateSubject(ctx, tiers.Subject{ID: fmt.Sprint("waiting_", i), Tier: "pro"})
		})
	}
	eventually(t, 10*time.Second, "an administrator waits", func() bool {
		var waiting int
		must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting))
		return waiting > 0
	})
	for i := range 12 {
		found, _, err := c.LookupSubjects(t.Context(), []string{fmt.Sprint("acct_", i)})
		if err != nil || len(found) != 1 || found[0].Tier != "enterprise" {
			t.Errorf("looked up %+v, %v", found, err)
		}
	}
	if _, err := c.SeenAlive(t.Context(), "replica", time.Minute); err != nil {
		t.Errorf("a replica cannot say that it is alive: %v", err)
	}
	if _, err := c.Subjects(t.Context(), tiers.SubjectFilter{Most: 5}); err != nil {
		t.Errorf("an administrator cannot read: %v", err)
	}
	cancel()
	wg.Wait()
}

// Regression test: after a failover the pool stayed connected to the old, read-only server.
// Changes caused a 500, and replicas saw no more changes.
func TestAnotherServerThatTakesOverIsFollowed(t *testing.T) {
	old, next := ownPostgres(t), ownPostgres(t)
	between, err := proxy.New(hostOf(t, old.URL))
	must(t, err)
	defer between.Close()
	for i, server := range []*servers.Server{old, next} {
		_, err := migrations.Up(t.Context(), server.URL)
		must(t, err)
		c := edit(openCatalogue(t, server.URL))
		made, err := c.CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"})
		must(t, err)
		if i == 1 { // the standby is promoted by now
			_, err = c.ReplaceSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "enterprise"}, made.Version)
			must(t, err)
		}
	}
	moved, err := url.Parse(old.URL)
	must(t, err)
	moved.Host = between.Addr
	r := startReplica(t, redisServer.URL, moved.String())
	if d := r.must("peek", "acct_42"); d.Tier != "pro" {
		t.Fatalf("before: %+v", d)
	}
	between.Upstream(hostOf(t, next.URL)) // for new connections
	must(t, execute(t.Context(), old.URL, "ALTER SYSTEM SET default_transaction_read_only = on"))
	must(t, execute(t.Context(), old.URL, "SELECT pg_reload_conf()"))
	eventually(t, 15*time.Second, "the new server is followed", func() bool { return r.must("peek", "acct_42").Tier == "enterprise" })
	eventually(t, 15*time.Second, "changes are made again", func() bool {
		status, _, answer, err := r.ask("PUT", r.admin+"/admin/v1/subjects/acct_42?upsert=true", `{"tier":"free"}`)
		if err != nil || status == 500 {
			t.Fatalf("%d, %v: %s", status, err, answer)
		}
		return status == 200
	})
	eventually(t, time.Second, "a change acts", func() bool { return r.must("peek", "acct_42").Tier == "free" })
	_, report := r.want(200, "GET", r.admin+"/readyz?verbose", "")
	if !strings.Contains(string(report), "catalogue: followed") {
		t.Errorf("ready: %s", report)
	}
}

// ownPostgres starts a server for one test.
func ownPostgres(t *testing.T) *servers.Server {
	t.Helper()
	s, err := servers.Postgres()
	must(t, err)
	t.Cleanup(s.Stop)
	return s
}

func hostOf(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	must(t, err)
	return u.Host
}

// freePort returns an unused port.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

// pooled starts a PgBouncer in transaction mode for the tests' Postgres. The returned function
// maps the URL of a database to its URL behind the pooler.
func pooled(t *testing.T) func(url string) string {
	t.Helper()
	file, err := exec.LookPath("pgbouncer")
	must(t, err) // integration/prepare pgbouncer installs it
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	port := freePort(t)
	server, err := url.Parse(postgresServer.URL)
	must(t, err)
	password := ""
	if secret, ok := server.User.Password(); ok {
		password = " password=" + secret
	}
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
pool_mode = transaction
auth_type = any
default_pool_size = 4
logfile = %s
`, server.Hostname(), server.Port(), server.User.Username(), password, port, filepath.Join(dir, "log"))
	name := filepath.Join(dir, "pgbouncer.ini")
	must(t, os.WriteFile(name, []byte(config), 0o644)) // another user reads it
	args := []string{name}
	if os.Getuid() == 0 { // which it refuses to run as
		must(t, os.Chmod(filepath.Dir(dir), 0o755))
		must(t, os.Chown(dir, 65534, 65534))
		args = []string{"-u", "nobody", name}
	}
	cmd := exec.Command(file, args...)
	cmd.SysProcAttr = servers.EndWithParent(nil)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	behind := func(text string) string {
		u, err := url.Parse(text)
		must(t, err)
		u.Host, u.RawQuery = "127.0.0.1:"+port, "sslmode=disable"
		return u.String()
	}
	var last error
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PgBouncer: %v: %s", last, out.String())
		}
	})
	eventually(t, 10*time.Second, "PgBouncer answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, behind(postgresServer.URL))
		if err == nil {
			_ = conn.Close(ctx)
		}
		last = err
		return err == nil
	})
	return behind
}

// Behind a pooler in transaction mode everything works except notifications; the log says so.
func TestAPoolerInTransactionModeIsGoodEnough(t *testing.T) {
	behind := pooled(t)
	tierstest.Run(t, func(t *testing.T) tiers.Catalogue { return openCatalogue(t, behind(newDatabase(t))) })
	t.Run("migrations", func(t *testing.T) {
		name := fmt.Sprintf("pooled_%d", time.Now().UnixNano())
		must(t, execute(t.Context(), postgresServer.URL, "CREATE DATABASE "+name))
		direct := databaseURL(name)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := migrations.Up(context.Background(), behind(direct)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		conn, err := pgx.Connect(t.Context(), direct)
		must(t, err)
		defer conn.Close(context.Background())
		var locks int
		must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'`).Scan(&locks))
		if locks != 0 {
			t.Errorf("%d advisory locks are left behind", locks)
		}
	})
	t.Run("notifications", func(t *testing.T) {
		direct := newDatabase(t)
		err := openCatalogue(t, behind(direct)).Listen(t.Context(), func() {})
		if err == nil || !errors.Is(err, tiers.ErrNotHeard) && !errors.Is(err, tiers.ErrUnavailable) {
			t.Errorf("listening behind a pooler: %v", err)
		}
		r := startReplica(t, redisServer.URL, behind(direct))
		r.want(201, "POST", r.admin+"/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`)
		if tier := r.must("peek", "acct_42").Tier; tier != "pro" {
			t.Errorf("who has changed something does not see it: %s", tier)
		}
		eventually(t, 5*time.Second, "the log says so", func() bool { return strings.Contains(r.log(), "a pooler in transaction mode") })
		must(t, execute(t.Context(), direct, `UPDATE tierlimit.subjects SET tier = 'enterprise'`))
		eventually(t, 2*time.Second, "polled", func() bool { return r.must("peek", "acct_42").Tier == "enterprise" })
	})
}

// Regression test: inserting 8,000 rows took 0.7 s, and 32,000 rows 9.5 s, because the version
// row was updated for each row.
// Three replicas apply an import of 100,000 subjects within a second of its end. Concurrent
// changes wait for one part of the import at most.
func TestAHundredThousandCustomersAreImported(t *testing.T) {
	const customers = 100_000
	url := newDatabase(t)
	replicas := []*replica{startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url)}
	var in strings.Builder
	for i := range customers {
		fmt.Fprintf(&in, `{"id":"acct_%06d","tier":"pro"}`+"\n", i)
	}
	over, others := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { others <- n }()
		for {
			select {
			case <-over:
				return
			default:
			}
			r := replicas[1+n%2]
			if status, _, answer, err := r.ask("PUT", fmt.Sprintf("%s/admin/v1/subjects/other_%d?upsert=true", r.admin, n), `{"tier":"pro"}`); err != nil || status != 201 {
				t.Errorf("somebody else's change: %d, %v: %s", status, err, answer)
				return
			}
			n++
		}
	}()
	began := time.Now()
	tally := replicas[0].bulk("subjects:import", in.String())
	took := time.Since(began)
	close(over)
	n := <-others
	if tally.Created != customers || !tally.Done {
		t.Fatalf("imported %+v", tally)
	}
	if n < 10 {
		t.Errorf("meanwhile only %d others could be changed", n)
	}
	for i, r := range replicas {
		eventually(t, time.Second, fmt.Sprintf("in force on replica %d", i), func() bool {
			return r.must("peek", fmt.Sprintf("acct_%06d", customers-1)).Tier == "pro" && r.must("peek", "acct_000000").Tier == "pro"
		})
	}
	t.Logf("%d customers in %v, and %d other changes meanwhile", customers, took.Round(time.Millisecond), n)
	some := strings.Join(strings.SplitAfterN(in.String(), "\n", 5001)[:5000], "")
	if again := replicas[1].bulk("subjects:import?dry_run=true", some); again.Unchanged != 5000 {
		t.Errorf("tried again: %+v", again)
	}
	// Each subject has one event; events are in order.
	_, text := replicas[2].want(200, "GET", replicas[2].admin+"/admin/v1/audit?object=acct_050000", "")
	var log struct{ Data []tiers.Event }
	if err := json.Unmarshal(text, &log); err != nil || len(log.Data) != 1 || log.Data[0].Action != "subject.create" {
		t.Errorf("the log has %s, %v", text, err)
	}
	// A replica that starts now caches all subjects.
	late := follow(t, url)
	if plan := planOf(t, late, fmt.Sprintf("acct_%06d", customers/2)); plan.Tier() != "pro" || plan.Fallback() {
		t.Errorf("a replica that starts later: %+v", plan)
	}
}

type bulkTally struct {
	Read, Created, Replaced, Unchanged int
	Done                               bool
	Error                              string
}

// bulk sends a bulk request and returns the last line of the response.
func (r *replica) bulk(path, body string) (tally bulkTally) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 4*busyMachine)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.admin+"/admin/v1/"+path, strings.NewReader(body))
	must(r.T, err)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	must(r.T, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(r.T, err)
	lines := strings.Split(strings.TrimSpace(string(answer)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &tally); err != nil {
		r.Fatalf("%v in %s", err, lines[len(lines)-1])
	}
	return tally
}

// An old and a new release share one database while replicas are replaced.
// undoMigrations undoes all migrations from the one with this number on.
// Regression test: while the migration waited for a writer, two changes got the same version,
// so that a suspension never reached the replicas.
// Regression test: a restore was not noticed if as many changes followed it as it had undone.
// Regression test: a replica did not follow changes while the database needed more than the
// query's time for a page of 10,000. Here it needs a millisecond for each row.
// Regression test: after a switch to a logical replica, whose sequences lag, a change was
// answered 200 and never acted.
// Regression test: the sequence was set back by whoever saw the lag a little later, and not at
// all if the log had one event.
// Regression test: two erasures at a time counted each event twice.
func TestErasuresTakeTurns(t *testing.T) {
	url := newDatabase(t)
	a, b := openCatalogue(t, url), openCatalogue(t, url)
	for _, e := range []tiers.Erasure{{Subject: "anna"}, {Before: time.Now()}} {
		must(t, execute(t.Context(), url, `INSERT INTO tierlimit.audit (at, actor, action, kind, object, after)
			SELECT now() - interval '1 day', 'x', 'subject.replace', 'subject', 'anna', '{}' FROM generate_series(1, 5000)`))
		want, err := a.Erase(t.Context(), tiers.Actor{ID: "r", Name: "r"}, e, true)
		must(t, err)
		var wg sync.WaitGroup
		var erased atomic.Int64
		for _, c := range []tiers.Eraser{a, b, a, b} {
			wg.Go(func() {
				n, err := c.Erase(t.Context(), tiers.Actor{ID: "r", Name: "r"}, e, false)
				if err != nil {
					t.Error(err)
				}
				erased.Add(int64(n))
			})
		}
		wg.Wait()
		if erased.Load() != int64(want) {
			t.Errorf("%+v: erased %d in all, want %d", e, erased.Load(), want)
		}
	}
}

// Regression test: the id of a subject stayed in the list of removals until another was removed.
// The schema is dumped, restored into another database, and served.
// Regression test: replicas did not see a TRUNCATE of limits.
// Many databases do not allow writes to the schema public.
// A password that was rotated is used for the next connection.
// A token in a file is rotated without a restart. Meanwhile two tokens are valid.
func TestTokensInAFileAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
	const before, after = "service-token-before", "service-token-after"
	write(before + "\n")
	t.Setenv("TIERLIMIT_SERVICE_TOKEN_FILE", file)
	r := startReplica(t, redisServer.URL, newDatabase(t))
	status := func(token string) int {
		status, _, _, err := r.ask("POST", r.public+"/v1/take", `{"subject":"acct_42"}`, "Authorization", "Bearer "+token)
		must(t, err)
		return status
	}
	if status(before) != 200 || status(after) != 401 {
		t.Fatalf("at first: %d and %d", status(before), status(after))
	}
	for _, step := range []struct {
		text          string
		before, after int
	}{{before + "\n" + after, 200, 200}, {"short", 200, 200}, {after, 401, 200}} {
		write(step.text)
		eventually(t, 5*time.Second, fmt.Sprintf("%q is read", step.text), func() bool {
			return status(before) == step.before && status(after) == step.after
		})
	}
	eventually(t, 5*time.Second, "the log says so", func() bool {
		return strings.Contains(r.log(), "tokens were read again") || strings.Contains(r.log(), "cannot be read again")
	})
}
