package integration

import (
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// BenchmarkRedisTake is one decision on real Redis, over 16,384 subjects with
// two windows each, by a lone caller and by 64 a processor.
func BenchmarkRedisTake(b *testing.B) {
	opts, err := redisstore.Options(redisServer.URL, testBudget)
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(opts)
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Config{Budget: testBudget})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close(b.Context())
	ceilings := storetest.Ceilings(
		tierlimit.Ceiling{Name: "per_day", Max: tierlimit.MaxCount, Window: tierlimit.Window{Period: tierlimit.Day}},
		tierlimit.Ceiling{Name: "per_minute", Max: tierlimit.MaxCount, Window: tierlimit.Window{Length: time.Minute}},
	)
	subjects := make([]string, 1<<14)
	for i := range subjects {
		subjects[i] = "bench_" + strconv.Itoa(i)
	}
	take := func(i int) {
		c := tierlimit.Charge{Subject: subjects[i%len(subjects)], Cost: 1, Ceilings: ceilings}
		if _, err := store.Take(b.Context(), c); err != nil {
			b.Error(err)
		}
	}
	b.Run("callers=1", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			take(i)
		}
	})
	b.Run("callers=64_a_processor", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				take(i)
			}
		})
	})
}
