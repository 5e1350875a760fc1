package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

func TestALookUpIsNotCompiled(t *testing.T) {
	database := newDatabaseWith(t, "session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0",
		"auto_explain.log_level = 'notice'", "auto_explain.log_settings = on", "jit = on", "jit_above_cost = 0")
	between, err := proxy.New(hostOf(t, database))
	must(t, err)
	defer between.Close()
	var mu sync.Mutex
	var said bytes.Buffer
	between.Replies(func(r proxy.Reply) proxy.Fate {
		mu.Lock()
		defer mu.Unlock()
		said.Write(r.Text)
		return proxy.Fate{}
	})
	address, err := url.Parse(database)
	must(t, err)
	address.Host = between.Addr
	_, _, err = openCatalogue(t, address.String()).LookupSubjects(t.Context(), []string{"acct_42", "acct_43"})
	must(t, err)
	mu.Lock()
	defer mu.Unlock()
	_, told, found := strings.Cut(said.String(), "tierlimit.subjects")
	if !found || !strings.Contains(told, "jit = 'off'") {
		t.Errorf("it was run so: %q", told)
	}
	// The planner expects one version row, so its estimate does not grow with the number of ids.
	if most := regexp.MustCompile(`Left Join  \(cost=\S+ rows=(\d+) `).FindStringSubmatch(told); most == nil || len(most[1]) > 2 {
		t.Errorf("%v rows expected", most)
	}
}

func TestAStatementPublishesOnceHoweverManyRowsItHas(t *testing.T) {
	url := newDatabase(t)
	replica := follow(t, url)
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(context.Background())
	const rows = 40_000
	for _, step := range []struct{ what, sql string }{
		{"an insertion", fmt.Sprintf(`INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, 'pro' FROM generate_series(1, %d) AS n`, rows)},
		{"an insertion of overrides", `INSERT INTO tierlimit.overrides (subject, limit_name, max, starts_at, expires_at, reason)
			SELECT id, 'per_minute', 7, now(), now() + interval '1 day', 'launch' FROM tierlimit.subjects`},
		{"an update of overrides", `UPDATE tierlimit.overrides SET max = 8`},
		{"a removal of overrides", `DELETE FROM tierlimit.overrides WHERE subject <> 'acct_1'`},
		{"an update", `UPDATE tierlimit.subjects SET tier = 'enterprise'`},
		{"a deletion", `DELETE FROM tierlimit.subjects WHERE id <> 'acct_1'`},
	} {
		tx, err := conn.Begin(t.Context())
		must(t, err)
		_, err = tx.Exec(t.Context(), step.sql)
		must(t, err)
		var updates int64
		must(t, tx.QueryRow(t.Context(), `SELECT pg_stat_get_xact_tuples_updated('tierlimit.catalogue'::regclass)`).Scan(&updates))
		if updates > 2 {
			t.Errorf("%s of %d rows updates the catalogue's row %d times", step.what, rows, updates)
		}
		must(t, tx.Commit(t.Context()))
	}
	// The change of an override is one of its subject, at the same version.
	var same bool
	must(t, conn.QueryRow(t.Context(), `
		WITH changed AS (UPDATE tierlimit.overrides SET max = 9 RETURNING subject, version) SELECT true FROM changed`).Scan(&same))
	must(t, conn.QueryRow(t.Context(), `
		SELECT s.version = o.version AND s.version = c.version
		FROM tierlimit.subjects s JOIN tierlimit.overrides o ON o.subject = s.id, tierlimit.catalogue c WHERE s.id = 'acct_1'`).Scan(&same))
	if !same {
		t.Error("the subject of a changed override has another version")
	}
	eventually(t, time.Second, "followed", func() bool {
		return maxOf(planOf(t, replica, "acct_1"), "per_minute") == 9 && planOf(t, replica, fmt.Sprint("acct_", rows)).Tier() == "free"
	})
}

