package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A shell runs commands as a user would, in this process.
type shell struct {
	*testing.T
	env map[string]string
	in  string
}

func (sh shell) run(args ...string) (code int, out, errs string) {
	sh.Helper()
	var o, e bytes.Buffer
	code = run(sh.Context(), args, sh.streams(&o, &e))
	return code, o.String(), e.String()
}

func (sh shell) streams(out, errs io.Writer) streams {
	return streams{in: strings.NewReader(sh.in), out: out, err: errs, env: func(name string) (string, bool) { v, ok := sh.env[name]; return v, ok }}
}

// A lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var banner = regexp.MustCompile(`public +(\S+)\n +admin +(\S+)\n +token +(\S+)`)

// dev starts `tierlimit dev` and returns what it printed, and a function that
// stops it and waits.
func (sh shell) dev(args ...string) (public, admin, token string, stop func()) {
	sh.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out, errs lockedBuffer
	done := make(chan int, 1)
	args = append([]string{"dev", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}, args...)
	go func() { done <- run(ctx, args, sh.streams(&out, &errs)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if code := <-done; code != exitOK {
			sh.Errorf("dev ended with %d: %s", code, errs.String())
		}
	})
	sh.Cleanup(stop)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if m := banner.FindStringSubmatch(out.String()); m != nil {
			return m[1], m[2], m[3], stop
		}
	}
	sh.Fatalf("dev printed %s%s", out.String(), errs.String())
	return
}

func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestDevShowsA429(t *testing.T) {
	public, _, _, _ := shell{T: t}.dev()
	for i := range 6 {
		want := 200
		if i == 5 {
			want = 429
		}
		if got := status(t, public+"/demo/data"); got != want {
			t.Fatalf("request %d: %d, want %d", i+1, got, want)
		}
	}
}

func TestBenchCountsExactly(t *testing.T) {
	sh := shell{T: t}
	public, _, _, _ := sh.dev()
	code, out, errs := sh.run("bench", "-c", "50", "-n", "50", "--expect-allowed", "5", public+"/demo/data")
	if code != exitOK || !regexp.MustCompile(`allowed +5\n +denied +45\n +errors +0\n`).MatchString(out) || !strings.Contains(out, "p99") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	code, out, _ = sh.run("bench", "-c", "8", "-n", "20", public+"/v1/take", "--body", `{"subject":"acct_42"}`)
	if code != exitOK || !regexp.MustCompile(`allowed +5\n +denied +15\n`).MatchString(out) {
		t.Errorf("a decision in JSON counts by its allowed: %d: %s", code, out)
	}
	if code, _, errs = sh.run("bench", "-n", "10", "--expect-allowed", "7", public+"/demo/data"); code != exitFailed || !strings.Contains(errs, "0 allowed, expected exactly 7") {
		t.Errorf("%d: %s", code, errs)
	}
	if code, out, errs = sh.run("bench", "-n", "10", public+"/nosuch"); code != exitFailed || !strings.Contains(errs, "404") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	if code, out, _ = sh.run("bench", "-c", "2", "-d", "50ms", public+"/demo/data"); code != exitOK || !strings.Contains(out, "a second") {
		t.Errorf("by duration: %d: %s", code, out)
	}
	for _, args := range [][]string{{"-c", "0"}, {"-n", "-1"}, {"-n", "0"}, {"-d", "-1s"}, {"-n", "1", "-d", "1s"}, {"-H", "x"}, {"ftp://x"}} {
		if code, _, errs := sh.run(append([]string{"bench"}, args...)...); code != exitUsage || !strings.Contains(errs, "must be") {
			t.Errorf("%v: %d: %s", args, code, errs)
		}
	}
}

