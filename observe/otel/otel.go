// Package otel exports the metrics of decisions to OpenTelemetry. The metrics are those of package
// observe/prom, with dots in the place of underscores and without _total.
package otel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tierlimit/tierlimit/observe"
)

// New returns a Metrics for tierlimit.Config.Observer whose counts meter reports. An error is one
// of the meter.
func New(meter metric.Meter, series int) (*observe.Metrics, error) {
	duration, err1 := meter.Float64Histogram("tierlimit.decision.duration", metric.WithUnit("s"),
		metric.WithDescription("How long decisions took; see package observe for which decisions."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1))
	utilization, err2 := meter.Float64Histogram("tierlimit.utilization", metric.WithUnit("1"),
		metric.WithDescription("The part of a limit's max that is used."), metric.WithExplicitBucketBoundaries(.25, .5, .75, 1))
	decisions, err3 := meter.Int64ObservableCounter("tierlimit.decisions", metric.WithDescription("Decisions, whatever answered them."))
	limits, err4 := meter.Int64ObservableCounter("tierlimit.limit.evaluations", metric.WithDescription("Evaluations of limits."))
	degraded, err5 := meter.Int64ObservableCounter("tierlimit.degraded", metric.WithDescription("Decisions that the store did not answer, or whose tier was not known for sure."))
	holds, err6 := meter.Int64ObservableCounter("tierlimit.holds", metric.WithDescription("What happened to holds; missing: a hold to settle or renew was not open."))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	m := observe.New(observe.Config{
		Series: series,
		Duration: func(source string, seconds float64) {
			duration.Record(context.Background(), seconds, metric.WithAttributes(attribute.String("source", source)))
		},
		Utilization: func(tier, limit string, ratio float64) {
			utilization.Record(context.Background(), ratio, metric.WithAttributes(attribute.String("tier", tier), attribute.String("limit", limit)))
		},
	})
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		report(o, decisions, observe.DecisionLabels, m.Decisions())
		report(o, limits, observe.LimitLabels, m.Limits())
		report(o, degraded, observe.DegradedLabels, m.Degraded())
		report(o, holds, observe.HoldLabels, m.Holds())
		return nil
	}, decisions, limits, degraded, holds)
	return m, err
}

func report(o metric.Observer, counter metric.Int64Observable, names []string, counts []observe.Count) {
	for _, c := range counts {
		attributes := make([]attribute.KeyValue, len(names))
		for i, name := range names {
			attributes[i] = attribute.String(name, c.Labels[i])
		}
		o.ObserveInt64(counter, int64(c.Value), metric.WithAttributes(attributes...)) //nolint:gosec // a count of events
	}
}
