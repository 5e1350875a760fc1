package api_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// BenchmarkTake is POST /v1/take through the public handler, on the memory
// store: first allowed, then denied.
func BenchmarkTake(b *testing.B) {
	cpu, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(0)})
	if err != nil {
		b.Fatal(err)
	}
	defer cpu.Close()
	for name, tier := range map[string]string{"allowed": "enterprise", "denied": "free"} {
		b.Run(name, func(b *testing.B) {
			list := tiers.Builtin()
			list[2].Limits["per_minute"] = tiers.Limit{Max: tierlimit.MaxCount, Window: tierlimit.Window{Period: tierlimit.Day}}
			resolver, err := tiers.Static(list, func(string) string { return tier })
			if err != nil {
				b.Fatal(err)
			}
			lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
			if err != nil {
				b.Fatal(err)
			}
			h, err := api.Public(api.Config{Limiter: lim, Load: cpu, Open: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/take", strings.NewReader(`{"subject":"acct_42"}`))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
