package observe_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe"
	"github.com/tierlimit/tierlimit/observe/prom"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// What observing a decision costs: compare the rows.
func BenchmarkTake(b *testing.B) {
	for name, observer := range map[string]tierlimit.Observer{
		"unobserved": nil,
		"counted":    observe.New(observe.Config{}),
		"prom":       prom.New(prom.Config{}),
	} {
		b.Run(name, func(b *testing.B) {
			resolver, err := tiers.Static([]tiers.Tier{{Key: "t", Default: true, Limits: tiers.Limits{
				"per_minute": {Max: 1e9, Window: tierlimit.Window{Length: time.Minute}},
			}}}, nil)
			if err != nil {
				b.Fatal(err)
			}
			lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Observer: observer})
			if err != nil {
				b.Fatal(err)
			}
			names := make([]string, 1000)
			for i := range names {
				names[i] = "acct_" + strconv.Itoa(i)
			}
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := int(next.Add(1)); pb.Next(); i++ {
					if d, err := lim.Take(b.Context(), tierlimit.Request{Subject: names[i%len(names)], Cost: 1}); err != nil || !d.Allowed {
						b.Error(d, err)
						return
					}
				}
			})
		})
	}
}

// What counting alone costs.
func BenchmarkObserve(b *testing.B) {
	s := observe.New(observe.Config{}).Series("t", "", []string{"per_minute"})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Count(true, false, tierlimit.OK, tierlimit.SourceMemory)
		}
	})
}
