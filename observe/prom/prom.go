// Package prom exports the metrics of decisions to Prometheus.
package prom

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe"
)

// Buckets of tierlimit_decision_duration_seconds. A decision takes far less than what the usual
// buckets tell apart.
var Buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}

// A Collector is the Observer of a Limiter and a collector of Prometheus. It is safe for
// concurrent use.
type Collector struct {
	*observe.Metrics
	duration    *prometheus.HistogramVec
	utilization *prometheus.HistogramVec

	decisions, limits, degraded, holds *prometheus.Desc
}

// Config tunes a Collector. The zero Config counts.
type Config struct {
	Series int // see observe.Config
	// Denied is told of every denied decision; see observe.Config.
	Denied func(tier string, o *tierlimit.Observation)
}

// New returns a Collector of the metrics
//
//	tierlimit_decisions_total{tier,outcome,reason,source}    exactly one for each decision
//	tierlimit_limit_evaluations_total{tier,limit,result}     within, exceeded or shadow
//	tierlimit_degraded_total{policy,cause}
//	tierlimit_holds_total{event}                             opened, settled, given_back, renewed or missing
//	tierlimit_decision_duration_seconds{source}              see package observe for which decisions
//	tierlimit_utilization_ratio{tier,limit}                  the same
//
// The histograms are native histograms too. Pass the Collector to tierlimit.Config.Observer and
// to prometheus.Registerer.Register.
func New(cfg Config) *Collector {
	c := &Collector{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tierlimit_decision_duration_seconds", Help: "How long decisions took; of allowed decisions that did not ask Redis one of 16 is measured.",
			Buckets: Buckets, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}, []string{"source"}),
		utilization: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tierlimit_utilization_ratio", Help: "The part of a limit's max that is used.",
			Buckets: []float64{.25, .5, .75, 1},
		}, []string{"tier", "limit"}),
		decisions: prometheus.NewDesc("tierlimit_decisions_total", "Decisions, whatever answered them.", observe.DecisionLabels, nil),
		limits:    prometheus.NewDesc("tierlimit_limit_evaluations_total", "Evaluations of limits.", observe.LimitLabels, nil),
		degraded:  prometheus.NewDesc("tierlimit_degraded_total", "Decisions that the store did not answer, or whose tier was not known for sure.", observe.DegradedLabels, nil),
		holds:     prometheus.NewDesc("tierlimit_holds_total", "What happened to holds; missing: a hold to settle or renew was not open.", observe.HoldLabels, nil),
	}
	var durations, uses sync.Map // histograms by label: WithLabelValues hashes under a lock
	c.Metrics = observe.New(observe.Config{
		Series: cfg.Series, Denied: cfg.Denied,
		Duration: func(source string, seconds float64) {
			h, ok := durations.Load(source)
			if !ok {
				h, _ = durations.LoadOrStore(source, c.duration.WithLabelValues(source))
			}
			h.(prometheus.Observer).Observe(seconds) //nolint:forcetypeassert // nothing else goes in
		},
		Utilization: func(tier, limit string, ratio float64) {
			key := [2]string{tier, limit}
			h, ok := uses.Load(key)
			if !ok {
				h, _ = uses.LoadOrStore(key, c.utilization.WithLabelValues(tier, limit))
			}
			h.(prometheus.Observer).Observe(ratio) //nolint:forcetypeassert // nothing else goes in
		},
	})
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.decisions
	ch <- c.limits
	ch <- c.degraded
	ch <- c.holds
	c.duration.Describe(ch)
	c.utilization.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, counts []observe.Count) {
		for _, count := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(count.Value), count.Labels...)
		}
	}
	send(c.decisions, c.Decisions())
	send(c.limits, c.Limits())
	send(c.degraded, c.Degraded())
	send(c.holds, c.Holds())
	c.duration.Collect(ch)
	c.utilization.Collect(ch)
}
