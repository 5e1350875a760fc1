package httplimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// BenchmarkMiddleware is a request through the middleware and a handler that
// does nothing, on the memory store: first allowed, then denied.
func BenchmarkMiddleware(b *testing.B) {
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
			mw, err := httplimit.New(lim, httplimit.Config{})
			if err != nil {
				b.Fatal(err)
			}
			h := mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
