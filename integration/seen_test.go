package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tierlimit/tierlimit/integration/servers"
)

// A sample is one value of a metric on /metrics.
type sample struct {
	name, labels string // labels as the text has them, without braces
	value        float64
}

// scrape returns what /metrics of r says.
func (r *replica) scrape() (samples []sample, text []byte) {
	r.Helper()
	_, text = r.want(200, "GET", r.admin+"/metrics", "")
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[space+1:]), 64)
		must(r.T, err)
		name, labels, _ := strings.Cut(strings.TrimSuffix(line[:space], "}"), "{")
		samples = append(samples, sample{name, labels, value})
	}
	return samples, text
}

// decisions returns the sum of all counts of decisions whose labels contain each of labels.
func decisions(replicas []*replica, labels ...string) (sum float64) {
	for _, r := range replicas {
		samples, _ := r.scrape()
		for _, s := range samples {
			if s.name == "tierlimit_decisions_total" && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(s.labels, l) }) {
				sum += s.value
			}
		}
	}
	return sum
}

// addressIn returns an address from the line that r logs when it serves.
func (r *replica) addressIn(listener string) string {
	r.Helper()
	_, rest, _ := strings.Cut(r.log(), `"`+listener+`":"`)
	address, _, found := strings.Cut(rest, `"`)
	if !found {
		r.Fatalf("no listener %s: %s", listener, r.log())
	}
	return address
}

// proxied sends a request through the proxy and returns the status.
func (r *replica) proxied() int {
	r.Helper()
	resp, err := http.Get("http://" + r.addressIn("proxy") + "/")
	must(r.T, err)
	defer resp.Body.Close()
	return resp.StatusCode
}

const (
	clientsOfEachWay  = 4
	requestsOfAClient = 25
)

