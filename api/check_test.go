package api_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/httplimit"
)

// gateway returns what a gateway at 10.0.0.1 is answered about a client's requests.
func gateway(t *testing.T) func(method, path, client string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	cfg := newSite(t, 0).cfg
	cfg.Open = false
	cfg.Who.Address.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	cost := int64(3)
	routes, err := httplimit.NewRoutes([]httplimit.Route{
		{Pattern: "GET /healthz", Charge: httplimit.Charge{Skip: true}},
		{Pattern: "POST /v1/exports/{id...}", Charge: httplimit.Charge{Cost: &cost}},
		{Pattern: "admin.example.com/", Charge: httplimit.Charge{Cost: &cost}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Routes = routes
	public, err := api.Public(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func(method, path, client string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, unread{t})
		r.RemoteAddr = "10.0.0.1:4711"
		r.Header.Set("X-Forwarded-For", client)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		public.ServeHTTP(w, r)
		return w
	}
}

// unread is a body that must not be read.
type unread struct{ *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.Error("a body was read")
	return 0, http.ErrBodyReadAfterClose
}

// A gateway that asked /v1/take, which answers 200 always, let everybody through.
func TestAGatewayIsAnsweredByStatus(t *testing.T) {
	ask := gateway(t)
	for method, client := range map[string]string{"GET": "203.0.113.1", "HEAD": "203.0.113.2", "POST": "203.0.113.3", "PROPFIND": "203.0.113.4"} {
		for i := range 5 {
			if w := ask(method, "/v1/check", client); w.Code != 200 || w.Body.Len() > 0 || !strings.Contains(w.Header().Get("RateLimit"), `"per_minute";r=`) {
				t.Errorf("%s %d: %d %v %s", method, i, w.Code, w.Header(), w.Body)
			}
		}
		w := ask(method, "/v1/check", client)
		if w.Code != 429 || w.Header().Get("Retry-After") != "60" || !strings.Contains(w.Header().Get("RateLimit"), `"per_minute";r=0`) || w.Body.Len() > 400 {
			t.Errorf("%s: %d %v %s", method, w.Code, w.Header(), w.Body)
		}
	}
}

func TestAGatewaySaysWhatIsAskedFor(t *testing.T) {
	ask := gateway(t)
	left := func(w *httptest.ResponseRecorder) string {
		_, rest, _ := strings.Cut(w.Header().Get("RateLimit"), `"per_minute";r=`)
		r, _, _ := strings.Cut(rest, ";")
		return r
	}
	for i, c := range []struct {
		method, path string
		header       []string
		want         string // left of 5; "" if it passes by
	}{
		{"GET", "/v1/check", []string{"X-Forwarded-Method", "POST", "X-Forwarded-Uri", "/v1/exports/7?a=b"}, "2"},
		{"GET", "/v1/check", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/v1/exports/7"}, "4"},
		{"POST", "/v1/check", []string{"X-Forwarded-Uri", "/v1/exports/7"}, "2"},
		{"GET", "/v1/check", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/healthz"}, ""},
		{"GET", "/v1/check", []string{"X-Forwarded-Uri", "/", "X-Forwarded-Host", "admin.example.com"}, "2"},
		{"POST", "/v1/check/envoy/v1/exports/7?a=b", nil, "2"},
		{"POST", "/v1/check/envoy/v1/exports/a%2Fb", nil, "2"},
		{"GET", "/v1/check/envoy/healthz", nil, ""},
		{"GET", "/v1/check/envoy/", nil, "4"},
		{"POST", "/v1/check/envoy/v1/exports/7", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/healthz"}, "2"}, // the client's own headers
	} {
		w := ask(c.method, c.path, "198.51.100."+string(rune('0'+i)), c.header...)
		if w.Code != 200 || left(w) != c.want {
			t.Errorf("%s %s %v: %d, %q left, want %q", c.method, c.path, c.header, w.Code, left(w), c.want)
		}
	}
	if w := ask("GET", "/v1/check", "198.51.100.99", "X-Forwarded-Uri", "no path"); w.Code != 400 || !strings.Contains(w.Body.String(), "X-Forwarded-Uri") {
		t.Errorf("no path: %d %s", w.Code, w.Body)
	}
}

func TestNginxKnows403Alone(t *testing.T) {
	ask := gateway(t)
	for range 5 {
		if w := ask("GET", "/v1/check/nginx", "203.0.113.9"); w.Code != 200 || w.Header().Get("X-Tierlimit-Status") != "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	if w := ask("GET", "/v1/check/nginx", "203.0.113.9"); w.Code != 403 || w.Header().Get("X-Tierlimit-Status") != "429" || w.Header().Get("Retry-After") != "60" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask("GET", "/v1/check/nginx", "203.0.113.9", "X-Forwarded-Uri", "no path"); w.Code != 403 || w.Header().Get("X-Tierlimit-Status") != "400" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
