package otel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tierlimit/tierlimit"
)

// Trace returns a tierlimit.Config.Trace that makes spans with tracer: of each decision, with the
// attributes tier, limit, reason and source, and of the call to the store within it. Spans do not
// name the subject.
func Trace(tracer trace.Tracer) tierlimit.TraceFunc {
	return func(ctx context.Context, name string) (context.Context, func(tierlimit.SpanEnd)) {
		ctx, span := tracer.Start(ctx, name)
		return ctx, func(e tierlimit.SpanEnd) {
			if span.IsRecording() {
				for key, value := range map[string]string{
					"tierlimit.tier": e.Tier, "tierlimit.limit": e.Limit, "tierlimit.reason": string(e.Reason), "tierlimit.source": string(e.Source),
				} {
					if value != "" {
						span.SetAttributes(attribute.String(key, value))
					}
				}
				if e.Err != nil {
					span.SetStatus(codes.Error, "not answered by the store") // the error names the subject
				}
			}
			span.End()
		}
	}
}
