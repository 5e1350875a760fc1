package memstore_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

func BenchmarkTake(b *testing.B) {
	ceilings := storetest.Ceilings(
		tierlimit.Ceiling{Name: "per_day", Max: tierlimit.MaxCount, Window: tierlimit.Window{Period: tierlimit.Day}},
		tierlimit.Ceiling{Name: "per_minute", Max: tierlimit.MaxCount, Window: tierlimit.Window{Length: time.Minute}},
	)
	subjects := make([]string, 1<<14)
	for i := range subjects {
		subjects[i] = "acct_" + strconv.Itoa(i)
	}
	s := memstore.New(memstore.Config{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			c := tierlimit.Charge{Subject: subjects[i%len(subjects)], Cost: 1, Ceilings: ceilings}
			if _, err := s.Take(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
}
