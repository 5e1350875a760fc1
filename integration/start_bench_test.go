package integration

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// BenchmarkStart measures the start of a replica with a million subjects in Postgres: its time
// and memory. `make start` runs it.
func BenchmarkStart(b *testing.B) {
	const subjects = 1_000_000
	if err := migrated(); err != nil {
		b.Fatal(err)
	}
	name := fmt.Sprintf("start_%d", time.Now().UnixNano())
	if err := execute(b.Context(), postgresServer.URL, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase); err != nil {
		b.Fatal(err)
	}
	url := databaseURL(name)
	if err := execute(b.Context(), url, fmt.Sprintf(`INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, (ARRAY['free', 'pro', 'enterprise'])[1 + n %% 3] FROM generate_series(1, %d) AS n`, subjects)); err != nil {
		b.Fatal(err)
	}
	c, err := pgtiers.Open(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		before := heapInUse()
		plans, err := cache.New(context.Background(), c, cache.Config{})
		if err != nil {
			b.Fatal(err)
		}
		plan, err := plans.Resolve(b.Context(), fmt.Sprint("acct_", subjects), time.Time{})
		if err != nil || plan.Tier() != "pro" {
			b.Fatalf("%v, %v", plan.Tier(), err)
		}
		b.ReportMetric(float64(heapInUse()-before)/subjects, "B/subject")
		plans.Close()
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