func TestAnOlderReleaseLeavesWhatItDoesNotKnow(t *testing.T) {
	url := newDatabase(t)
	must(t, execute(t.Context(), url, `
		ALTER TABLE tierlimit.limits ADD COLUMN of_later text NOT NULL DEFAULT '';
		ALTER TABLE tierlimit.subjects ADD COLUMN of_later text NOT NULL DEFAULT '';
		UPDATE tierlimit.limits SET of_later = 'kept';
		INSERT INTO tierlimit.subjects (id, tier, of_later) VALUES ('acct_42', 'pro', 'kept');
		INSERT INTO tierlimit.migrations (version_id, is_applied) VALUES (999, true)`))
	if _, err := migrations.Up(t.Context(), url); !errors.Is(err, migrations.ErrNewer) {
		t.Errorf("migrated a database of a later release: %v", err)
	}
	r := startReplica(t, redisServer.URL, url)
	if !strings.Contains(r.log(), "later release") {
		t.Errorf("the log does not say so: %s", r.log())
	}
	r.want(200, "PATCH", r.admin+"/admin/v1/tiers/pro", `{"limits":{"per_minute":{"max":7}}}`, "If-Match", "*")
	r.want(200, "PATCH", r.admin+"/admin/v1/subjects/acct_42", `{"tier":"free"}`, "If-Match", "*")
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(context.Background())
	var lost int
	must(t, conn.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM tierlimit.limits WHERE of_later <> 'kept') + (SELECT count(*) FROM tierlimit.subjects WHERE of_later <> 'kept')`).Scan(&lost))
	if lost != 0 {
		t.Errorf("%d rows lost what a later release had written", lost)
	}
}

func undoMigrations(t *testing.T, url string, first int) {
	t.Helper()
	files, err := filepath.Glob("../migrations/*.sql")
	must(t, err)
	slices.Sort(files)
	for _, file := range slices.Backward(files[first-1:]) {
		text, err := os.ReadFile(file)
		must(t, err)
		_, down, _ := strings.Cut(string(text), "-- +goose Down")
		must(t, execute(t.Context(), url, down))
	}
	must(t, execute(t.Context(), url, fmt.Sprintf("DELETE FROM tierlimit.migrations WHERE version_id >= %d", first)))
}

func TestAMigrationDrawsNoVersionTwice(t *testing.T) {
	url := newDatabase(t)
	must(t, execute(t.Context(), url, `INSERT INTO tierlimit.subjects (id, tier) VALUES ('before', 'free')`))
	undoMigrations(t, url, 9)
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO tierlimit.subjects (id, tier) SELECT 'old_' || n, 'free' FROM generate_series(1, 300) AS n`)
	must(t, err)
	up := make(chan error)
	go func() { _, err := migrations.Up(context.Background(), url); up <- err }()
	looks, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer looks.Close(context.Background())
	eventually(t, 10*time.Second, "the migration waits for the writer", func() bool {
		var waiting int
		must(t, looks.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waiting))
		return waiting > 0
	})
	must(t, tx.Commit(t.Context()))
	must(t, <-up)
	replica, admin := follow(t, url), edit(openCatalogue(t, url))
	before, err := admin.Subject(t.Context(), "before")
	must(t, err)
	before.Status = tiers.Suspended
	suspended, err := admin.ReplaceSubject(t.Context(), before, before.Version)
	must(t, err)
	var newest int64
	must(t, looks.QueryRow(t.Context(), `SELECT max(version) FROM tierlimit.subjects`).Scan(&newest))
	if suspended.Version != newest {
		t.Errorf("the last change has version %d, and there is one of %d", suspended.Version, newest)
	}
	eventually(t, time.Second, "the suspension acts", func() bool { return planOf(t, replica, "before").Config().Refusal == tierlimit.Suspended })
}

