package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

// Whatever an owner sends: it is done, or refused as a problem that says why; and what
// is in force afterwards is valid.
func FuzzAdminJSON(f *testing.F) {
	catalogue, err := memtiers.New(tiers.Builtin())
	if err != nil {
		f.Fatal(err)
	}
	cpu, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(cpu.Close)
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: catalogue, Load: cpu})
	if err != nil {
		f.Fatal(err)
	}
	cfg := api.Config{
		Limiter: lim, Catalogue: catalogue, Keyring: catalogue, Load: cpu, AdminToken: adminToken,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	admin := api.Admin(cfg)
	public, err := api.Public(cfg)
	if err != nil {
		f.Fatal(err)
	}
	targets := []struct {
		handler      http.Handler
		method, path string
	}{
		{admin, "POST", "/admin/v1/tiers"},
		{admin, "PUT", "/admin/v1/tiers/pro"},
		{admin, "PATCH", "/admin/v1/tiers/pro"},
		{admin, "POST", "/admin/v1/subjects"},
		{admin, "PUT", "/admin/v1/subjects/acct_1"},
		{admin, "PATCH", "/admin/v1/subjects/acct_1"},
		{admin, "POST", "/admin/v1/subjects/acct_1/overrides"},
		{admin, "PATCH", "/admin/v1/subjects/acct_1/overrides/per_minute"},
		{admin, "POST", "/admin/v1/keys"},
		{admin, "POST", "/admin/v1/tokens"},
		{admin, "PUT", "/admin/v1/load"},
		{admin, "PATCH", "/admin/v1/load"},
		{public, "POST", "/v1/take"},
		{public, "POST", "/v1/peek"},
		{public, "POST", "/v1/settle"},
		{public, "POST", "/v1/renew"},
		{public, "POST", "/v1/load/report"},
	}
	f.Fuzz(func(t *testing.T, target uint8, tag string, body []byte) {
		to := targets[int(target)%len(targets)]
		r := httptest.NewRequest(to.method, to.path, bytes.NewReader(body))
		r.Header["Authorization"] = []string{"Bearer " + adminToken}
		r.Header["If-Match"] = []string{tag}
		w := httptest.NewRecorder()
		to.handler.ServeHTTP(w, r)
		switch {
		case w.Code >= 500:
			t.Errorf("%s %s %s: %d %s", to.method, to.path, body, w.Code, w.Body)
		case w.Code >= 400:
			var p struct {
				Title  string
				Status int
			}
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Title == "" {
				t.Errorf("%s %s %s: %d %s", to.method, to.path, body, w.Code, w.Body)
			}
		case w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()):
			t.Errorf("%s %s %s: %d %s", to.method, to.path, body, w.Code, w.Body)
		}
		inForce, err := catalogue.Tiers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, tier := range inForce {
			if err := tier.Validate(); err != nil {
				t.Errorf("%s %s %s: %+v is in force: %v", to.method, to.path, body, tier, err)
			}
		}
		if d, err := lim.Peek(t.Context(), tierlimit.Request{Subject: "acct_1"}); err != nil || d.Degraded {
			t.Errorf("%s %s %s: then %+v, %v", to.method, to.path, body, d, err)
		}
	})
}
