package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// What the usage of long windows costs Postgres: a million decisions, as fast as they are made, for
// 100,000 customers with two such limits, and then what an administrator asks of them.
func BenchmarkUsageInPostgres(b *testing.B) {
	const customers, decisions = 100_000, 1_000_000
	if err := migrated(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		name := fmt.Sprintf("usage_%d", time.Now().UnixNano())
		orFatal(b, execute(b.Context(), postgresServer.URL, "CREATE DATABASE "+name+" TEMPLATE "+templateDatabase))
		url := databaseURL(name)
		orFatal(b, execute(b.Context(), url, fmt.Sprintf(`INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_' || n, 'pro' FROM generate_series(0, %d) AS n`, customers-1)))
		orFatal(b, execute(b.Context(), url, `INSERT INTO tierlimit.limits (tier, name, max, period) VALUES ('pro', 'per_day', 20, 'day')`))
		orFatal(b, execute(b.Context(), url, `VACUUM ANALYZE`))
		c, err := pgtiers.Open(b.Context(), url)
		orFatal(b, err)
		plans, err := cache.New(context.Background(), c, cache.Config{})
		orFatal(b, err)
		conn, err := pgx.Connect(b.Context(), url)
		orFatal(b, err)
		var wal string
		orFatal(b, conn.QueryRow(b.Context(), `SELECT pg_current_wal_lsn()::text`).Scan(&wal))
		opts, err := redisstore.Options(redisServer.URL, 10*time.Second)
		orFatal(b, err)
		client := redis.NewClient(opts)
		counts, err := redisstore.New(client, redisstore.Config{})
		orFatal(b, err)
		store := durable.New(counts, c, durable.Config{Known: plans.Known})
		lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: plans, Budget: 10 * time.Second})
		orFatal(b, err)
		began := time.Now()
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(worker)))
				for range decisions / 64 {
					_, _ = lim.Take(b.Context(), tierlimit.Request{Subject: fmt.Sprint("acct_", random.IntN(customers)), Cost: 1}) // a denial costs as much
				}
			})
		}
		wg.Wait()
		decided := time.Since(began)
		orFatal(b, store.Close(b.Context()))
		b.ReportMetric(decided.Seconds(), "s/decisions")
		b.ReportMetric(time.Since(began).Seconds(), "s/written")
		var bytes, size, written int64
		orFatal(b, conn.QueryRow(b.Context(), `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::bigint, pg_total_relation_size('tierlimit.usage')`, wal).Scan(&bytes, &size))
		for range 100 { // the statistics come late
			orFatal(b, conn.QueryRow(b.Context(), `SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE schemaname = 'tierlimit' AND relname = 'usage'`).Scan(&written))
			if written > 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		b.ReportMetric(float64(written), "rows-written")
		b.ReportMetric(float64(bytes)/1e6, "MB-wal")
		b.ReportMetric(float64(size)/1e6, "MB-table")
		began = time.Now()
		near, err := c.NearLimits(b.Context(), tiers.NearQuery{Over: 0.8, Most: 51})
		orFatal(b, err)
		if len(near) < 50 {
			b.Fatalf("only %d are near a limit", len(near))
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms/near")
		began = time.Now()
		_, err = c.History(b.Context(), "acct_4242", "", 50)
		orFatal(b, err)
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms/history")
		orFatal(b, conn.Close(b.Context()))
		orFatal(b, counts.Close(b.Context()))
		orFatal(b, client.Close())
		plans.Close()
		c.Close()
	}
}

func orFatal(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
