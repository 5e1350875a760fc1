package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/events"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/observe/denials"
	"github.com/tierlimit/tierlimit/observe/prom"
	"github.com/tierlimit/tierlimit/proxy"
	"github.com/tierlimit/tierlimit/replica"
	"github.com/tierlimit/tierlimit/tiers/cache"
)

// metrics are those of one process. They are in a registry of their own.
type metrics struct {
	registry  *prometheus.Registry
	decisions *prom.Collector
	proxied   *prometheus.CounterVec
	requests  *prometheus.HistogramVec
	denials   *denials.Log
	replica   string // the name of this process
}

func newMetrics(log *slog.Logger) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), replica: processName()}
	m.denials = denials.NewLog(m.replica)
	m.decisions = prom.New(prom.Config{Denied: func(tier string, o *tierlimit.Observation) {
		m.denials.Denied(tier, o)
		if log.Enabled(context.Background(), slog.LevelDebug) {
			log.Debug("denied", "subject", o.Subject, "tier", tier, "reason", string(o.Reason), "limit", o.Limit, "scope", o.Scope,
				"cost", o.Cost, "source", string(o.Source), "stands_for", o.Weight)
		}
	}})
	m.proxied = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tierlimit_proxy_failures_total", Help: "Requests through the proxy that failed: aborted by the client, upstream unreachable or late, body incomplete.",
	}, []string{"event"})
	for _, event := range []proxy.Event{proxy.Aborted, proxy.Unreachable, proxy.TooLate, proxy.Incomplete} {
		m.proxied.WithLabelValues(string(event)) // a counter that begins at 1 hides its first increase
	}
	m.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_server_request_duration_seconds", Help: "How long HTTP requests took, until the end of the response.",
		Buckets: append(slices.Clone(prom.Buckets), 5, 30), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
	}, []string{"listener", "method", "code"})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tierlimit_build_info", Help: "1, labelled by the version."}, []string{"version", "goversion"})
	build.WithLabelValues(version(), runtime.Version()).Set(1)
	m.registry.MustRegister(
		m.decisions, m.proxied, m.requests, build,
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsScheduler)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// processName tells this process apart from the other replicas: the name of the machine, and
// something of its own, as several may run there.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "-" + strings.ToLower(rand.Text()[:6])
}

// handler serves the metrics in the format that the client asks for: text, OpenMetrics, or protobuf
// with native histograms.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true, MaxRequestsInFlight: 4})
}

// A gaugeFamily reports values of this moment with one label or none.
type gaugeFamily struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(report func(value float64, labels ...string))
}

// Describe implements prometheus.Collector.
func (g *gaugeFamily) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

// Collect implements prometheus.Collector.
func (g *gaugeFamily) Collect(ch chan<- prometheus.Metric) {
	g.read(func(value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(g.desc, g.kind, value, labels...)
	})
}

