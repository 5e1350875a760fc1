package prom_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tierlimit/tierlimit/load/guard"
	"github.com/tierlimit/tierlimit/observe/prom"
)

func TestAGuardIsCollected(t *testing.T) {
	g := guard.New(guard.Config{})
	g.Acquire("pro", 20, "acct_42").Answered()
	g.Acquire("free", 10, "acct_43")
	want := `
# HELP tierlimit_guard_in_flight Requests that the overload guard admitted and that are not answered yet.
# TYPE tierlimit_guard_in_flight gauge
tierlimit_guard_in_flight 1
# HELP tierlimit_guard_requests_total Requests that the overload guard admitted or refused.
# TYPE tierlimit_guard_requests_total counter
tierlimit_guard_requests_total{outcome="admitted",tier="free"} 1
tierlimit_guard_requests_total{outcome="admitted",tier="pro"} 1
tierlimit_guard_requests_total{outcome="refused",tier="free"} 0
tierlimit_guard_requests_total{outcome="refused",tier="pro"} 0
`
	if err := testutil.CollectAndCompare(prom.NewGuard(g), strings.NewReader(want), "tierlimit_guard_in_flight", "tierlimit_guard_requests_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(prom.NewGuard(g)); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