// Every decision is counted exactly once, on the replica that made it, whichever way it was asked
// for: also one that is denied, peeked, repeated from memory, or made without Redis. What decides
// nothing is not counted.
func TestMetricsCountEveryDecision(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	t.Cleanup(api.Close)
	redis, err := servers.Redis()
	must(t, err)
	stopRedis := sync.OnceFunc(redis.Stop)
	t.Cleanup(stopRedis)
	routes := filepath.Join(t.TempDir(), "routes.yaml")
	must(t, os.WriteFile(routes, []byte("routes:\n  - {pattern: \"GET /healthz\", skip: true}\n"), 0o600))
	database, replicas := newDatabase(t), make([]*replica, 3)
	for i := range replicas {
		replicas[i] = startReplica(t, redis.URL, database, "--upstream", api.URL, "--proxy-addr", "127.0.0.1:0",
			"--grpc-addr", "127.0.0.1:0", "--grpc-budget", "2s", "--check-budget", "2s", "--trusted-proxies", "127.0.0.1", "--routes", routes)
	}
	a := replicas[0]
	a.want(201, "POST", a.admin+"/admin/v1/subjects", `{"id":"blocked","tier":"free","status":"suspended"}`)
	eventually(t, time.Second, "suspended everywhere", func() bool {
		return !slices.ContainsFunc(replicas, func(r *replica) bool { return r.must("peek", "blocked").Reason != "suspended" })
	})

	subject := newSubject(t) // 5 a minute: most takes are denied, many from memory
	ask := func(method, path, body string, status ...int) func(*replica, int) int {
		return func(r *replica, _ int) int {
			got, _, answer, err := r.ask(method, r.public+path, body)
			if err != nil || !slices.Contains(status, got) {
				t.Errorf("%s %s: %d, %v: %s", method, path, got, err, answer)
			}
			return 1
		}
	}
	// Clients of an API bring no token. They are known by their address.
	send := func(listener, path string, status ...int) func(*replica, int) int {
		return func(r *replica, i int) int {
			base := r.public
			if listener != "public" {
				base = "http://" + r.addressIn(listener)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
			if err != nil {
				t.Error(err)
				return 0
			}
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i%8))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return 0
			}
			defer resp.Body.Close()
			if !slices.Contains(status, resp.StatusCode) {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
			return 1
		}
	}
	envoys := make(map[*replica]ratelimitv3.RateLimitServiceClient)
	for _, r := range replicas {
		conn, err := grpc.NewClient(r.addressIn("grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		envoys[r] = ratelimitv3.NewRateLimitServiceClient(conn)
	}
	descriptor := func(subject string) *ratelimitcommonv3.RateLimitDescriptor {
		return &ratelimitcommonv3.RateLimitDescriptor{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "subject", Value: subject}}}
	}
	// Each way returns how many answers it was given.
	ways := map[string]func(r *replica, i int) int{
		"take":        ask("POST", "/v1/take", fmt.Sprintf(`{"subject":%q}`, subject), 200),
		"take of 0":   ask("POST", "/v1/take", fmt.Sprintf(`{"subject":%q,"cost":0}`, subject), 200),
		"suspended":   ask("POST", "/v1/take", `{"subject":"blocked"}`, 200),
		"peek":        ask("POST", "/v1/peek", fmt.Sprintf(`{"subject":%q}`, subject), 200),
		"check":       send("public", "/v1/check", 200, 429),
		"check/nginx": send("public", "/v1/check/nginx", 200, 403),
		"check/envoy": send("public", "/v1/check/envoy/a", 200, 429),
		"proxy":       send("proxy", "/a", 200, 429),
		"grpc": func(r *replica, i int) int {
			answer, err := envoys[r].ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{
				Domain: "api", Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{descriptor(subject), descriptor(fmt.Sprint(subject, i))},
			})
			if err != nil {
				t.Error(err)
			}
			return len(answer.GetStatuses())
		},
		// These decide nothing.
		"malformed":       func(r *replica, i int) int { return ask("POST", "/v1/take", `{"subject":""}`, 400)(r, i) - 1 },
		"skipped":         func(r *replica, i int) int { return send("proxy", "/healthz", 200)(r, i) - 1 },
		"without a token": func(r *replica, i int) int { return send("public", "/v1/usage/nobody", 401)(r, i) - 1 },
		"without a body":  func(r *replica, i int) int { return ask("POST", "/v1/peek", ``, 400)(r, i) - 1 },
	}
	storm := func(requests int) {
		t.Helper()
		before, given := decisions(replicas), atomic.Int64{}
		var wg sync.WaitGroup
		for _, way := range ways {
			for client := range clientsOfEachWay {
				wg.Go(func() {
					for i := range requests {
						given.Add(int64(way(replicas[(client+i)%len(replicas)], client*requests+i)))
					}
				})
			}
		}
		wg.Wait()
		if counted := decisions(replicas) - before; counted != float64(given.Load()) {
			t.Errorf("%d answers were given, and %v decisions counted", given.Load(), counted)
		}
	}
	storm(requestsOfAClient)
	for _, labels := range [][]string{
		{`outcome="allowed"`, `source="redis"`},
		{`outcome="denied"`, `reason="exceeded"`},
		{`source="deny_cache"`},
		{`outcome="peeked"`},
		{`reason="suspended"`, `source="policy"`},
	} {
		if decisions(replicas, labels...) == 0 {
			t.Errorf("no decision is counted as %v", labels)
		}
	}
	stopRedis()
	storm(2)
	var degraded, causes float64
	for _, r := range replicas {
		samples, _ := r.scrape()
		for _, s := range samples {
			switch {
			case s.name == "tierlimit_degraded_total":
				causes += s.value
			case s.name == "tierlimit_decisions_total" && strings.Contains(s.labels, `source="memory"`):
				degraded += s.value
			}
		}
	}
	if degraded == 0 || causes < degraded {
		t.Errorf("without Redis %v decisions came from memory, and %v were degraded", degraded, causes)
	}
}

