package prom_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe/prom"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// A program counts its decisions and serves the counts on /metrics.
func Example() {
	metrics := prom.New(prom.Config{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))

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
	for range 3 {
		if _, err := lim.Take(context.Background(), tierlimit.Request{Subject: "acct_42", Cost: 1}); err != nil {
			log.Print(err)
		}
	}

	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "tierlimit_decisions_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "outcome" {
					fmt.Println(label.GetValue(), metric.GetCounter().GetValue())
				}
			}
		}
	}
	// Output:
	// allowed 2
	// denied 1
}