func TestTakeShowsTheDecision(t *testing.T) {
	sh := shell{T: t}
	public, _, _, _ := sh.dev()
	sh.env = map[string]string{"TIERLIMIT_URL": public}
	code, out, errs := sh.run("take", "acct_42", "--cost", "5")
	if code != exitOK || !strings.Contains(out, "acct_42 on free: allowed") || !strings.Contains(out, "used 5 of 5") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	if code, out, _ = sh.run("take", "acct_42"); code != exitDenied || !strings.Contains(out, "denied: exceeded by per_minute, retry in") {
		t.Errorf("%d: %s", code, out)
	}
	code, out, _ = sh.run("take", "--peek", "--json", "acct_43")
	var d tierlimit.Decision
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != exitOK || d.Windows[0].Used != 0 {
		t.Errorf("%d: %s %v", code, out, err)
	}
	if code, _, errs = sh.run("take", "acct_42", "--cost", "-3"); code != exitFailed || !strings.Contains(errs, "cost") {
		t.Errorf("%d: %s", code, errs)
	}
}

func TestAHoldIsSettledFromTheShell(t *testing.T) {
	sh := shell{T: t}
	public, _, _, _ := sh.dev()
	sh.env = map[string]string{"TIERLIMIT_URL": public}
	does := func(code int, part string, args ...string) string {
		t.Helper()
		got, out, errs := sh.run(args...)
		if got != code || !strings.Contains(out+errs, part) {
			t.Fatalf("%v: %d, want %d and %q: %s%s", args, got, code, part, out, errs)
		}
		return out
	}
	out := does(exitOK, "held, to settle or renew as", "take", "acct_42", "--cost", "5", "--hold", "60s")
	id := strings.Fields(out[strings.Index(out, "renew as"):])[2]
	does(exitOK, `"renewed":true`, "renew", id)
	does(exitOK, `"settled":true`, "settle", id, "--cost", "2")
	does(exitDenied, "no such open hold", "settle", id, "--cost", "2")
	does(exitDenied, "no such open hold", "renew", id)
	does(exitFailed, "cost: must be given", "settle", id)
	does(exitFailed, "hold_ms", "renew", id, "--hold", "1ms")
	for _, wrong := range []string{"1ns", "900us", "-1s", "2h"} {
		does(exitUsage, "--hold", "take", "acct_44", "--hold", wrong, "--", "echo")
	}
	does(exitUsage, "--cost", "take", "acct_44", "--cost", "0", "--", "echo")
	does(exitOK, "used 0 of 5", "take", "--peek", "acct_44")
	does(128+15, "", "take", "acct_44", "--", "sh", "-c", "kill $$")
	does(exitOK, "used 2 of 5", "take", "--peek", "acct_42")

	// A command runs if the charge is allowed, and its charge is settled.
	does(exitOK, "it ran", "take", "acct_42", "--cost", "2", "--", "echo", "it ran")
	does(exitOK, "used 4 of 5", "take", "--peek", "acct_42")
	does(7, "", "take", "acct_42", "--give-back-failures", "--", "sh", "-c", "exit 7")
	does(exitOK, "used 4 of 5", "take", "--peek", "acct_42")
	does(7, "", "take", "acct_42", "--", "sh", "-c", "exit 7")
	does(exitDenied, "denied: exceeded", "take", "acct_42", "--", "touch", filepath.Join(t.TempDir(), "never"))
	does(127, "no-such-command", "take", "acct_43", "--give-back-failures", "--", "no-such-command")
	does(exitOK, "used 0 of 5", "take", "--peek", "acct_43")
	does(exitUsage, "only behind --", "take", "acct_42", "echo")
	does(exitUsage, "of no use", "take", "acct_42", "--peek", "--", "echo")
}

