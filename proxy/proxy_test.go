package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load/guard"
	"github.com/tierlimit/tierlimit/proxy"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A front is a proxy before an API.
type front struct {
	*testing.T
	url string
	lim *tierlimit.Limiter
}

func newFront(t *testing.T, api http.HandlerFunc, change func(*proxy.Config)) *front {
	t.Helper()
	upstream := httptest.NewServer(api)
	t.Cleanup(upstream.Close)
	resolver, err := tiers.Static([]tiers.Tier{{
		Key: "free", Default: true, Limits: map[string]tiers.Limit{"per_minute": {Max: 10, Window: tierlimit.Window{Length: time.Minute}}},
	}}, nil)
	must(t, err)
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Budget: 2 * time.Second})
	must(t, err)
	to, err := url.Parse(upstream.URL)
	must(t, err)
	cfg := proxy.Config{Upstream: to, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	h, err := proxy.New(lim, cfg)
	must(t, err)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.Start()
	t.Cleanup(s.Close)
	return &front{t, s.URL, lim}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *front) do(r *http.Request) (*http.Response, string) {
	f.Helper()
	resp, err := http.DefaultClient.Do(r)
	must(f.T, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(f.T, err)
	return resp, string(body)
}

func (f *front) request(method, path string, body io.Reader, header ...string) *http.Request {
	f.Helper()
	r, err := http.NewRequestWithContext(f.Context(), method, f.url+path, body)
	must(f.T, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// used returns what the client of this process has used.
func (f *front) used() int64 {
	f.Helper()
	u, err := f.lim.Usage(f.Context(), "ip:127.0.0.1")
	must(f.T, err)
	return u.Windows[0].Used
}

func (f *front) wantUsed(what string, want int64) {
	f.Helper()
	deadline := time.Now().Add(time.Minute) // the charge of a client that is gone is settled a little later
	for f.used() != want && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := f.used(); got != want {
		f.Errorf("%s: used %d, want %d", what, got, want)
	}
}

func TestAClientIsHeldToThePlan(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Api", "yes")
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.RequestURI)
	}, nil)
	host := strings.TrimPrefix(f.url, "http://")
	for n := range 10 {
		resp, body := f.do(f.request("DELETE", "/v1/a%2Fb//c?d=e&d=;f", nil))
		if resp.StatusCode != http.StatusOK || body != "DELETE "+host+" /v1/a%2Fb//c?d=e&d=;f" || resp.Header.Get("X-Api") != "yes" {
			t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
		}
		if want := fmt.Sprintf(`"per_minute";r=%d;`, 9-n); !strings.HasPrefix(resp.Header.Get("RateLimit"), want) {
			t.Errorf("RateLimit %s, want %s", resp.Header.Get("RateLimit"), want)
		}
	}
	resp, body := f.do(f.request("GET", "/", nil))
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-Api") != "" || !strings.Contains(body, "Quota exceeded") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestTheUpstreamIsToldOfTheClient(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	}
	spoofed := []string{"X-Forwarded-For", "192.0.2.66", "X-Forwarded-Host", "bank.example", "X-Real-Ip", "192.0.2.66", "Forwarded", "for=192.0.2.66"}
	for name, c := range map[string]struct {
		change func(*proxy.Config)
		want   map[string]string
	}{
		"nobody is trusted": {nil, map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "", "Forwarded": ""}},
		"a trusted proxy": {
			func(cfg *proxy.Config) {
				cfg.Limit.Who.Address.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}, map[string]string{"X-Forwarded-For": "192.0.2.66, 127.0.0.1", "X-Real-Ip": "192.0.2.66", "Forwarded": "for=192.0.2.66"},
		},
	} {
		f := newFront(t, echo, c.change)
		_, body := f.do(f.request("GET", "/", nil, spoofed...))
		var got http.Header
		must(t, json.Unmarshal([]byte(body), &got))
		c.want["X-Forwarded-Host"], c.want["X-Forwarded-Proto"] = strings.TrimPrefix(f.url, "http://"), "http"
		for header, want := range c.want {
			if got.Get(header) != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got.Get(header), want)
			}
		}
	}
}