// promtool runs Prometheus's tool and fails the test if it finds a fault or has anything to say.
func promtool(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	file, err := exec.LookPath("promtool")
	must(t, err) // integration/prepare installs it, with prometheus
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Stdin = strings.NewReader(string(input))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A monitor is a Prometheus that scrapes replicas.
type monitor struct {
	*testing.T
	url string
}

// startPrometheus starts a Prometheus with deploy/prometheus/rules.yaml.
func startPrometheus(t *testing.T, replicas []*replica, args ...string) *monitor {
	t.Helper()
	file, err := exec.LookPath("prometheus")
	must(t, err) // integration/prepare installs it
	rules, err := filepath.Abs("../deploy/prometheus/rules.yaml")
	must(t, err)
	targets := make([]string, len(replicas))
	for i, r := range replicas {
		targets[i] = hostOf(t, r.admin)
	}
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"global":     map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{rules},
		"scrape_configs": []any{map[string]any{
			"job_name": "tierlimit", "static_configs": []any{map[string]any{"targets": targets}},
		}},
	})
	must(t, err)
	dir, address := t.TempDir(), "127.0.0.1:"+freePort(t)
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yaml"), config, 0o600))
	cmd := exec.Command(file, append([]string{
		"--config.file=" + filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
	}, args...)...)
	cmd.SysProcAttr = servers.EndWithParent(nil)
	var log lockedLog
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("prometheus said: %s", log.String())
		}
	})
	m := &monitor{t, "http://" + address}
	eventually(t, time.Minute, "prometheus is ready", func() bool {
		resp, err := http.Get(m.url + "/-/ready")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return m
}

// get reads the data of an answer of the HTTP API.
func (m *monitor) get(path string, data any) error {
	resp, err := http.Get(m.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Warnings      []string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" || len(answer.Warnings) > 0 {
		return fmt.Errorf("%s %s %v", answer.Status, answer.Error, answer.Warnings)
	}
	return nil
}

// query returns the values of an expression that are numbers.
func (m *monitor) query(expr string) (values []float64, err error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := m.get("/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values, nil
}

// has waits until each expression has a value. An error of an expression fails the test at once.
func (m *monitor) has(what string, exprs ...string) {
	m.Helper()
	for _, expr := range exprs {
		deadline := time.Now().Add(busyMachine)
		for {
			values, err := m.query(expr)
			if err != nil {
				m.Fatalf("%s: %v", what, err)
			}
			if len(values) > 0 {
				break
			}
			if time.Now().After(deadline) {
				m.Errorf("%s: no data: %s", what, expr)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// A rule is a rule of deploy/prometheus/rules.yaml as Prometheus returns it.
type rule struct {
	Type, Name, Query, Health, LastError string
	Labels, Annotations                  map[string]string
}

func (m *monitor) rules() (all []rule) {
	m.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	must(m.T, m.get("/api/v1/rules", &data))
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// panelsOf returns the queries of each panel of the dashboard.
func panelsOf(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../deploy/grafana/tierlimit.json")
	must(t, err)
	var dashboard struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(text, &dashboard))
	panels := make(map[string][]string)
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", "tierlimit", "$instance", ".*")
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			panels[p.Title] = append(panels[p.Title], variables.Replace(target.Expr))
		}
	}
	if len(panels) < 20 {
		t.Fatalf("only %d panels", len(panels))
	}
	return panels
}

// Every panel and every rule finds what it looks for in a Prometheus that scrapes two replicas,
// before and during an outage of Redis.
func TestDashboardAndRulesOnARealPrometheus(t *testing.T) {
	redis, err := servers.Redis()
	must(t, err)
	stopRedis := sync.OnceFunc(redis.Stop)
	t.Cleanup(stopRedis)
	database := newDatabase(t)
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(api.Close)
	replicas := make([]*replica, 2)
	for i := range replicas {
		replicas[i] = startReplica(t, redis.URL, database, "--upstream", api.URL, "--proxy-addr", "127.0.0.1:0", "--guard", "on")
		if status := replicas[i].proxied(); status != http.StatusOK {
			t.Errorf("through the proxy: %d", status)
		}
	}
	m := startPrometheus(t, replicas)
	native := startPrometheus(t, replicas, "--enable-feature=native-histograms")
	m.has("a scrape", "count(tierlimit_build_info) == 2")

	// The series are there before they grow: the first value of a counter is no increase.
	subject, stop := newSubject(t), make(chan struct{})
	var load sync.WaitGroup
	for _, r := range replicas {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				who := subject // denied after the fifth
				if i%3 == 0 {
					who = fmt.Sprint(subject, "-", i/30)
				}
				if _, err := r.decide("take", who); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); load.Wait() })

	// Durations in Redis, while there is a Redis.
	m.has("objectives", "job:tierlimit_measured:rate5m > 0", "job:tierlimit_late:ratio_rate5m >= 0")
	native.has("a native histogram", `histogram_count(rate(tierlimit_decision_duration_seconds{source="redis"}[1m])) > 0`)
	stopRedis()
	m.has("an outage", "sum(rate(tierlimit_degraded_total[1m])) > 0", "max(tierlimit_breaker_open) == 1")

	panels := panelsOf(t)
	for _, title := range slices.Sorted(maps.Keys(panels)) {
		m.has("the panel "+title, panels[title]...)
	}
	checkRules(t, m)
	checkMetricsAreDocumented(t, replicas[0])

	_, text := replicas[0].scrape()
	if out := promtool(t, text, "check", "metrics"); out != "" {
		t.Errorf("promtool check metrics: %s", out)
	}
	promtool(t, nil, "check", "rules", "../deploy/prometheus/rules.yaml")
	promtool(t, nil, "check", "config", "--syntax-only", "../deploy/compose/prometheus.yaml")
}

var burnRates = flag.Bool("burn-rates", false, "test the burn rates too, which takes a minute of days in Prometheus")

// The rules fire when they should, and not when they should not. `make alerts` tests the burn rates
// too.
func TestAlertsFire(t *testing.T) {
	files := []string{"rules_test.yaml"}
	if *burnRates {
		files = append(files, "burn_rates_test.yaml")
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			promtool(t, nil, "test", "rules", "../deploy/prometheus/"+file)
		})
	}
}

