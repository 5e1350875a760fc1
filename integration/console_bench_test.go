package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

// BenchmarkConsole measures how long the pages of the console take with 100,000 subjects in
// Postgres, each tenth with a history:
//
//	go test -run=NONE -bench=^BenchmarkConsole$ ./integration
func BenchmarkConsole(b *testing.B) {
	const subjects = 100_000
	if err := migrated(); err != nil {
		b.Fatal(err)
	}
	name := fmt.Sprintf("console_%d", time.Now().UnixNano())
	if err := execute(b.Context(), postgresServer.URL, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase); err != nil {
		b.Fatal(err)
	}
	database := databaseURL(name)
	for _, fill := range []string{
		`INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, (ARRAY['free', 'pro', 'enterprise'])[1 + n %% 3] FROM generate_series(1, %d) AS n`,
		`INSERT INTO tierlimit.usage_history (subject, limit_name, ends_at, used, max)
			SELECT 'acct_' || n, 'per_month', 1700000000000 + m * 2600000000, n %% 90000, 100000 FROM generate_series(1, %d, 10) AS n, generate_series(1, 12) AS m`,
		`ANALYZE; SELECT %d`,
	} {
		if err := execute(b.Context(), database, fmt.Sprintf(fill, subjects)); err != nil {
			b.Fatal(err)
		}
	}
	counters, err := servers.Redis()
	if err != nil {
		b.Fatal(err)
	}
	defer counters.Stop()
	file, err := binary()
	if err != nil {
		b.Fatal(err)
	}
	r, err := rig.StartReplica(file, "--redis-url", counters.URL, "--database-url", database, "--admin-token", adminToken)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Kill()
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	home := r.Admin + "/console/"
	send := func(b *testing.B, path string, form url.Values) {
		b.Helper()
		var resp *http.Response
		var err error
		if form == nil {
			resp, err = client.Get(home + path)
		} else {
			resp, err = client.PostForm(home+path, form)
		}
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("%s: %d: %v", path, resp.StatusCode, err)
		}
	}
	send(b, "sign-in", url.Values{"token": {adminToken}})
	for _, page := range []struct {
		path string
		form url.Values
	}{
		{"", nil},
		{"subjects", nil},
		{"subjects?tier=pro&status=active", nil},
		{"subjects?prefix=acct_9999", nil},
		{"subject?id=acct_40001", nil},
		{"tiers", nil},
		{"tier?key=free", nil},
		{"audit", nil},
		{"change?do=tier&key=free", nil},
		{"change", url.Values{"do": {"tier"}, "key": {"free"}, "default": {"true"}, "limits.per_minute.max": {"2"}, "limits.per_minute.window": {"60s"}, "limits.per_day.max": {"1000"}, "limits.per_day.window": {"day"}}},
	} {
		b.Run(page.path, func(b *testing.B) {
			for b.Loop() {
				send(b, page.path, page.form)
			}
		})
	}
}