func (m *metrics) add(kind prometheus.ValueType, name, help string, labels []string, read func(report func(float64, ...string))) {
	m.registry.MustRegister(&gaugeFamily{prometheus.NewDesc("tierlimit_"+name, help, labels, nil), kind, read})
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// addLoad adds what load does to adaptive limits.
func (m *metrics) addLoad(c *load.Controller) {
	m.add(prometheus.GaugeValue, "multiplier", "How far load scales the adaptive limits of a tier, 0 to 1.", []string{"tier"}, func(report func(float64, ...string)) {
		for tier, s := range c.Status().Tiers {
			report(s.Multiplier, tier)
		}
	})
	m.add(prometheus.GaugeValue, "load_utilization_ratio", "The load that the curves follow, 0 to 1: that of the fleet, or of this replica alone.", nil, func(report func(float64, ...string)) {
		report(c.Status().Smoothed)
	})
	m.add(prometheus.GaugeValue, "load_sample_age_seconds", "The age of the last sample of this replica's own CPU; -1 if there is none of the last ten seconds.", nil, func(report func(float64, ...string)) {
		if age, ok := c.OwnAge(); ok {
			report(age.Seconds())
			return
		}
		report(-1)
	})
	m.add(prometheus.GaugeValue, "load_readings", "Readings of load that this replica knows, by whether they count.", []string{"counts"}, func(report func(float64, ...string)) {
		n := map[bool]float64{}
		for _, r := range c.Status().Readings {
			n[r.Counts]++
		}
		report(n[true], "true")
		report(n[false], "false")
	})
	m.add(prometheus.GaugeValue, "load_agreed", "Whether this replica has the multipliers of the fleet: 1, or 0 if it goes on alone.", nil, func(report func(float64, ...string)) {
		report(truth(c.Status().Agreed))
	})
}

// addListeners adds the connections of the listeners.
func (m *metrics) addListeners(l *listeners) {
	m.add(prometheus.GaugeValue, "connections", "Open connections.", []string{"listener"}, func(report func(float64, ...string)) {
		for name, pool := range l.pools {
			open, _ := pool.Open()
			report(float64(open), name)
		}
	})
	m.add(prometheus.GaugeValue, "connections_limit", "How many connections may be open.", []string{"listener"}, func(report func(float64, ...string)) {
		for name, pool := range l.pools {
			_, limit := pool.Open()
			report(float64(limit), name)
		}
	})
}

// addMessages adds what is sent to webhooks.
func (m *metrics) addMessages(s *events.Service) {
	one := func(kind prometheus.ValueType, name, help string, of func(*events.Stats) int64) {
		m.add(kind, name, help, nil, func(report func(float64, ...string)) {
			stats := s.Stats()
			report(float64(of(&stats)))
		})
	}
	one(prometheus.CounterValue, "webhook_delivered_total", "Messages that this process sent and a webhook received.", func(s *events.Stats) int64 { return s.Delivered })
	one(prometheus.CounterValue, "webhook_failed_total", "Attempts of this process to send a message that failed.", func(s *events.Stats) int64 { return s.Failed })
	one(prometheus.CounterValue, "alerts_refused_total", "Crossed thresholds that could not be kept at once; the next decision brings them again.", func(s *events.Stats) int64 { return s.Refused })
	one(prometheus.GaugeValue, "webhook_pending", "Messages of the fleet that a webhook has not received yet.", func(s *events.Stats) int64 { return s.Pending })
	one(prometheus.GaugeValue, "webhook_dead", "Messages of the fleet that are not sent any more.", func(s *events.Stats) int64 { return s.Dead })
}

// addReplica adds the state of a replica.
func (m *metrics) addReplica(r *replica.Replica) {
	m.addMessages(r.Events)
	m.add(prometheus.GaugeValue, "breaker_open", "1 if decisions do not call the Redis server; server is its address in a Cluster.", []string{"server"}, func(report func(float64, ...string)) {
		all := r.BreakersOpen()
		if len(all) == 0 {
			report(0, "") // a server that never failed is not named
		}
		for server, open := range all {
			report(truth(open), server)
		}
	})
	m.add(prometheus.GaugeValue, "catalogue_age_seconds", "The age of the tiers and subjects that decisions use.", nil, func(report func(float64, ...string)) {
		report(r.Cache.Age().Seconds())
	})
	m.add(prometheus.GaugeValue, "catalogue_followed", "1 if changes of tiers and subjects arrive.", nil, func(report func(float64, ...string)) {
		report(truth(r.Cache.IsFollowing()))
	})
	m.add(prometheus.GaugeValue, "lookups_waiting", "Unknown subjects and credentials that are being looked up.", nil, func(report func(float64, ...string)) {
		report(float64(r.Cache.Lookups()))
	})
	lookups := func(name, help string, of func(*cache.LookupStats) float64) {
		m.add(prometheus.CounterValue, name, help, []string{"of"}, func(report func(float64, ...string)) {
			subjects, credentials := r.Cache.LookupStats()
			report(of(&subjects), "subjects")
			report(of(&credentials), "credentials")
		})
	}
	lookups("lookup_queries_total", "Queries for unknown subjects or credentials; each is for all that wait.", func(s *cache.LookupStats) float64 { return float64(s.Queries) })
	lookups("lookup_failures_total", "Queries for unknown subjects or credentials that failed.", func(s *cache.LookupStats) float64 { return float64(s.Failed) })
	lookups("lookup_seconds_total", "How long the queries for unknown subjects or credentials took.", func(s *cache.LookupStats) float64 { return s.Took.Seconds() })
	m.add(prometheus.GaugeValue, "replicas", "Replicas that are alive, this one included.", nil, func(report func(float64, ...string)) {
		report(float64(r.Alive()))
	})
	m.add(prometheus.GaugeValue, "postgres_connections", "Connections to Postgres that are in use.", []string{"pool"}, func(report func(float64, ...string)) {
		for name, s := range r.Catalogue.PoolStats() {
			report(float64(s.AcquiredConns()), name)
		}
	})
	m.add(prometheus.CounterValue, "postgres_waits_total", "Times that a connection to Postgres had to be waited for.", []string{"pool"}, func(report func(float64, ...string)) {
		for name, s := range r.Catalogue.PoolStats() {
			report(float64(s.EmptyAcquireCount()), name)
		}
	})
	m.add(prometheus.CounterValue, "postgres_wait_seconds_total", "How long connections to Postgres had to be waited for.", []string{"pool"}, func(report func(float64, ...string)) {
		for name, s := range r.Catalogue.PoolStats() {
			report(s.EmptyAcquireWaitTime().Seconds(), name)
		}
	})
}