func TestAResponseSaysWhatItReallyCost(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		if cost := r.URL.Query().Get("cost"); cost != "" {
			w.Header().Set("Tierlimit-Cost", cost)
		}
		if r.URL.Query().Has("fails") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}, nil)
	want := int64(0)
	for _, c := range []struct {
		query string
		costs int64
	}{{"cost=3", 3}, {"", 1}, {"cost=0", 0}, {"cost=many", 1}, {"cost=-1", 1}, {"fails", 0}, {"fails&cost=2", 2}} {
		resp, _ := f.do(f.request("GET", "/?"+c.query, nil))
		want += c.costs
		if got := resp.Header.Get("Tierlimit-Cost"); got != "" {
			t.Errorf("%s: the client sees %s", c.query, got)
		}
		f.wantUsed(c.query, want)
	}
}

func TestAnUpstreamThatIsAwayCostsNothing(t *testing.T) {
	f := newFront(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(cfg *proxy.Config) { cfg.Timeout = 50 * time.Millisecond })
	if resp, body := f.do(f.request("GET", "/", nil)); resp.StatusCode != http.StatusGatewayTimeout || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, "in time") {
		t.Errorf("late: %d %v %s", resp.StatusCode, resp.Header, body)
	}
	f.wantUsed("late", 0)
	away := newFront(t, nil, func(cfg *proxy.Config) { cfg.Upstream, _ = url.Parse("http://127.0.0.1:1") })
	if resp, body := away.do(away.request("POST", "/", strings.NewReader("x"))); resp.StatusCode != http.StatusBadGateway || strings.Contains(body, "127.0.0.1") {
		t.Errorf("away: %d %v %s", resp.StatusCode, resp.Header, body)
	}
	away.wantUsed("away", 0)
}

func TestOfAnUpstreamThatLimitsTooTheTightestIsShown(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("RateLimit", `"theirs";r=`+r.URL.Query().Get("left"))
		w.Header().Set("RateLimit-Policy", `"theirs";q=100`)
	}, nil)
	for left, want := range map[string]string{"2": "theirs", "50": "per_minute"} {
		resp, _ := f.do(f.request("GET", "/?left="+left, nil))
		for _, header := range []string{"RateLimit", "RateLimit-Policy"} {
			if got := resp.Header.Values(header); len(got) != 1 || !strings.HasPrefix(got[0], `"`+want+`"`) {
				t.Errorf("%s left: %s is %q, want that of %s alone", left, header, got, want)
			}
		}
	}
}

// Regression test: X-RateLimit-* of both were sent.
func TestOfTwoLimitersWithLegacyHeadersOneIsShown(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-RateLimit-Limit", "100")
		w.Header().Set("X-RateLimit-Remaining", r.URL.Query().Get("left"))
		w.Header().Set("X-RateLimit-Reset", "1700000000")
	}, func(cfg *proxy.Config) { cfg.Limit.Legacy = httplimit.LegacyDelta })
	for left, theirs := range map[string]bool{"2": true, "50": false} {
		resp, _ := f.do(f.request("GET", "/?left="+left, nil))
		limit := resp.Header.Values("X-RateLimit-Limit")
		if len(limit) != 1 || (limit[0] == "100") != theirs || (resp.Header.Get("RateLimit") == "") != theirs {
			t.Errorf("%s left: %v", left, resp.Header)
		}
	}
}

