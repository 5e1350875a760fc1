package httplimit_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A chat handler streams its response and charges the actual number of tokens, which it
// reports in a trailer.
func ExampleConfig_settle() {
	tier := tiers.Tier{Key: "free", Default: true, Limits: tiers.Limits{
		"at_once": {Max: 2, Algorithm: tierlimit.Concurrent},
		"tokens":  {Max: 100_000, Window: tierlimit.Window{Period: tierlimit.Day}},
	}}
	resolver, err := tiers.Static([]tiers.Tier{tier}, nil)
	if err != nil {
		panic(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		panic(err)
	}
	limit, err := httplimit.New(lim, httplimit.Config{
		Subject: func(*http.Request) (string, error) { return "acct_42", nil },
		Costs:   func(*http.Request) map[string]int64 { return map[string]int64{"tokens": 1200} },
		Hold:    time.Minute, // renewed while the handler runs
		Settle: func(_ *http.Request, _ int, h http.Header) (int64, map[string]int64) {
			tokens, err := strconv.ParseInt(h.Get(http.TrailerPrefix+"X-Tokens"), 10, 64)
			if err != nil || tokens < 0 {
				return tierlimit.Keep, nil // keep the estimate
			}
			return tierlimit.Keep, map[string]int64{"tokens": tokens}
		},
	})
	if err != nil {
		panic(err)
	}
	chat := limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tokens := 0
		for _, word := range []string{"A ", "hold ", "is ", "a ", "charge."} {
			_, _ = io.WriteString(w, word)
			_ = http.NewResponseController(w).Flush()
			tokens++
		}
		w.Header().Set(http.TrailerPrefix+"X-Tokens", strconv.Itoa(tokens))
	}))

	server := httptest.NewServer(chat)
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		panic(err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(err)
	}
	_ = resp.Body.Close()
	usage, err := lim.Usage(resp.Request.Context(), "acct_42")
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s %d tokens, %d running\n", answer, usage.Windows[1].Used, usage.Windows[0].Used)
	// Output: A hold is a charge. 5 tokens, 0 running
}
