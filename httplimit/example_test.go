package httplimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

func ExampleNew() {
	resolver, err := tiers.Static(tiers.Builtin(), nil) // everybody is on free
	if err != nil {
		panic(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		panic(err)
	}
	limit, err := httplimit.New(lim, httplimit.Config{
		Skip: func(r *http.Request) bool { return r.URL.Path == "/livez" },
	})
	if err != nil {
		panic(err)
	}
	handler := limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := tierlimit.FromContext(r.Context())
		fmt.Fprintf(w, "hello from %s", d.Tier)
	}))

	for range 6 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/search", nil))
		fmt.Printf("%d %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// 200 ""
	// 200 ""
	// 200 ""
	// 200 ""
	// 200 ""
	// 429 "60"
}