var heading = regexp.MustCompile(`(?m)^#+ (.*)$`)

// checkRules checks that Prometheus can evaluate each rule, and that each alert is explained.
func checkRules(t *testing.T, m *monitor) {
	t.Helper()
	runbook, err := os.ReadFile("../docs/runbook.md")
	must(t, err)
	anchors := make(map[string]bool)
	for _, h := range heading.FindAllStringSubmatch(string(runbook), -1) {
		anchors["docs/runbook.md#"+strings.ReplaceAll(strings.ToLower(h[1]), " ", "-")] = true
	}
	eventually(t, busyMachine, "all rules are evaluated", func() bool {
		return !slices.ContainsFunc(m.rules(), func(r rule) bool { return r.Health == "unknown" })
	})
	rules := m.rules()
	if len(rules) < 30 {
		t.Fatalf("only %d rules", len(rules))
	}
	tests := ""
	for _, file := range []string{"rules_test.yaml", "burn_rates_test.yaml"} {
		text, err := os.ReadFile("../deploy/prometheus/" + file)
		must(t, err)
		tests += string(text)
	}
	for _, r := range rules {
		if r.Health != "ok" {
			t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
		}
		if _, err := m.query(r.Query); err != nil {
			t.Error(err)
		}
		if r.Type == "recording" {
			m.has("a recording rule", r.Name)
			continue
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !anchors[r.Annotations["runbook_url"]] {
			t.Errorf("%s has the annotations %v, and the runbook the headings %v", r.Name, r.Annotations, slices.Sorted(maps.Keys(anchors)))
		}
		if !slices.Contains([]string{"page", "ticket", "info"}, r.Labels["severity"]) || !strings.Contains(tests, `alertname="`+r.Name+`"`) {
			t.Errorf("%s has the severity %q, and needs a test", r.Name, r.Labels["severity"])
		}
	}
}

var named = regexp.MustCompile("`(tierlimit_[a-z_]+)`")

// checkMetricsAreDocumented compares docs/metrics.md with /metrics.
func checkMetricsAreDocumented(t *testing.T, r *replica) {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	must(t, err)
	documented := make(map[string]bool)
	for _, name := range named.FindAllStringSubmatch(string(text), -1) {
		documented[name[1]] = true
	}
	served := make(map[string]bool)
	_, answer := r.scrape()
	for line := range strings.Lines(string(answer)) {
		if name, isType := strings.CutPrefix(line, "# TYPE "); isType && strings.HasPrefix(name, "tierlimit_") {
			name, _, _ = strings.Cut(name, " ")
			served[name] = true
		}
	}
	if !maps.Equal(documented, served) {
		t.Errorf("docs/metrics.md names %v, and /metrics has %v", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served)))
	}
}