func TestDevKeepsTiersAndSubjectsInAFile(t *testing.T) {
	sh := shell{T: t}
	file := filepath.Join(t.TempDir(), "data.json")
	_, admin, token, stop := sh.dev("--data", file)
	req, err := http.NewRequest(http.MethodPost, admin+"/admin/v1/subjects", strings.NewReader(`{"id":"acct_42","tier":"pro"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	stop()
	public, _, _, _ := sh.dev("--data", file)
	if _, out, _ := sh.run("take", "acct_42", "--url", public); !strings.Contains(out, "acct_42 on pro") {
		t.Errorf("after a restart: %s", out)
	}
}

func TestAFixedLoadIsShownInTheDecision(t *testing.T) {
	sh := shell{T: t}
	public, _, _, _ := sh.dev("--load-fixed", "0.95")
	if _, out, _ := sh.run("take", "acct_42", "--url", public); !strings.Contains(out, "used 1 of 1 (of 5, load x0.1)") {
		t.Errorf("%s", out)
	}
	_, status, errs := sh.run("load", "status", "--url", public)
	for _, line := range []string{
		`mode +enforce`, `load +95.0 %, smoothed 95.0 %`, `agreed +by this replica alone`,
		`replica:\S+ +95.0 % of 1 CPUs, \d+\.\ds ago, counts \(fixed\)`, `free +x0\.1\n`, `pro +x0\.55\n`,
	} {
		if !regexp.MustCompile(line).MatchString(status) {
			t.Errorf("no %s in\n%s%s", line, status, errs)
		}
	}
	if _, out, _ := sh.run("load", "status", "--json", "--url", public); !strings.Contains(out, `"smoothed": 0.95`) {
		t.Errorf("%s", out)
	}
	if _, out, _ := sh.run("take", "acct_42", "--url", public); !strings.Contains(out, "denied: load by per_minute") {
		t.Errorf("%s", out)
	}
}

func TestAWrongConfigurationStopsTheStart(t *testing.T) {
	good := map[string]string{
		"TIERLIMIT_DATABASE_URL": "postgres://tl:hunter2secret@127.0.0.1:1/tl",
		"TIERLIMIT_ADMIN_TOKEN":  "0123456789abcdef0123",
	}
	for name, value := range map[string]string{
		"TIERLIMIT_BUDGET":          "soon",
		"TIERLIMIT_ADDR":            "8080",
		"TIERLIMIT_ADMIN_ADDR":      "127.0.0.1:99999",
		"TIERLIMIT_REDIS_URL":       "http://127.0.0.1",
		"TIERLIMIT_REDIS_MODE":      "many",
		"TIERLIMIT_DATABASE_URL":    "mysql://x",
		"TIERLIMIT_ADMIN_TOKEN":     "short",
		"TIERLIMIT_SERVICE_TOKEN":   "with a space in the middle",
		"TIERLIMIT_TRUSTED_PROXIES": "10.0.0.0/8,office",
		"TIERLIMIT_LOAD_MODE":       "sometimes",
		"TIERLIMIT_LOAD_FIXED":      "95",
		"TIERLIMIT_LOAD_SOURCES":    "own,API",
		"TIERLIMIT_LOG_LEVEL":       "loud",
		"TIERLIMIT_LOG_FORMAT":      "xml",
	} {
		env := map[string]string{name: value}
		for k, v := range good {
			if k != name {
				env[k] = v
			}
		}
		code, _, errs := shell{T: t, env: env}.run("serve")
		if code != exitUsage || !strings.Contains(errs, name) || !strings.Contains(errs, "must be") {
			t.Errorf("%s=%s: %d: %s", name, value, code, errs)
		}
		if secret := strings.HasSuffix(name, "TOKEN"); strings.Contains(errs, value) == secret {
			t.Errorf("%s=%s: a secret is shown, or a value hidden: %s", name, value, errs)
		}
	}
	code, _, errs := shell{T: t}.run("serve")
	if code != exitUsage || !strings.Contains(errs, "TIERLIMIT_DATABASE_URL") || !strings.Contains(errs, "TIERLIMIT_ADMIN_TOKEN") {
		t.Errorf("all that is missing is named at once: %d: %s", code, errs)
	}
	if code, _, errs := (shell{T: t, env: good}).run("serve", "--budget", "", "--addr", "", "--drain", "soon"); code != exitUsage || !strings.Contains(errs, "--drain") || strings.Contains(errs, "budget") {
		t.Errorf("an empty flag is as good as none: %d: %s", code, errs)
	}
	code, _, errs = shell{T: t, env: good}.run("serve", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--start-timeout", "0s")
	if code != exitFailed || !strings.Contains(errs, "reach database") || strings.Contains(errs, "hunter2secret") {
		t.Errorf("without a database: %d: %s", code, errs)
	}
}

func TestConfigShowsWhatIsInForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("0123456789abcdef0123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := shell{T: t, env: map[string]string{
		"TIERLIMIT_DATABASE_URL":     "postgres://tl:hunter2@db/tl",
		"TIERLIMIT_ADMIN_TOKEN_FILE": file,
		"TIERLIMIT_BUDGET":           "20ms",
	}}.run("config", "--addr", ":9000")
	if code != exitOK || strings.Contains(out, "hunter2") || strings.Contains(out, "0123456789") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	for _, line := range []string{
		`TIERLIMIT_ADDR +:9000 +--addr`, `TIERLIMIT_BUDGET +20ms +TIERLIMIT_BUDGET`, `TIERLIMIT_LOAD_MODE +observe +default`, `TIERLIMIT_LOAD_SOURCES +\* +default`,
		`TIERLIMIT_ADMIN_TOKEN +\(hidden\) +TIERLIMIT_ADMIN_TOKEN_FILE`, `TIERLIMIT_DATABASE_URL +postgres://tl:xxxxx@db/tl`, `TIERLIMIT_REDIS_URL +redis://127.0.0.1:6379/0 +default`,
	} {
		if !regexp.MustCompile(line).MatchString(out) {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
}

// What serve would refuse without connecting to anything, config refuses.
func TestConfigRefusesWhatServeRefuses(t *testing.T) {
	for want, c := range map[string]map[string]string{
		"TIERLIMIT_CHECK_BUDGET":    {"TIERLIMIT_BUDGET": "20ms", "TIERLIMIT_CHECK_BUDGET": "30ms"},
		"TIERLIMIT_GRPC_BUDGET":     {"TIERLIMIT_BUDGET": "20ms", "TIERLIMIT_GRPC_BUDGET": "30ms"},
		"TIERLIMIT_ADMIN_ADDR":      {"TIERLIMIT_ADDR": "127.0.0.1:9", "TIERLIMIT_ADMIN_ADDR": "127.0.0.1:9"},
		"TIERLIMIT_ADDR":            {"TIERLIMIT_ADDR": "unix:/" + strings.Repeat("x", 200)},
		"TIERLIMIT_UPSTREAM":        {"TIERLIMIT_UPSTREAM": "http://api:99999"},
		"TIERLIMIT_GRPC_ENTRIES":    {"TIERLIMIT_GRPC_ENTRIES": "subject=a,subject=b"},
		"TIERLIMIT_DATABASE_URL":    {"TIERLIMIT_DATABASE_URL": "postgres://127.0.0.1:1/tl?sslmode=bogus"},
		"TIERLIMIT_TLS_CERT":        {"TIERLIMIT_GRPC_CLIENT_CA": "/nothing"},
		"TIERLIMIT_ADMIN_TLS":       {"TIERLIMIT_ADMIN_TLS_CERT": "/nothing", "TIERLIMIT_ADMIN_TLS_KEY": "/nothing"},
		"TIERLIMIT_REDIS_CA":        {"TIERLIMIT_REDIS_URL": "rediss://127.0.0.1:1", "TIERLIMIT_REDIS_CA": "/nothing"},
		"TIERLIMIT_CONNECTIONS":     {"TIERLIMIT_CONNECTIONS": "many"},
		"TIERLIMIT_SOCKET_MODE":     {"TIERLIMIT_SOCKET_MODE": "0999"},
		"TIERLIMIT_TRUSTED_PROXIES": {"TIERLIMIT_TRUSTED_PROXIES": "10.0.0.1/8"},
		"TIERLIMIT_SUBJECT_HEADER":  {"TIERLIMIT_SUBJECT_HEADER": "X-Forwarded-For", "TIERLIMIT_TRUSTED_PROXIES": "10.0.0.1"},
		"TIERLIMIT_LEGACY_HEADERS":  {"TIERLIMIT_LEGACY_HEADERS": "date"},
	} {
		env := map[string]string{"TIERLIMIT_ADMIN_TOKEN": "0123456789abcdef", "TIERLIMIT_DATABASE_URL": "postgres://127.0.0.1:1/tl", "TIERLIMIT_START_TIMEOUT": "0s"}
		maps.Copy(env, c)
		for _, command := range []string{"config", "serve"} {
			if code, _, errs := (shell{T: t, env: env}).run(command); code != exitUsage || !strings.Contains(errs, want) {
				t.Errorf("%v: %s: %d: %s", c, command, code, errs)
			}
		}
	}
}

func TestCommandLineMistakes(t *testing.T) {
	for _, args := range [][]string{{"serv"}, {"serve", "--nosuch"}, {"take"}, {"migrate", "down"}, {"dev", "extra"}} {
		if code, _, errs := (shell{T: t}).run(args...); code == exitOK || errs == "" {
			t.Errorf("%v: %d: %q", args, code, errs)
		}
	}
	if code, out, _ := (shell{T: t}).run("version"); code != exitOK || !strings.HasPrefix(out, "tierlimit ") {
		t.Errorf("version: %d: %s", code, out)
	}
}

// Parts of passwords were shown where a URL was not what it looked like.
func TestNoPartOfASecretIsShown(t *testing.T) {
	const part = "PASSWORD"
	good := map[string]string{
		"TIERLIMIT_ADMIN_TOKEN": "0123456789abcdef", "TIERLIMIT_DATABASE_URL": "postgres://127.0.0.1:1/tl", "TIERLIMIT_START_TIMEOUT": "0s",
	}
	for _, c := range []map[string]string{
		{"TIERLIMIT_REDIS_URL": "redis://:p#PASSWORD@host"},
		{"TIERLIMIT_REDIS_URL": "redis://:1/PASSWORD@host"},
		{"TIERLIMIT_REDIS_URL": "redis://:1?PASSWORD@host"},
		{"TIERLIMIT_REDIS_URL": "redis://PASSWORD@127.0.0.1:1"},
		{"TIERLIMIT_REDIS_URL": "redis://u:PASSWORD@127.0.0.1:1"},
		{"TIERLIMIT_REDIS_URL": "redis://h:1?password=PASSWORD"},
		{"TIERLIMIT_REDIS_MODE": "cluster", "TIERLIMIT_REDIS_URL": "redis://u:x@h:1?addr=u:PASSWORD@h2:1"},
		{"TIERLIMIT_REDIS_MODE": "sentinel", "TIERLIMIT_REDIS_URL": "redis://h:1?master_name=m&password=a&PASSWORD=1"},
		{"TIERLIMIT_DATABASE_URL": "postgres://u:1@x#PASSWORD@127.0.0.1:1/x"},
		{"TIERLIMIT_DATABASE_URL": "postgres://u:PASSWORD@127.0.0.1:1/x"},
		{"TIERLIMIT_REDIS_KEY": "-----BEGIN\nPASSWORD"},
		{"TIERLIMIT_REDIS_URL": "rediss://127.0.0.1:1", "TIERLIMIT_REDIS_KEY": "-----BEGIN\nPASSWORD"},
	} {
		env := maps.Clone(good)
		maps.Copy(env, c)
		for _, command := range []string{"serve", "config"} {
			code, out, errs := shell{T: t, env: env}.run(command)
			if strings.Contains(out, part) || strings.Contains(errs, part) {
				t.Errorf("%v: %s shows it: %s%s", c, command, out, errs)
			}
			if command == "serve" && code == exitOK {
				t.Errorf("%v: it started", c)
			}
		}
	}
}

// Regression test: explain answered something else than what happens.
func TestExplainSaysWhatIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "routes.yaml")
	if err := os.WriteFile(file, []byte("routes: [{pattern: \"POST /v1/exports/{id...}\", cost: 2}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/v1/exports/../x": "refused with 400", "/v1/exports/%2e%2e/x": "refused with 400", "/v1/exports/7": "cost   2"} {
		if code, out, errs := (shell{T: t}).run("routes", "explain", "POST", path, "--routes", file); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s%s", path, code, out, errs)
		}
	}
}
