package otel_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe/otel"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A program counts its decisions with OpenTelemetry. The reader of a real program is that of an
// exporter, such as otlpmetrichttp.
func Example() {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	metrics, err := otel.New(provider.Meter("github.com/tierlimit/tierlimit"), 0)
	if err != nil {
		log.Fatal(err)
	}

	plans, err := tiers.Static([]tiers.Tier{{Key: "free", Default: true, Limits: tiers.Limits{
		"per_hour": {Max: 2, Window: tierlimit.Window{Length: time.Hour}},
	}}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: plans, Observer: metrics})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		if _, err := lim.Take(context.Background(), tierlimit.Request{Subject: "acct_42", Cost: 1}); err != nil {
			log.Print(err)
		}
	}

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &collected); err != nil {
		log.Fatal(err)
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name != "tierlimit.decisions" {
			continue
		}
		for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
			outcome, _ := point.Attributes.Value("outcome")
			fmt.Println(outcome.AsString(), point.Value)
		}
	}
	// Output: allowed 2
}
