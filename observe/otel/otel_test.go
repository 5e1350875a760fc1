package otel_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe/otel"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

func TestOpenTelemetrySeesWhatWasCounted(t *testing.T) {
	reader := metric.NewManualReader()
	m, err := otel.New(metric.NewMeterProvider(metric.WithReader(reader)).Meter("test"), 0)
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := tiers.Static([]tiers.Tier{{Key: "free", Default: true, Limits: tiers.Limits{
		"per_minute": {Max: 2, Window: tierlimit.Window{Length: time.Minute}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Observer: m})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, one := range scope.Metrics {
			if sum, ok := one.Data.(metricdata.Sum[int64]); ok {
				for _, point := range sum.DataPoints {
					outcome, _ := point.Attributes.Value("outcome")
					got[one.Name+" "+outcome.AsString()] += point.Value
				}
			}
		}
	}
	if got["tierlimit.decisions allowed"] != 2 || got["tierlimit.decisions denied"] != 1 || got["tierlimit.limit.evaluations "] != 3 {
		t.Errorf("%v", got)
	}
}
