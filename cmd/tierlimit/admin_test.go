package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// administrator is a shell that speaks to a running dev.
func administrator(t *testing.T) shell {
	t.Helper()
	sh := shell{T: t}
	public, admin, token, _ := sh.dev()
	sh.env = map[string]string{"TIERLIMIT_URL": public, "TIERLIMIT_ADMIN_URL": admin, "TIERLIMIT_TOKEN": token}
	return sh
}

// does runs a command that succeeds and returns what it printed.
func (sh shell) does(args ...string) string {
	sh.Helper()
	code, out, errs := sh.run(args...)
	if code != exitOK {
		sh.Fatalf("%v: %d: %s%s", args, code, out, errs)
	}
	return out
}

// refuses runs a command that fails, and says these words.
func (sh shell) refuses(want int, words []string, args ...string) {
	sh.Helper()
	code, out, errs := sh.run(args...)
	for _, word := range words {
		if !strings.Contains(errs, word) {
			sh.Errorf("%v does not say %q: %s", args, word, errs)
		}
	}
	if code != want || out != "" {
		sh.Errorf("%v: %d, want %d: %s", args, code, want, out)
	}
}

func TestTheTiersOfAFileAreApplied(t *testing.T) {
	sh := administrator(t)
	file := filepath.Join(t.TempDir(), "tiers.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exported := sh.does("tiers", "export")
	if !strings.HasPrefix(exported, "tiers:\n- key: free\n") || strings.Contains(exported, "version") {
		t.Errorf("exported: %s", exported)
	}
	write(exported)
	if out := sh.does("tiers", "apply", "-f", file); !strings.Contains(out, "0 of 3 tiers changed") {
		t.Errorf("what was exported differs: %s", out)
	}
	sh.does("subjects", "set", "acct_42", "--tier", "pro")
	// Another default, one tier changed, one new, one left out.
	changed := `tiers:
- key: free
  limits: {per_minute: {max: 5, window: 60s, adaptive: true}, per_day: {max: 1000, period: day}}
  name: Free
  priority: 10
  load: {start: 0.7, full: 0.9, floor: 0.1}
- {key: pro, name: Pro, priority: 20, load: {start: 0.85, full: 0.97, floor: 0.5}, limits: {per_minute: {max: 120, window: 60s, adaptive: true}, per_month: {max: 100000, period: month}}}
- {key: team, default: true, limits: {per_month: {max: null, period: month, anchor: billing}}}
`
	write(changed)
	want := []string{
		"+ team", "~ free", "default                true -> false", "~ pro                      1 known subject", "limits.per_minute.max  100 -> 120",
		"= enterprise               not in the file", "3 of 4 tiers would be changed",
	}
	out := sh.does("tiers", "apply", "-f", file, "--dry-run")
	for _, line := range want {
		if !strings.Contains(out, line) {
			t.Errorf("the difference lacks %q: %s", line, out)
		}
	}
	if out := sh.does("tiers", "get", "pro"); !strings.Contains(out, "max: 100\n") {
		t.Errorf("a dry run changed something: %s", out)
	}
	sh.does("tiers", "apply", "-f", file)
	if out := sh.does("tiers", "apply", "-f", file); !strings.Contains(out, "0 of 4 tiers changed") {
		t.Errorf("applied again: %s", out)
	}
	if out := sh.does("tiers", "list"); !strings.Contains(out, "team (default)") || !strings.Contains(out, "billing period") || strings.Contains(out, "free (default)") {
		t.Errorf("listed: %s", out)
	}
	if out := sh.does("tiers", "apply", "-f", file, "--prune"); !strings.Contains(out, "- enterprise") {
		t.Errorf("pruned: %s", out)
	}
	sh.refuses(exitFailed, []string{"404", "enterprise"}, "tiers", "get", "enterprise")

	sh.in = strings.ReplaceAll(changed, "- {key: pro", "- {key: business")
	sh.refuses(exitFailed, []string{"409", `"acct_42"`}, "tiers", "apply", "-f", "-", "--prune") // pro is in use
}

func TestAWrongTierFileChangesNothingAndNamesAllThatIsWrong(t *testing.T) {
	sh := administrator(t)
	before := sh.does("tiers", "export")
	for text, words := range map[string][]string{
		"tiers:\n- key: [":                  {"2:8"},
		"":                                  {"tiers", "given"},
		"tiers: []":                         {"tiers", "given"},
		"tiers: {}":                         {"tiers", "a list"},
		"levels: []":                        {"levels", "no such field"},
		"tiers:\n- {key: free, version: 3}": {"tiers.free.version", "tiers.free.limits"},
		"tiers:\n- {key: X!, name: 5, limits: {a: {max: -1, window: 5x}, b: {max: 1}}, load: {start: 2, full: 1, floor: 0}}": {
			"tiers.X!.key", "tiers.X!.name", "limits.a.max", "limits.a.window", "limits.b.window", "load.start", "load.floor",
		},
		"tiers:\n- {key: a, limits: {x: {max: 010, window: 1s}}}":                                              {"2:", `"010"`, "decimal"},
		"a: &a [x]\ntiers: [*a, *a]":                                                                           {"1:", "aliases"},
		"tiers:\n- {key: a, limits: {x: {max: 1, window: 1s}}}\n---\ntiers: []\n":                              {"one document"},
		strings.Repeat("#", 1<<20) + "\ntiers: []":                                                             {"1 MiB"},
		"tiers:\n- {key: a, limits: {x: {max: 1, window: 1s}}}\n- {key: a, limits: {x: {max: 1, window: 1s}}}": {"tiers.a.key", "different"},
	} {
		sh.in = text
		sh.refuses(exitUsage, words, "tiers", "apply", "-f", "-")
	}
	sh.refuses(exitFailed, []string{"no such file"}, "tiers", "apply", "-f", filepath.Join(t.TempDir(), "none"))
	if after := sh.does("tiers", "export"); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
}

// A file that cannot be applied as a whole changes nothing. Examples are a file with two
// defaults, and a file that deletes a tier with subjects.
func TestAnApplicationIsMadeWholeOrNotAtAll(t *testing.T) {
	sh := administrator(t)
	before := sh.does("tiers", "export")
	const limits = "limits: {per_minute: {max: 5, window: 60s}}"
	sh.does("subjects", "set", "acct_42", "--tier", "pro")
	for text, words := range map[string][]string{
		"tiers:\n- {key: a, default: true, " + limits + "}\n- {key: b, default: true, " + limits + "}": {"400", "default", "of one tier alone"},
		"tiers:\n- {key: a, " + limits + "}\n- {key: free, " + limits + "}":                            {"409", "free", "default"},
	} {
		sh.in = text
		sh.refuses(exitFailed, words, "tiers", "apply", "-f", "-")
		sh.refuses(exitFailed, words, "tiers", "apply", "-f", "-", "--dry-run")
	}
	sh.in = "tiers:\n- {key: a, " + limits + "}\n"
	sh.refuses(exitFailed, []string{"400", "default", "true for one tier"}, "tiers", "apply", "-f", "-", "--prune")
	sh.in = "\ufefftiers:\n- {key: a, default: true, " + limits + "}\n"
	sh.refuses(exitFailed, []string{"409", "acct_42"}, "tiers", "apply", "-f", "-", "--prune", "--dry-run")
	if after := sh.does("tiers", "export"); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
	sh.does("take", "acct_42", "--cost", "7")
	sh.in = "tiers:\n- {key: pro, " + limits + "}\n"
	if out := sh.does("tiers", "apply", "-f", "-", "--dry-run"); !strings.Contains(out, "would be denied by per_minute, 2 over") {
		t.Errorf("who would be denied: %s", out)
	}
}

func TestASubjectIsSetAndShown(t *testing.T) {
	sh := administrator(t)
	out := sh.does("subjects", "set", "acct_42", "--tier", "free", "--trial", "pro@2926-12-15T00:00:00Z", "--billing-anchor", "2026-11-30T00:00:00Z")
	for _, line := range []string{"tier            free", "trial           pro until 2926-12-15T00:00:00Z", "billing anchor  2026-11-30T00:00:00Z", "used 0 of 100 in 60s, from trial"} {
		if !strings.Contains(out, line) {
			t.Errorf("shown without %q: %s", line, out)
		}
	}
	sh.does("take", "acct_42", "--cost", "7")
	out = sh.does("subjects", "set", "acct_42", "--trial", "", "--dry-run")
	if !strings.Contains(out, "100 -> 5        used 7  would be denied at once") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("tried: %s", out)
	}
	sh.does("subjects", "set", "acct_42", "--status", "past_due", "--grace-until", "2926-12-15T00:00:00Z")
	if out := sh.does("subjects", "set", "acct_42", "--status", "active", "--next", "pro@2926-01-01T00:00:00Z"); strings.Contains(out, "grace") || !strings.Contains(out, "next") {
		t.Errorf("paid: %s", out)
	}
	var read struct {
		Subject struct{ Trial struct{ Tier string } }
		Usage   struct{ Tier string }
	}
	if err := json.Unmarshal([]byte(sh.does("subjects", "get", "acct_42", "--json")), &read); err != nil || read.Subject.Trial.Tier != "pro" || read.Usage.Tier != "pro" {
		t.Errorf("%+v, %v", read, err)
	}
	if out := sh.does("subjects", "list", "--tier", "pro"); !strings.Contains(out, "acct_42") {
		t.Errorf("listed: %s", out)
	}
	sh.does("subjects", "set", "a/b c", "--tier", "pro") // what must be escaped in a path
	sh.does("subjects", "get", "a/b c")
	sh.refuses(exitUsage, []string{"told what to change"}, "subjects", "set", "acct_42")
	sh.refuses(exitUsage, []string{"--trial", `"pro"`, "@"}, "subjects", "set", "acct_42", "--trial", "pro")
	sh.refuses(exitFailed, []string{"400", "status", "late", "tier", "Gold!"}, "subjects", "set", "acct_42", "--status", "late", "--tier", "Gold!")
	sh.does("take", "nobody")
	if out := sh.does("subjects", "get", "nobody"); !strings.Contains(out, "nobody, which nobody created") || !strings.Contains(out, "free, the default") || !strings.Contains(out, "used 1 of 5") {
		t.Errorf("a customer nobody created: %s", out)
	}
	sh.does("subjects", "delete", "acct_42")
	sh.refuses(exitFailed, []string{"404"}, "subjects", "delete", "acct_42")
}