func TestBodiesAndTrailersAreStreamed(t *testing.T) {
	const large = 20 << 20
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d %v %s", n, err, r.Trailer.Get("X-Asked"))
		w.Header().Set("X-Sum", "answered")
	}, nil)
	r := f.request("POST", "/", io.NopCloser(bytes.NewReader(make([]byte, large))), "Expect", "100-continue") // chunked
	r.Trailer = http.Header{"X-Asked": {"asked"}}
	resp, body := f.do(r)
	if body != fmt.Sprint(large, " <nil> asked") || resp.Trailer.Get("X-Sum") != "answered" {
		t.Errorf("%d %s %v", resp.StatusCode, body, resp.Trailer)
	}
}

func TestEventsComeAsTheyAreSent(t *testing.T) {
	next := make(chan string)
	f := newFront(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			_ = http.NewResponseController(w).Flush()
		}
	}, nil)
	resp, err := http.DefaultClient.Do(func() *http.Request {
		go func() { next <- "first" }()
		return f.request("GET", "/events", nil)
	}())
	must(t, err)
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	for _, event := range []string{"first", "second"} {
		if event == "second" {
			next <- event
		}
		if in.Scan(); in.Text() != "data: "+event { // before the response ends
			t.Errorf("%s", in.Text())
		}
		in.Scan()
	}
	close(next)
}

func TestAnUpgradeGoesThrough(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := buf.ReadString('\n')
		fmt.Fprint(conn, "you said "+line)
	}, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	must(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	f.wantUsed("an upgrade", 1)
}

func TestAGuardRefusesWhatTheProxyCannotForwardInTime(t *testing.T) {
	now, wait := time.Now(), time.Duration(0)
	g := guard.New(guard.Config{Now: func() time.Time { return now }, Wait: func() (time.Duration, bool) { return wait, true }})
	asked := 0
	f := newFront(t, func(http.ResponseWriter, *http.Request) { asked++ }, func(cfg *proxy.Config) { cfg.Limit.Guard = g })
	if resp, _ := f.do(f.request("GET", "/", nil)); resp.StatusCode != http.StatusOK {
		t.Errorf("%d", resp.StatusCode)
	}
	wait = 10 * time.Second
	for range 1000 { // so that the guard notices
		now = now.Add(2 * time.Millisecond)
		if p := g.Acquire("free", 0, "ip:127.0.0.1"); p != nil {
			p.Dropped()
		}
	}
	resp, body := f.do(f.request("POST", "/", strings.NewReader("x")))
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "temporary-reduced-capacity") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	if asked != 1 {
		t.Errorf("the API was asked %d times", asked)
	}
	f.wantUsed("a refused request", 1)
}

func TestAClientThatHangsUpEndsTheRequestUpstream(t *testing.T) {
	began, ended, events := make(chan struct{}), make(chan struct{}), make(chan proxy.Event, 1)
	f := newFront(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	}, func(cfg *proxy.Config) { cfg.Observe = func(e proxy.Event) { events <- e } })
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-began; hangUp() }()
	if _, err := http.DefaultClient.Do(f.request("GET", "/", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-ended
	if e := <-events; e != proxy.Aborted {
		t.Errorf("counted as %s", e)
	}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	f := newFront(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }, nil)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(f.request("GET", "/", nil))
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.ProtoMajor != 2 || string(body) != "HTTP/1.1" {
		t.Errorf("%s to the client, %s to the API, %v", resp.Proto, body, err)
	}
}

func TestWrongUpstreamsAreRefused(t *testing.T) {
	f := newFront(t, nil, nil)
	for _, text := range []string{"ftp://x", "127.0.0.1:3000", "/path", "http://"} {
		to, _ := url.Parse(text)
		var wrong *tierlimit.FieldError
		if _, err := proxy.New(f.lim, proxy.Config{Upstream: to}); !errors.As(err, &wrong) || wrong.Field != "Upstream" {
			t.Errorf("%s: %v", text, err)
		}
	}
	cfg := proxy.Config{Upstream: &url.URL{Scheme: "http", Host: "x"}, Limit: httplimit.Config{Who: httplimit.Who{Header: "X-Account"}}}
	if _, err := proxy.New(f.lim, cfg); err == nil {
		t.Error("a header of anybody")
	}
}
