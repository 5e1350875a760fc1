package prom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierlimit/tierlimit/load/guard"
)

var (
	guardRequests = prometheus.NewDesc("tierlimit_guard_requests_total", "Requests that the overload guard admitted or refused.", []string{"tier", "outcome"}, nil)
	guardInFlight = prometheus.NewDesc("tierlimit_guard_in_flight", "Requests that the overload guard admitted and that are not answered yet.", nil, nil)
	guardPressure = prometheus.NewDesc("tierlimit_guard_pressure", "How long the queue is, as a part of what it may be: more than 1 is too long.", nil, nil)
)

// NewGuard returns a collector of what g counts. A registry takes one.
func NewGuard(g *guard.Guard) prometheus.Collector { return guardCollector{g} }

type guardCollector struct{ guard *guard.Guard }

// Describe implements prometheus.Collector.
func (guardCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- guardRequests
	ch <- guardInFlight
	ch <- guardPressure
}

// Collect implements prometheus.Collector.
func (c guardCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.guard.Status()
	ch <- prometheus.MustNewConstMetric(guardInFlight, prometheus.GaugeValue, float64(s.InFlight))
	ch <- prometheus.MustNewConstMetric(guardPressure, prometheus.GaugeValue, s.Pressure)
	for _, t := range s.Tiers {
		ch <- prometheus.MustNewConstMetric(guardRequests, prometheus.CounterValue, float64(t.Admitted), t.Tier, "admitted")
		ch <- prometheus.MustNewConstMetric(guardRequests, prometheus.CounterValue, float64(t.Refused), t.Tier, "refused")
	}
}
