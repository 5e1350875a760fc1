package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/integration/servers"
)

// The configurations of docs/gateways, in the real programs. The tests change addresses, file
// names and, because a machine may be busy, time-outs.

// blockOf returns a code block of a document.
func blockOf(t *testing.T, document, language string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/gateways/" + document)
	must(t, err)
	_, rest, found := strings.Cut(string(text), "```"+language+"\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("%s has no block of %s", document, language)
	}
	return block
}

// A gate is a gateway before an API, and the tierlimit that it asks.
type gate struct {
	*testing.T
	base  string // of the gateway
	api   *httptest.Server
	limit *replica
	redis *servers.Server
}

const routesOfTheAPI = `
routes:
  - {pattern: "GET /healthz", skip: true}
  - {pattern: "POST /v1/exports/{id...}", cost: 3}
`

// startGate starts all that a gateway stands between. The tier "strict" is closed without Redis.
func startGate(t *testing.T) *gate {
	t.Helper()
	redis, err := servers.Redis()
	must(t, err)
	t.Cleanup(redis.Stop)
	routes := filepath.Join(t.TempDir(), "routes.yaml")
	must(t, os.WriteFile(routes, []byte(routesOfTheAPI), 0o600))
	g := &gate{T: t, redis: redis, limit: startReplica(t, redis.URL, newDatabase(t), "--trusted-proxies", "127.0.0.1", "--routes", routes)}
	g.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body) // whoever breaks off is not counted
		if r.URL.Path == "/own403" {
			w.WriteHeader(http.StatusForbidden)
		}
		fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, n)
	}))
	t.Cleanup(g.api.Close)
	g.limit.want(201, "POST", g.limit.admin+"/admin/v1/tiers", `{"key":"strict","on_store_error":"closed","limits":{"per_hour":{"max":100,"window":"1h"}}}`)
	return g
}

// configure writes a configuration with the addresses of g, and returns its name.
func (g *gate) configure(name, text string, more ...string) string {
	g.Helper()
	file := filepath.Join(g.TempDir(), name)
	port := freePort(g.T)
	if g.base == "" {
		g.base = "http://127.0.0.1:" + port
	}
	replace := append([]string{
		"127.0.0.1:3000", hostOf(g.T, g.api.URL), "127.0.0.1:8080", hostOf(g.T, g.limit.public), "127.0.0.1:8000", strings.TrimPrefix(g.base, "http://"),
	}, more...)
	must(g.T, os.WriteFile(file, []byte(strings.NewReplacer(replace...).Replace(text)), 0o600))
	return file
}