func TestARestoredCatalogueIsReadAnew(t *testing.T) {
	own := ownPostgres(t)
	_, err := migrations.Up(t.Context(), own.URL)
	must(t, err)
	c := edit(openCatalogue(t, own.URL))
	_, err = c.CreateSubject(t.Context(), tiers.Subject{ID: "kept", Tier: "pro"})
	must(t, err)
	var version int64
	conn, err := pgx.Connect(t.Context(), own.URL)
	must(t, err)
	defer conn.Close(context.Background())
	must(t, conn.QueryRow(t.Context(), `SELECT version FROM tierlimit.catalogue`).Scan(&version))
	made, err := c.CreateSubject(t.Context(), tiers.Subject{ID: "after_the_dump", Tier: "pro"})
	must(t, err)
	replica := follow(t, own.URL)
	if planOf(t, replica, "after_the_dump").Tier() != "pro" {
		t.Fatal("not there before")
	}
	// Simulate the restore of a dump: the table gets a new oid, and versions are reused.
	_, err = conn.Exec(t.Context(), `
		BEGIN;
		CREATE TABLE tierlimit.again (LIKE tierlimit.catalogue INCLUDING ALL);
		INSERT INTO tierlimit.again SELECT * FROM tierlimit.catalogue;
		DROP TABLE tierlimit.catalogue;
		ALTER TABLE tierlimit.again RENAME TO catalogue;
		SET LOCAL session_replication_role = replica;
		DELETE FROM tierlimit.subjects WHERE id = 'after_the_dump';
		SET LOCAL session_replication_role = origin;
		COMMIT`)
	must(t, err)
	_, err = conn.Exec(t.Context(), `UPDATE tierlimit.catalogue SET version = $1`, version)
	must(t, err)
	_, err = conn.Exec(t.Context(), `SELECT setval('tierlimit.versions', $1)`, version)
	must(t, err)
	again, err := c.CreateSubject(t.Context(), tiers.Subject{ID: "after_the_restore", Tier: "pro"})
	must(t, err)
	if again.Version != made.Version {
		t.Fatalf("version %d, and it was %d: this shows nothing", again.Version, made.Version)
	}
	eventually(t, 10*time.Second, "it is read anew", func() bool {
		return planOf(t, replica, "after_the_dump").Tier() == "free" && planOf(t, replica, "after_the_restore").Tier() == "pro"
	})
}