func TestManySubjectsAreImportedExportedAndMoved(t *testing.T) {
	sh := administrator(t)
	file := filepath.Join(t.TempDir(), "subjects.ndjson")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"id":"a","tier":"free"}
{"id":"b","tier":"pro","overrides":{"per_minute":{"max":9,"starts_at":"2026-01-01T00:00:00Z","expires_at":"2926-01-01T00:00:00Z","reason":"x"}}}
`)
	if out := sh.does("subjects", "import", file, "--dry-run"); out != "would be: 2 created, 0 replaced, 0 unchanged; nothing was changed\n" {
		t.Errorf("tried: %s", out)
	}
	if out := sh.does("subjects", "import", file); out != "2 created, 0 replaced, 0 unchanged\n" {
		t.Errorf("imported: %s", out)
	}
	exported := sh.does("subjects", "export")
	if strings.Count(exported, "\n") != 2 || !strings.Contains(exported, `"overrides":{"per_minute":{`) {
		t.Errorf("exported: %s", exported)
	}
	write(exported)
	if out := sh.does("subjects", "import", file, "--atomic"); out != "0 created, 0 replaced, 2 unchanged\n" {
		t.Errorf("imported again: %s", out)
	}
	if out := sh.does("subjects", "move", "--tier", "free", "--to", "pro"); out != "0 created, 1 replaced, 0 unchanged\n" {
		t.Errorf("moved: %s", out)
	}
	if out := sh.does("subjects", "list", "--tier", "pro"); !strings.Contains(out, "a ") || !strings.Contains(out, "b ") {
		t.Errorf("moved: %s", out)
	}
	write(`{"id":"c","tier":"free"}` + "\n" + `{"id":"d","tier":"gold"}` + "\n")
	sh.refuses(exitFailed, []string{"line 2", `"d"`, "gold", "before it: 1 created"}, "subjects", "import", file)
	sh.refuses(exitUsage, []string{"--everybody"}, "subjects", "move", "--to", "pro")
	sh.refuses(exitUsage, []string{"--to"}, "subjects", "move", "--tier", "pro")
	sh.refuses(exitFailed, []string{"404", "gold"}, "subjects", "move", "--to", "gold", "--everybody")
	sh.refuses(exitUsage, []string{"no such file"}, "subjects", "import", filepath.Join(t.TempDir(), "none"))
}

func TestKeysAndTokensAreShownOnceAndRevoked(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "acct_42", "--tier", "pro")
	made := sh.does("keys", "create", "acct_42", "--name", "production", "--expires", "2926-12-15T00:00:00Z")
	secret := regexp.MustCompile(`^tl_key_[a-z2-7]{16}_[a-z2-7]{26}\n`).FindString(made)
	if secret == "" {
		t.Fatalf("made: %s", made)
	}
	id := secret[len("tl_key_"):][:16]
	if out := sh.does("keys", "list", "--subject", "acct_42"); !strings.Contains(out, id) || strings.Contains(out, strings.TrimSpace(secret)) || !strings.Contains(out, "production") {
		t.Errorf("listed: %s", out)
	}
	sh.does("keys", "revoke", id)
	if out := sh.does("keys", "list"); strings.Contains(out, id) {
		t.Errorf("revoked, and listed: %s", out)
	}
	sh.refuses(exitFailed, []string{"404"}, "keys", "revoke", id)

	var token struct{ ID, Secret string }
	if err := json.Unmarshal([]byte(sh.does("tokens", "create", "viewer", "--name", "look", "--json")), &token); err != nil || token.Secret == "" {
		t.Fatal(err)
	}
	viewer := sh
	viewer.env = map[string]string{"TIERLIMIT_ADMIN_URL": sh.env["TIERLIMIT_ADMIN_URL"], "TIERLIMIT_TOKEN": token.Secret}
	viewer.does("tiers", "list")
	viewer.refuses(exitFailed, []string{"403", "viewer"}, "subjects", "set", "acct_43", "--tier", "pro")
	sh.does("tokens", "revoke", token.ID)
	viewer.refuses(exitFailed, []string{"401", "TIERLIMIT_TOKEN"}, "tiers", "list")
	sh.refuses(exitFailed, []string{"400", "role", "king", "viewer"}, "tokens", "create", "king", "--name", "x")
	viewer.env["TIERLIMIT_ADMIN_URL"] = "ftp://x"
	viewer.refuses(exitUsage, []string{"TIERLIMIT_ADMIN_URL", "ftp://x", "http"}, "tiers", "list")
	viewer.env["TIERLIMIT_ADMIN_URL"] = "http://127.0.0.1:1"
	viewer.refuses(exitFailed, []string{"127.0.0.1:1"}, "tiers", "list")
}

func TestOverridesUsageHoldsLoadAndAuditFromTheShell(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "acct_42", "--tier", "free")
	if out := sh.does("overrides", "set", "acct_42", "per_minute", "--max", "50", "--until", "2926-12-01T00:00:00Z", "--reason", "launch day", "--dry-run"); !strings.Contains(out, "5 -> 50") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("tried: %s", out)
	}
	if out := sh.does("overrides", "set", "acct_42", "per_minute", "--max", "50", "--until", "2926-12-01T00:00:00Z", "--reason", "launch day"); !strings.Contains(out, "used 0 of 50 in 60s, from override") {
		t.Errorf("set: %s", out)
	}
	if out := sh.does("overrides", "set", "acct_42", "per_minute", "--max", "unlimited"); !strings.Contains(out, "used 0 of unlimited") {
		t.Errorf("changed: %s", out)
	}
	if out := sh.does("overrides", "list", "acct_42"); !strings.Contains(out, "launch day") || !strings.Contains(out, "unlimited") {
		t.Errorf("listed: %s", out)
	}
	if out := sh.does("overrides", "delete", "acct_42", "per_minute"); !strings.Contains(out, "used 0 of 5 in 60s, from tier") {
		t.Errorf("deleted: %s", out)
	}
	sh.refuses(exitUsage, []string{"--max", "many"}, "overrides", "set", "acct_42", "per_minute", "--max", "many")
	sh.refuses(exitFailed, []string{"400", "per_week", "per_day, per_minute"}, "overrides", "set", "acct_42", "per_week", "--max", "5", "--until", "2926-12-01T00:00:00Z", "--reason", "x")

	sh.does("take", "acct_42", "--cost", "3", "--hold", "1m")
	if out := sh.does("usage", "get", "acct_42"); !strings.Contains(out, "used 3") {
		t.Errorf("used: %s", out)
	}
	out := sh.does("holds", "list", "acct_42")
	id := strings.Fields(out)[len(strings.Fields(out))-1]
	if !strings.Contains(out, "per_day 3, per_minute 3") {
		t.Errorf("held: %s", out)
	}
	sh.does("holds", "release", "acct_42", id)
	sh.refuses(exitFailed, []string{"404"}, "holds", "release", "acct_42", id)
	sh.does("take", "acct_42", "--cost", "3")
	if out := sh.does("usage", "reset", "acct_42", "--limit", "per_minute"); !strings.Contains(out, "per_minute  used 0") || !strings.Contains(out, "per_day     used 3") {
		t.Errorf("reset: %s", out)
	}

	if out := sh.does("load", "set", "--mode", "observe", "--pin", "free=0.5@2926-12-01T00:00:00Z,pro=0.9"); !strings.Contains(out, "observe") || !strings.Contains(out, "free  x0.5 until 2926-12-01T00:00:00Z") {
		t.Errorf("load: %s", out)
	}
	if out := sh.does("load", "set", "--unpin", "free"); strings.Contains(out, "free") || !strings.Contains(out, "pro   x0.9") {
		t.Errorf("load: %s", out)
	}
	sh.refuses(exitUsage, []string{"--pin", "free"}, "load", "set", "--pin", "free")
	sh.refuses(exitUsage, []string{"told what"}, "load", "set")

	if out := sh.does("audit", "--object", "acct_42"); !strings.Contains(out, "usage.reset") || !strings.Contains(out, "hold.release") || !strings.Contains(out, "override.create") || !strings.Contains(out, "max 50 -> unlimited") {
		t.Errorf("audit: %s", out)
	}
	if out := sh.does("audit", "--until", "2026-01-01T00:00:00Z"); strings.Contains(out, "acct_42") {
		t.Errorf("long ago: %s", out)
	}
	sh.refuses(exitFailed, []string{"400", "since"}, "audit", "--since", "soon")
}

func TestAMoveLeavesAloneWhoOnlyTriesTheTier(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "on", "--tier", "free", "--trial", "pro@2926-01-01T00:00:00Z")
	sh.does("subjects", "set", "tries", "--tier", "pro", "--trial", "free@2926-01-01T00:00:00Z")
	sh.does("subjects", "set", "later", "--tier", "pro", "--next", "free@2926-01-01T00:00:00Z")
	if out := sh.does("subjects", "move", "--tier", "free", "--to", "enterprise"); !strings.HasPrefix(out, "0 created, 1 replaced, 0 unchanged") {
		t.Errorf("moved: %s", out)
	}
	if out := sh.does("subjects", "get", "later"); !strings.Contains(out, "tier        pro") || !strings.Contains(out, "next        free at 2926") {
		t.Errorf("who will be on the tier: %s", out)
	}
	sh.refuses(exitFailed, []string{"404", "fre"}, "subjects", "move", "--tier", "fre", "--to", "pro")
	sh.refuses(exitFailed, []string{"400", "tier"}, "subjects", "move", "--tier", "", "--status", "active", "--to", "pro")
}

// An empty status, as of a shell variable that is not set, lifted a suspension.
func TestAStatusCannotBeTakenAway(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "acct_42", "--tier", "pro", "--status", "suspended")
	sh.refuses(exitFailed, []string{"400", "status", "active, past_due or suspended"}, "subjects", "set", "acct_42", "--status", "")
	if out := sh.does("subjects", "get", "acct_42"); !strings.Contains(out, "suspended") {
		t.Errorf("lifted: %s", out)
	}
}

// With Redis away a change that was made was told as failed.
func TestASubjectIsShownThoughItsUsageIsNotKnown(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "acct_42", "--tier", "pro")
	behind, err := url.Parse(sh.env["TIERLIMIT_ADMIN_URL"])
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/usage") {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	sh.env["TIERLIMIT_ADMIN_URL"] = server.URL
	if out := sh.does("subjects", "set", "acct_42", "--tier", "enterprise"); !strings.Contains(out, "enterprise") || !strings.Contains(out, "unknown: Redis does not answer") {
		t.Errorf("set: %s", out)
	}
	if out := sh.does("subjects", "get", "acct_42", "--json"); !strings.Contains(out, `"usage": null`) {
		t.Errorf("read: %s", out)
	}
}

// An empty limit, as of a shell variable that is not set, reset all limits.
func TestAResetOfALimitWithoutANameIsRefused(t *testing.T) {
	sh := administrator(t)
	sh.does("take", "acct_42", "--cost", "3")
	sh.refuses(exitFailed, []string{"400", "limit"}, "usage", "reset", "acct_42", "--limit", "")
	if out := sh.does("usage", "get", "acct_42"); !strings.Contains(out, "used 3 of 5") {
		t.Errorf("reset: %s", out)
	}
}

func TestAPinHasTheEndThatIsGivenWithIt(t *testing.T) {
	sh := administrator(t)
	sh.does("load", "set", "--pin", "free=0.2@2926-12-01T00:00:00Z")
	if out := sh.does("load", "set", "--pin", "free=0.3"); strings.Contains(out, "2926") {
		t.Errorf("the end of an older pin: %s", out)
	}
	sh.refuses(exitUsage, []string{"--unpin", "free"}, "load", "set", "--pin", "free=0.5", "--unpin", "free")
}

func TestAWrongListenerIsNamed(t *testing.T) {
	sh := administrator(t)
	public, admin := sh.env["TIERLIMIT_URL"], sh.env["TIERLIMIT_ADMIN_URL"]
	sh.env["TIERLIMIT_URL"], sh.env["TIERLIMIT_ADMIN_URL"] = admin, public
	sh.refuses(exitFailed, []string{"404", "admin listener", "--admin-url " + public}, "tiers", "list")
	sh.refuses(exitFailed, []string{"404", "public listener", "--url " + admin}, "take", "acct_42")
	sh.env["TIERLIMIT_ADMIN_URL"] = admin
	code, _, errs := sh.run("subjects", "delete", "acct_42")
	if code != exitFailed || strings.Contains(errs, "listener") {
		t.Errorf("a subject that is not there: %d: %s", code, errs)
	}
}

func TestAnAddressThatCannotBeReadSaysWhatToEscape(t *testing.T) {
	sh := shell{T: t, env: map[string]string{"TIERLIMIT_REDIS_URL": "redis://:pass%word@127.0.0.1", "TIERLIMIT_DATABASE_URL": "postgres://a:pass%word@127.0.0.1/x"}}
	code, out, errs := sh.run("config")
	if code != exitUsage || strings.Count(errs, "% is written %25") != 2 || strings.Contains(out+errs, "pass%word") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
}

// Each of these changed something, failed in a way that misled, or exited with 1.
func TestWhatAUserGetsWrongIsSaidBeforeAnythingIsAsked(t *testing.T) {
	sh := administrator(t)
	for _, args := range [][]string{
		{"subjects", "get"}, {"subjects", "nosuch"}, {"nosuch"}, {"audit", "nosuch"}, {"keys", "revoke", "a", "b"}, {"settle"}, {"take"}, {"bench", "a", "b"},
	} {
		sh.refuses(exitUsage, []string{"usage: tierlimit"}, args...)
	}
	sh.refuses(exitUsage, []string{"ID: must be given"}, "subjects", "delete", "")
	sh.refuses(exitUsage, []string{"LIMIT: must be given"}, "overrides", "delete", "acct_42", "")
	sh.does("subjects", "set", "acct_42", "--tier", "pro")
	secret := strings.Fields(sh.does("keys", "create", "acct_42", "--name", "production"))[0]
	id := strings.Fields(sh.does("keys", "list"))[7]
	code, _, errs := sh.run("keys", "revoke", secret)
	if code != exitUsage || !strings.Contains(errs, "not the secret: "+id) || strings.Contains(errs, secret) {
		t.Errorf("a secret is revoked: %d, %s", code, errs)
	}

	for _, near := range []string{secret + " ", "Bearer " + secret, secret[:len(secret)-1]} {
		code, out, errs := sh.run("keys", "revoke", near)
		if code != exitUsage || strings.Contains(out+errs, secret[:len(secret)-1]) {
			t.Errorf("%q is revoked: %d, %s%s", near, code, out, errs)
		}
	}
	for _, args := range [][]string{{"take", ""}, {"settle", "", "--cost", "1"}, {"renew", ""}, {"tokens", "create", "owner"}, {"tiers", "apply"}} {
		sh.refuses(exitUsage, nil, args...)
	}
	sh.refuses(exitUsage, []string{"one of --subject"}, "audit", "erase", "--subject", "", "--actor-id", "x")
	sh.refuses(exitFailed, []string{"400", "subject"}, "audit", "erase", "--subject", "")
	sh.refuses(exitUsage, []string{"one of --subject"}, "audit", "erase", "--subject", "x", "--before", "2020-01-01T00:00:00Z")

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(sh.env["TIERLIMIT_TOKEN"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	delete(sh.env, "TIERLIMIT_TOKEN")
	for _, name := range []string{"TIERLIMIT_TOKEN_FILE", "TIERLIMIT_ADMIN_TOKEN_FILE"} {
		sh.env[name] = file
		sh.does("take", "acct_42", "--peek")
		sh.does("subjects", "get", "acct_42")
		sh.env[name] = file + ".nosuch"
		sh.refuses(exitUsage, []string{name}, "take", "acct_42")
		sh.env[name] = os.DevNull
		sh.refuses(exitUsage, []string{name, "not empty"}, "take", "acct_42")
		delete(sh.env, name)
	}
}

func TestWhateverIsTakenAwayCanBeTriedFirst(t *testing.T) {
	sh := administrator(t)
	sh.does("subjects", "set", "acct_42", "--tier", "free")
	sh.does("overrides", "set", "acct_42", "per_minute", "--max", "50", "--until", "2926-12-01T00:00:00Z", "--reason", "launch day")
	sh.does("keys", "create", "acct_42", "--name", "production")
	key := strings.Fields(sh.does("keys", "list"))[7]
	sh.does("take", "acct_42", "--cost", "3", "--hold", "1m")
	fields := strings.Fields(sh.does("holds", "list", "acct_42"))
	hold := fields[len(fields)-1]
	before := sh.does("audit")
	for _, c := range []struct {
		want []string
		args []string
	}{
		{[]string{"key.delete", key, "override.delete", "per_minute"}, []string{"subjects", "delete", "acct_42"}},
		{[]string{"max", "50 -> none", "per_minute", "50 -> 5"}, []string{"overrides", "delete", "acct_42", "per_minute"}},
		{[]string{"per_minute", "3 -> 0"}, []string{"usage", "reset", "acct_42", "--limit", "per_minute"}},
		{[]string{hold}, []string{"holds", "release", "acct_42", hold}},
		{[]string{key}, []string{"keys", "revoke", key}},
		{[]string{"would erase 3 events"}, []string{"audit", "erase", "--subject", "acct_42"}},
	} {
		out := sh.does(append(c.args, "--dry-run")...)
		for _, want := range append(c.want, "nothing was changed") {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not say %q: %s", c.args, want, out)
			}
		}
	}
	if after := sh.does("audit"); after != before {
		t.Errorf("the log has %s", after)
	}
	if out := sh.does("audit", "erase", "--subject", "acct_42"); !strings.Contains(out, "erased 3 events") {
		t.Errorf("erased: %s", out)
	}
	sh.refuses(exitUsage, []string{"one of --subject"}, "audit", "erase")
}