// start runs a gateway until the test ends.
func (g *gate) start(program string, args ...string) {
	g.Helper()
	file, err := exec.LookPath(program)
	must(g.T, err) // integration/prepare installs it
	cmd := exec.Command(file, args...)
	cmd.SysProcAttr = servers.EndWithParent(nil)
	var log lockedLog
	cmd.Stdout, cmd.Stderr = &log, &log
	must(g.T, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	g.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // ends its workers too
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if g.Failed() {
			g.Logf("%s said: %s", program, log.String())
		}
	})
	eventually(g.T, 10*time.Second, program+" listens", func() bool {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(g.base, "http://"), time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// customer creates a subject on a tier and returns its API key.
func (g *gate) customer(tier, status string) string {
	g.Helper()
	id := newSubject(g.T)
	g.limit.want(201, "POST", g.limit.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":%q,"status":%q}`, id, tier, status))
	_, answer := g.limit.want(201, "POST", g.limit.admin+"/admin/v1/keys", fmt.Sprintf(`{"name":"production","subject":%q}`, id))
	_, rest, _ := strings.Cut(string(answer), `"secret":"`)
	secret, _, _ := strings.Cut(rest, `"`)
	return secret
}

func (g *gate) send(method, path, key string, body io.Reader) (status int, h http.Header, text string) {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), busyMachine)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.base+path, body)
	must(g.T, err)
	req.Header.Set("X-Api-Key", key)
	if method == http.MethodOptions {
		req.Header.Set("Access-Control-Request-Method", "GET")
	}
	req.Header.Set("X-Forwarded-Method", "GET") // a client's own headers choose no route and no subject
	req.Header.Set("X-Forwarded-Uri", "/healthz")
	req.Header.Set("X-Forwarded-For", "192.0.2.66")
	resp, err := http.DefaultClient.Do(req)
	must(g.T, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(g.T, err)
	return resp.StatusCode, resp.Header, string(answer)
}

// sendRaw sends a request as it is, without a Host and a Connection, and returns the status.
func (g *gate) sendRaw(text string) int {
	g.Helper()
	address := strings.TrimPrefix(g.base, "http://")
	conn, err := net.DialTimeout("tcp", address, busyMachine)
	must(g.T, err)
	defer conn.Close()
	must(g.T, conn.SetDeadline(time.Now().Add(busyMachine)))
	fmt.Fprintf(conn, "%s\r\nHost: %s\r\nConnection: close\r\n\r\n", text, address)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(g.T, err)
	return resp.StatusCode
}

// left returns what is left of a limit by the RateLimit field.
func left(h http.Header, limit string) int64 {
	_, rest, found := strings.Cut(h.Get("RateLimit"), `"`+limit+`";r=`)
	text, _, _ := strings.Cut(rest, ";")
	n, err := strconv.ParseInt(text, 10, 64)
	if !found || err != nil {
		return -1
	}
	return n
}

// holds sends what a gateway has to get right. gone is the status while tierlimit is gone.
func (g *gate) holds(gone int) {
	free := g.customer("free", "active")
	for n := int64(4); n >= 0; n-- {
		status, h, text := g.send("GET", "/v1/items?a=b", free, nil)
		if status != 200 || text != "GET /v1/items?a=b 0" || left(h, "per_minute") != n {
			g.Errorf("%d left: %d %v %s", n, status, h, text)
		}
	}
	status, h, text := g.send("GET", "/v1/items", free, nil)
	retry, _ := strconv.Atoi(h.Get("Retry-After"))
	if status != 429 || retry < 1 || retry > 60 || left(h, "per_minute") != 0 || !strings.Contains(text, "Too Many Requests") && !strings.Contains(text, "Quota exceeded") {
		g.Errorf("the sixth: %d %v %s", status, h, text)
	}
	if status, h, _ := g.send("GET", "/healthz", free, nil); status != 200 || h.Get("RateLimit") != "" {
		g.Errorf("a route that is skipped: %d %v", status, h)
	}
	if status, h, _ := g.send("OPTIONS", "/v1/items", free, nil); status != 200 {
		g.Errorf("a preflight: %d %v", status, h)
	}
	for _, raw := range []string{
		"GET /v1/items/../../healthz HTTP/1.1\r\nX-Api-Key: " + free, "GET /healthz/%2e%2e/v1/items HTTP/1.1\r\nX-Api-Key: " + free,
		"GET /v1/items#/../../healthz HTTP/1.1\r\nX-Api-Key: " + free, "GET /v1/items HTTP/1.1\r\nX-Api-Key: " + free + "\r\nX-Other: \x01", "GET /v1/items HTTP/1.1\r\nAuthorization: \x01\r\nX-Api-Key: " + free,
	} {
		if status := g.sendRaw(raw); status < 400 {
			g.Errorf("%q passes: %d", raw, status)
		}
	}
	pro := g.customer("pro", "active")
	if status, h, text := g.send("POST", "/v1/exports/7", pro, strings.NewReader("hello")); status != 200 || text != "POST /v1/exports/7 5" || left(h, "per_minute") != 97 {
		g.Errorf("a route that costs 3: %d %v %s", status, h, text)
	}
	const large = 20 << 20
	if status, _, text := g.send("PUT", "/upload", pro, bytes.NewReader(make([]byte, large))); status != 200 || text != fmt.Sprint("PUT /upload ", large) {
		g.Errorf("an upload: %d %s", status, text)
	}
	if status, _, text := g.send("GET", "/own403", pro, nil); status != 403 || text != "GET /own403 0" {
		g.Errorf("the API's own 403: %d %s", status, text)
	}
	if status, _, _ := g.send("GET", "/", g.customer("pro", "suspended"), nil); status != 403 {
		g.Errorf("a suspended customer: %d", status)
	}
	// Whoever brings no valid key is limited by the address, which is the gateway's client.
	if status, h, text := g.send("GET", "/", `a"b'c\d$remote_addr%[src]{`, nil); status != 200 || left(h, "per_minute") != 4 {
		g.Errorf("a quote in a header: %d %v %s", status, h, text)
	}
	if _, usage := g.limit.want(200, "GET", g.limit.admin+"/admin/v1/subjects/ip:127.0.0.1/usage", ""); !strings.Contains(string(usage), `"used":1`) {
		g.Errorf("the address has used %s", usage)
	}
	strict := g.customer("strict", "active")
	if status, _, _ := g.send("GET", "/", strict, nil); status != 200 {
		g.Errorf("strict: %d", status)
	}
	g.redis.Stop()
	eventually(g.T, time.Second, "closed without Redis", func() bool {
		status, _, _ := g.send("GET", "/", strict, nil)
		return status == 503
	})
	must(g.T, g.limit.process.Kill())
	<-g.limit.ended
	if status, _, _ := g.send("GET", "/", pro, nil); status != gone {
		g.Errorf("without tierlimit: %d, want %d", status, gone)
	}
}

func TestNginxHoldsClientsToTheirPlans(t *testing.T) {
	for name, c := range map[string]struct {
		without string // a line that is left out
		gone    int
	}{
		"open":   {"", 200},
		"closed": {"            error_page 500 502 503 504 = @open;\n", 500},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGate(t)
			text := blockOf(t, "nginx.md", "nginx")
			if !strings.Contains(text, c.without) {
				t.Fatalf("the document does not say %q", c.without)
			}
			text = strings.Replace(text, c.without, "", 1)
			dir := t.TempDir()
			must(t, os.Chmod(dir, 0o755)) // the workers have a user of their own
			file := g.configure("nginx.conf", text, "100ms", "30s")
			g.start("nginx", "-c", file, "-p", dir, "-g", "daemon off; pid "+filepath.Join(dir, "pid")+"; error_log stderr;")
			g.holds(c.gone)
		})
	}
}

