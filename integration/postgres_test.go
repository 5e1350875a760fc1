package integration

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/migrations"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
	"github.com/tierlimit/tierlimit/tiers/tierstest"
)

const templateDatabase = "tierlimit_template"

// migrated is done once a run: each test gets a copy of a migrated database.
var migrated = sync.OnceValue(func() error {
	ctx := context.Background()
	if err := execute(ctx, postgresServer.URL, "CREATE DATABASE "+templateDatabase); err != nil {
		return err
	}
	_, err := migrations.Up(ctx, databaseURL(templateDatabase))
	return err
})

func newDatabase(t *testing.T) (url string) {
	t.Helper()
	if err := migrated(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test_%d", time.Now().UnixNano())
	if err := execute(t.Context(), postgresServer.URL, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase); err != nil {
		t.Fatal(err)
	}
	return databaseURL(name)
}

func databaseURL(name string) string {
	u, err := url.Parse(postgresServer.URL)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

func execute(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func openCatalogue(t *testing.T, url string) *pgtiers.Catalogue {
	t.Helper()
	c, err := pgtiers.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// edit returns an Editor with the zero Actor.
func edit(c tiers.Catalogue) tiers.Editor { return tiers.NewEditor(c, tiers.Actor{}) }

func follow(t *testing.T, url string) *cache.Cache {
	t.Helper()
	source := openCatalogue(t, url)
	c, err := cache.New(t.Context(), source, cache.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPostgresCatalogue(t *testing.T) {
	tierstest.Run(t, func(t *testing.T) tiers.Catalogue { return openCatalogue(t, newDatabase(t)) })
}

func TestMigrationsRunOnceWhenReplicasStartTogether(t *testing.T) {
	name := fmt.Sprintf("migrations_%d", time.Now().UnixNano())
	if err := execute(t.Context(), postgresServer.URL, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	applied := make(chan int, 4)
	var wg sync.WaitGroup
	for range cap(applied) {
		wg.Go(func() {
			steps, err := migrations.Up(context.Background(), databaseURL(name))
			if err != nil {
				t.Error(err)
			}
			applied <- len(steps)
		})
	}
	wg.Wait()
	close(applied)
	total := 0
	for n := range applied {
		total += n
	}
	status, err := migrations.Status(t.Context(), databaseURL(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status {
		if !s.Applied {
			t.Errorf("%s is not applied", s.Name)
		}
	}
	if total != len(status) {
		t.Errorf("%d migrations applied, there are %d", total, len(status))
	}
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	within = patience(within)
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func planOf(t *testing.T, c *cache.Cache, subject string) *tierlimit.Plan {
	t.Helper()
	p, err := c.Resolve(t.Context(), subject, time.Now().Add(testBudget))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func maxOf(p *tierlimit.Plan, limit string) int64 {
	for _, l := range p.Config().Limits {
		if l.Name == limit {
			return l.Max
		}
	}
	return -2
}

func TestAChangeIsSeenByEveryReplicaWithinASecond(t *testing.T) {
	url := newDatabase(t)
	admin, replicas := openCatalogue(t, url), []*cache.Cache{follow(t, url), follow(t, url)}
	ctx := t.Context()
	everywhere := func(what string, holds func(*cache.Cache) bool) {
		t.Helper()
		for i, r := range replicas {
			eventually(t, time.Second, fmt.Sprintf("%s on replica %d", what, i), func() bool { return holds(r) })
		}
	}
	for _, r := range replicas {
		if p := planOf(t, r, "acct_42"); p.Tier() != "free" || p.Fallback() {
			t.Fatalf("nobody yet: %+v", p)
		}
	}
	s, err := edit(admin).CreateSubject(ctx, tiers.Subject{ID: "acct_42", Tier: "pro"})
	if err != nil {
		t.Fatal(err)
	}
	everywhere("on pro", func(r *cache.Cache) bool { return planOf(t, r, "acct_42").Tier() == "pro" })

	pro, err := admin.Tier(ctx, "pro")
	if err != nil {
		t.Fatal(err)
	}
	pro.Limits["per_minute"] = tiers.Limit{Max: 77, Window: tierlimit.Window{Length: time.Minute}}
	if _, err := edit(admin).ReplaceTier(ctx, pro, pro.Version); err != nil {
		t.Fatal(err)
	}
	everywhere("pro has 77 a minute", func(r *cache.Cache) bool { return maxOf(planOf(t, r, "acct_42"), "per_minute") == 77 })

	if err := execute(ctx, url, `UPDATE tierlimit.limits SET max = 78 WHERE tier = 'pro' AND name = 'per_minute'`); err != nil {
		t.Fatal(err)
	}
	everywhere("78 a minute, set by hand", func(r *cache.Cache) bool { return maxOf(planOf(t, r, "acct_42"), "per_minute") == 78 })

	if err := edit(admin).DeleteSubject(ctx, s.ID, s.Version); err != nil {
		t.Fatal(err)
	}
	everywhere("nobody again", func(r *cache.Cache) bool { return planOf(t, r, "acct_42").Tier() == "free" })

	if _, err := edit(admin).CreateSubject(ctx, tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	everywhere("on pro again", func(r *cache.Cache) bool { return planOf(t, r, "acct_42").Tier() == "pro" })
	if err := execute(ctx, url, `TRUNCATE tierlimit.subjects CASCADE`); err != nil {
		t.Fatal(err)
	}
	everywhere("all subjects gone, by hand", func(r *cache.Cache) bool { return planOf(t, r, "acct_42").Tier() == "free" })
}

func TestAListenConnectionThatIsCutIsMadeAgain(t *testing.T) {
	url := newDatabase(t)
	admin, replica := openCatalogue(t, url), follow(t, url)
	s, err := edit(admin).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "on pro", func() bool { return planOf(t, replica, "acct_42").Tier() == "pro" })
	err = execute(t.Context(), url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := edit(admin).ReplaceSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "enterprise"}, s.Version); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "on enterprise", func() bool { return planOf(t, replica, "acct_42").Tier() == "enterprise" })
}

func TestChangesComeInPagesAndForgetWhatIsLongGone(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	start, err := c.Changes(t.Context(), 0)
	if err != nil || len(start.Tiers) != 3 || !start.Forget {
		t.Fatalf("%+v, %v", start, err)
	}
	run := func(sql string) {
		t.Helper()
		if err := execute(t.Context(), url, sql); err != nil {
			t.Fatal(err)
		}
	}
	run(`INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, 'pro' FROM generate_series(1, 10001) n`)
	first, err := c.Changes(t.Context(), start.Version)
	if err != nil || !first.More || len(first.Subjects) != 10_000 || first.Tiers != nil {
		t.Fatalf("%d subjects, more %v, %v", len(first.Subjects), first.More, err)
	}
	second, err := c.Changes(t.Context(), first.Version)
	if err != nil || second.More || len(second.Subjects) != 1 {
		t.Fatalf("%d subjects, more %v, %v", len(second.Subjects), second.More, err)
	}
	run(`DELETE FROM tierlimit.subjects WHERE id = 'acct_1'`)
	gone, err := c.Changes(t.Context(), second.Version)
	if err != nil || len(gone.Removed) != 1 || gone.Removed[0].ID != "acct_1" || gone.Removed[0].Version <= second.Version {
		t.Fatalf("%+v, %v", gone.Removed, err)
	}
	run(`UPDATE tierlimit.removals SET removed_at = now() - interval '2 days'`)
	run(`DELETE FROM tierlimit.subjects WHERE id = 'acct_2'`)
	if late, err := c.Changes(t.Context(), second.Version); err != nil || !late.Forget {
		t.Errorf("a reader who missed a removal that is no longer listed: %+v, %v", late, err)
	}
	if now, err := c.Changes(t.Context(), gone.Version); err != nil || now.Forget || len(now.Removed) != 1 {
		t.Errorf("one who did not: %+v, %v", now, err)
	}
}

func TestAQuietListenConnectionStaysGood(t *testing.T) {
	url := newDatabase(t)
	admin, replica := openCatalogue(t, url), follow(t, url)
	planOf(t, replica, "acct_42")
	time.Sleep(5 * time.Second) // past two pings of the idle connection
	if _, err := edit(admin).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "on pro", func() bool { return planOf(t, replica, "acct_42").Tier() == "pro" })
}

func TestTheDatabaseItselfRefusesWhatGoWouldNotWrite(t *testing.T) {
	url := newDatabase(t)
	for _, sql := range []string{
		`INSERT INTO tierlimit.tiers (key, name) VALUES ('Bad Key', 'x')`,
		`INSERT INTO tierlimit.tiers (key, name, is_default) VALUES ('second', 'x', true)`,
		`UPDATE tierlimit.tiers SET is_default = false`,
		`DELETE FROM tierlimit.tiers WHERE key = 'free'`,
		`UPDATE tierlimit.tiers SET load_floor = NULL WHERE key = 'free'`,
		`UPDATE tierlimit.tiers SET load_start = 0.95 WHERE key = 'free'`,
		`UPDATE tierlimit.limits SET max = -1`,
		`UPDATE tierlimit.limits SET max = 1000000000000001`,
		`UPDATE tierlimit.limits SET period = 'day' WHERE window_ms IS NOT NULL`,
		`UPDATE tierlimit.limits SET window_ms = 0 WHERE window_ms IS NOT NULL`,
		`UPDATE tierlimit.limits SET adaptive = true WHERE period IS NOT NULL`,
		`INSERT INTO tierlimit.subjects (id, tier) VALUES ('a', 'nosuch')`,
		`INSERT INTO tierlimit.subjects (id, tier) VALUES ('', 'free')`,
		`INSERT INTO tierlimit.subjects (id, tier) VALUES ('old', 'free'); UPDATE tierlimit.subjects SET id = 'new'`,
	} {
		err := execute(t.Context(), url, sql)
		if err == nil || strings.Contains(err.Error(), "syntax") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Whoever listens looks once when it does: what is changed from then on is heard.
func TestWhoListensLooksOnceItListens(t *testing.T) {
	c := openCatalogue(t, newDatabase(t))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	woken := 0
	err := c.Listen(ctx, func() {
		if woken++; woken == 2 {
			cancel()
			return
		}
		if _, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
			t.Error(err)
		}
	})
	if woken != 2 {
		t.Errorf("woken %d times, then %v", woken, err)
	}
}