func TestASlowDatabaseIsFollowed(t *testing.T) {
	const customers = 5500
	url, role := newDatabase(t), fmt.Sprintf("slow_%d", time.Now().UnixNano())
	must(t, execute(t.Context(), url, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'"))
	must(t, migrations.Grant(t.Context(), url, role))
	must(t, execute(t.Context(), url, fmt.Sprintf(`
		INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, 'free' FROM generate_series(1, %d) AS n;
		INSERT INTO tierlimit.overrides (subject, limit_name, max, starts_at, expires_at, reason) SELECT id, 'per_minute', 9, '2026-01-01T00:00:00Z', '2926-12-01T00:00:00Z', 'x' FROM tierlimit.subjects`, customers)))
	replica := follow(t, asUser(t, url, role, "secret"))
	must(t, execute(t.Context(), url, `
		UPDATE tierlimit.subjects SET tier = 'pro';
		ALTER TABLE tierlimit.overrides ENABLE ROW LEVEL SECURITY;
		CREATE POLICY slow ON tierlimit.overrides USING (pg_sleep(0.001) IS NOT NULL)`))
	eventually(t, time.Second, "all on pro", func() bool {
		return planOf(t, replica, "acct_1").Tier() == "pro" && planOf(t, replica, fmt.Sprint("acct_", customers)).Tier() == "pro"
	})
}

func TestSequencesThatLagAreSetByTheNextChange(t *testing.T) {
	url := newDatabase(t)
	c, replica := edit(openCatalogue(t, url)), follow(t, url)
	lag := func() {
		t.Helper()
		must(t, execute(t.Context(), url, `SELECT setval('tierlimit.versions', 2), setval('tierlimit.audit_id_seq', 1)`))
	}
	var s tiers.Subject
	for i := range 9 {
		var err error
		s, err = c.CreateSubject(t.Context(), tiers.Subject{ID: fmt.Sprint("acct_", i), Tier: "free"})
		must(t, err)
	}
	eventually(t, time.Second, "caught up", func() bool { return replica.Version() == s.Version })
	lag()
	before := s.Version
	s.Tier = "pro"
	s, err := c.ReplaceSubject(t.Context(), s, s.Version)
	must(t, err)
	if s.Version <= before {
		t.Errorf("version %d after %d", s.Version, before)
	}
	eventually(t, time.Second, "on pro", func() bool { return planOf(t, replica, s.ID).Tier() == "pro" })
	lag()
	must(t, execute(t.Context(), url, `UPDATE tierlimit.subjects SET tier = 'enterprise' WHERE id = '`+s.ID+`'`))
	eventually(t, time.Second, "on enterprise, by hand", func() bool { return planOf(t, replica, s.ID).Tier() == "enterprise" })
	lag()
	must(t, c.Record(t.Context(), tiers.Event{Action: "usage.reset", Kind: tiers.KindUsage, Object: s.ID}, func(context.Context) error { return nil }))
	list, err := c.Events(t.Context(), tiers.EventFilter{Most: 20})
	must(t, err)
	if len(list) != 11 || list[0].Action != "usage.reset" || list[1].Action != "subject.replace" {
		t.Errorf("%d events, the last %+v", len(list), list[0])
	}
}

func TestASequenceThatLagsIsSetOnce(t *testing.T) {
	url := newDatabase(t)
	catalogues := []tiers.Catalogue{openCatalogue(t, url), openCatalogue(t, url)}
	record := func(c tiers.Catalogue) error {
		return c.Record(t.Context(), tiers.Event{Action: "usage.reset", Kind: tiers.KindUsage, Object: "acct_42"}, func(context.Context) error { return nil })
	}
	must(t, record(catalogues[0]))
	for range 20 {
		must(t, execute(t.Context(), url, `ALTER SEQUENCE tierlimit.audit_id_seq RESTART; ALTER SEQUENCE tierlimit.versions RESTART`))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if err := record(catalogues[i%2]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	list, err := catalogues[0].Events(t.Context(), tiers.EventFilter{Most: 500})
	must(t, err)
	if len(list) != 161 {
		t.Errorf("%d events", len(list))
	}
}

func TestRemovalsAreForgottenAfterADay(t *testing.T) {
	url := newDatabase(t)
	c := edit(openCatalogue(t, url))
	s, err := c.CreateSubject(t.Context(), tiers.Subject{ID: "anna@example.com", Tier: "pro"})
	must(t, err)
	must(t, c.DeleteSubject(t.Context(), s.ID, s.Version))
	replica := follow(t, url)
	removals := func() (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		must(t, err)
		defer conn.Close(context.Background())
		must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM tierlimit.removals`).Scan(&n))
		return n
	}
	ledger := openCatalogue(t, url)
	must(t, ledger.ForgetEnded(t.Context(), 0))
	if n := removals(); n != 1 {
		t.Errorf("%d removals within the day", n)
	}
	must(t, execute(t.Context(), url, `UPDATE tierlimit.removals SET removed_at = now() - interval '25 hours'`))
	must(t, ledger.ForgetEnded(t.Context(), 0))
	if n := removals(); n != 0 {
		t.Errorf("%d removals after a day", n)
	}
	_, err = c.CreateSubject(t.Context(), tiers.Subject{ID: "bert", Tier: "pro"})
	must(t, err)
	eventually(t, time.Second, "followed", func() bool { return planOf(t, replica, "bert").Tier() == "pro" })
}

func TestADumpIsRestoredAndServed(t *testing.T) {
	url := newDatabase(t)
	r := startReplica(t, redisServer.URL, url)
	id := newSubject(t)
	r.want(201, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, id))
	tag, _ := r.want(201, "POST", r.admin+"/admin/v1/subjects/"+id+"/overrides", `{"limit":"per_minute","max":7,"expires_at":"2926-12-01T00:00:00Z","reason":"x"}`)
	_, token := r.want(201, "POST", r.admin+"/admin/v1/tokens", `{"name":"alice","role":"operator"}`)

	dump, err := servers.Binary("pg_dump")
	must(t, err)
	restore, err := servers.Binary("pg_restore")
	must(t, err)
	file := filepath.Join(t.TempDir(), "tierlimit.dump")
	name := fmt.Sprintf("restored_%d", time.Now().UnixNano())
	must(t, execute(t.Context(), postgresServer.URL, "CREATE DATABASE "+name))
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(t.Context(), dump, "--schema=tierlimit", "--format=custom", "--file="+file, "--dbname="+url),
		exec.CommandContext(t.Context(), restore, "--exit-on-error", "--no-owner", "--no-privileges", "--dbname="+databaseURL(name), file),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", cmd.Path, err, out)
		}
	}
	// Regression test: a dump restored without rights let everybody erase the audit log.
	role := name + "_reader"
	must(t, execute(t.Context(), databaseURL(name), "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'; CREATE ROLE "+role+"_serve"))
	must(t, migrations.Grant(t.Context(), databaseURL(name), role+"_serve"))
	must(t, execute(t.Context(), databaseURL(name), "GRANT USAGE ON SCHEMA tierlimit TO "+role+"; GRANT SELECT ON ALL TABLES IN SCHEMA tierlimit TO "+role))
	reader := openCatalogue(t, asUser(t, databaseURL(name), role, "secret"))
	for _, dry := range []bool{true, false} {
		if _, err := reader.Erase(t.Context(), tiers.Actor{}, tiers.Erasure{Before: time.Now()}, dry); err == nil || !strings.Contains(err.Error(), "migrate grant") {
			t.Errorf("whoever may read may erase, dry run %v: %v", dry, err)
		}
	}
	again := startReplica(t, redisServer.URL, databaseURL(name))
	if strings.Contains(again.log(), "migrated") {
		t.Errorf("a restored schema was migrated: %s", again.log())
	}
	if d := again.must("take", id); d.Tier != "pro" || d.Windows[0].Limit != "per_minute" || d.Windows[0].Max != 7 {
		t.Errorf("%+v", d)
	}
	var secret struct{ Secret string }
	must(t, json.Unmarshal(token, &secret))
	h, _ := again.want(200, "PATCH", again.admin+"/admin/v1/subjects/"+id, `{"tier":"free"}`, "If-Match", "*", "Authorization", "Bearer "+secret.Secret)
	if before, after := versionOf(t, tag), versionOf(t, h); after <= before {
		t.Errorf("version %d after the restore, %d before", after, before)
	}
	_, events := again.want(200, "GET", again.admin+"/admin/v1/audit?object="+id, "")
	if !strings.Contains(string(events), `"override.create"`) || !strings.Contains(string(events), `"subject.replace"`) {
		t.Errorf("the audit log has %s", events)
	}
}

func versionOf(t *testing.T, h http.Header) int64 {
	t.Helper()
	version, err := strconv.ParseInt(strings.Trim(h.Get("Etag"), `"`), 10, 64)
	must(t, err)
	return version
}

func TestTruncatedLimitsAreHeard(t *testing.T) {
	url := newDatabase(t)
	replica := follow(t, url)
	before := replica.Version()
	must(t, execute(t.Context(), url, `TRUNCATE tierlimit.limits`))
	eventually(t, 2*time.Second, "heard", func() bool { return replica.Version() > before })
	if err := execute(t.Context(), url, `TRUNCATE tierlimit.tiers CASCADE`); err == nil {
		t.Error("there is no default tier any more")
	}
}

func TestTheSchemaOfTheServiceIsItsOwn(t *testing.T) {
	name := fmt.Sprintf("own_%d", time.Now().UnixNano())
	must(t, execute(t.Context(), postgresServer.URL, "CREATE DATABASE "+name))
	url := databaseURL(name)
	must(t, execute(t.Context(), url, "DROP SCHEMA public"))
	_, err := migrations.Up(t.Context(), url)
	must(t, err)

	// An earlier release kept goose's table in the schema public.
	earlier := newDatabase(t)
	must(t, execute(t.Context(), earlier, `ALTER TABLE tierlimit.migrations RENAME TO tierlimit_migrations; ALTER TABLE tierlimit.tierlimit_migrations SET SCHEMA public`))
	steps, err := migrations.Up(t.Context(), earlier)
	must(t, err)
	if len(steps) != 0 {
		t.Errorf("%d migrations are made again", len(steps))
	}
	must(t, migrations.Check(t.Context(), earlier))
}

func TestARotatedPasswordIsUsedForTheNextConnection(t *testing.T) {
	url := newDatabase(t)
	asked := 0
	c, err := pgtiers.OpenWith(t.Context(), pgtiers.Config{URL: url, Renew: func() (string, error) { asked++; return url, nil }})
	must(t, err)
	defer c.Close()
	if asked == 0 {
		t.Error("the URL was not read again")
	}
	failing, err := pgtiers.OpenWith(t.Context(), pgtiers.Config{URL: url, Renew: func() (string, error) { return "", errors.New("no such file") }})
	if err == nil {
		failing.Close()
	}
	if !errors.Is(err, tiers.ErrUnavailable) {
		t.Errorf("a file that is gone for a moment: %v", err)
	}
}