func TestCaddyHoldsClientsToTheirPlans(t *testing.T) {
	g := startGate(t)
	g.base = "http://127.0.0.1:" + freePort(t)
	file := g.configure("Caddyfile", blockOf(t, "caddy.md", "caddy"), ":8000", strings.TrimPrefix(g.base, "http://127.0.0.1"), "100ms", "30s", "200ms", "30s")
	g.start("caddy", "run", "--adapter", "caddyfile", "--config", file)
	g.holds(502)
}

func TestHAProxyHoldsClientsToTheirPlans(t *testing.T) {
	for name, c := range map[string]struct {
		open string
		gone int
	}{"open": {"local open = true ", 200}, "closed": {"local open = false ", 503}} {
		t.Run(name, func(t *testing.T) {
			g := startGate(t)
			asking := "127.0.0.1:" + freePort(t)
			lua := g.configure("tierlimit.lua", blockOf(t, "haproxy.md", "lua"), "timeout = 1000", "timeout = 60000", "local open = true ", c.open, "127.0.0.1:8083", asking)
			file := g.configure("haproxy.cfg", blockOf(t, "haproxy.md", "haproxy"), "/etc/haproxy/tierlimit.lua", lua, "127.0.0.1:8083", asking,
				"timeout connect 100ms\n    timeout server 200ms", "timeout connect 30s\n    timeout server 30s")
			g.start("haproxy", "-db", "-f", file)
			g.holds(c.gone)
		})
	}
}

// Regression test: HAProxy's client of Lua tried up to four times, and each time charged.
func TestHAProxyAsksOnce(t *testing.T) {
	g := startGate(t)
	var asked atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done() // until HAProxy gives up
	}))
	t.Cleanup(slow.Close)
	asking := "127.0.0.1:" + freePort(t)
	lua := g.configure("tierlimit.lua", blockOf(t, "haproxy.md", "lua"), "timeout = 1000", "timeout = 60000", "127.0.0.1:8083", asking)
	file := g.configure("haproxy.cfg", strings.ReplaceAll(blockOf(t, "haproxy.md", "haproxy"), "127.0.0.1:8080", hostOf(t, slow.URL)),
		"/etc/haproxy/tierlimit.lua", lua, "127.0.0.1:8083", asking)
	g.start("haproxy", "-db", "-f", file)
	before := asked.Load() // looks whether it is up
	if status, _, _ := g.send("GET", "/", g.customer("pro", "active"), nil); status != 200 {
		t.Errorf("%d", status)
	}
	if n := asked.Load() - before; n != 1 {
		t.Errorf("asked %d times about one request", n)
	}
}

// The binary stands in front of an API by itself.
func TestServeForwardsWhatPasses(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Tierlimit-Cost", r.URL.Query().Get("cost"))
		fmt.Fprint(w, r.RequestURI)
	}))
	t.Cleanup(api.Close)
	r := startReplica(t, redisServer.URL, newDatabase(t), "--upstream", api.URL, "--proxy-addr", "127.0.0.1:0", "--trusted-proxies", "127.0.0.1")
	_, rest, _ := strings.Cut(r.log(), `"proxy":"`)
	address, _, found := strings.Cut(rest, `"`)
	if !found {
		t.Fatalf("no proxy: %s", r.log())
	}
	g := &gate{T: t, base: "http://" + address, limit: r}
	key := g.customer("free", "active")
	for _, c := range []struct {
		path string
		left int64 // before the response says what it cost
	}{{"/a?cost=3", 4}, {"/b?cost=0", 1}, {"/c", 1}, {"/d", 0}} {
		if status, h, text := g.send("GET", c.path, key, nil); status != 200 || text != c.path || left(h, "per_minute") != c.left || h.Get("Tierlimit-Cost") != "" {
			t.Errorf("%s: %d %v %s", c.path, status, h, text)
		}
	}
	if status, h, text := g.send("GET", "/", key, nil); status != 429 || h.Get("Retry-After") == "" || !strings.Contains(text, "exceeded") {
		t.Errorf("the fifth: %d %v %s", status, h, text)
	}
}
