package main

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	rpcstatus "google.golang.org/grpc/status"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/observe/otel"
)

// tracing makes spans and sends them to a collector. A nil tracing makes none.
type tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// traceContext reads and writes the W3C headers traceparent and tracestate.
var traceContext propagation.TraceContext

// newTracing returns nil if no endpoint is configured.
func newTracing(s *settings, log *slog.Logger) (*tracing, error) {
	if s.traceEndpoint == nil {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(s.traceEndpoint.String()), otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(s.traceRatio))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "tierlimit"), attribute.String("service.version", version()))),
	)
	log.Info("spans are sent", "endpoint", s.traceEndpoint.Redacted(), "ratio", s.traceRatio)
	return &tracing{provider, provider.Tracer("github.com/tierlimit/tierlimit")}, nil
}

// close sends the last spans.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // the collector may be away
}

// decisions returns what makes spans of decisions, nil for none.
func (t *tracing) decisions() tierlimit.TraceFunc {
	if t == nil {
		return nil
	}
	return otel.Trace(t.tracer)
}

// begin begins a span of a request, a child of the client's if it sends traceparent. What is called
// further, such as the upstream of the proxy, gets the span as its parent. Spans have no path and
// no address: both may name a subject.
func (t *tracing) begin(listener string, r *http.Request) (_ *http.Request, end func(status int)) {
	if t == nil {
		return r, func(int) {}
	}
	ctx := traceContext.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, "HTTP "+listener, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("tierlimit.listener", listener)))
	traceContext.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r.WithContext(ctx), func(status int) {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
		span.End()
	}
}

// unary makes a span of each call over gRPC, a child of the client's if it sends traceparent.
func (t *tracing) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	incoming, _ := metadata.FromIncomingContext(ctx)
	ctx, span := t.tracer.Start(traceContext.Extract(ctx, incomingHeaders(incoming)), "gRPC", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.method", info.FullMethod)))
	defer span.End()
	answer, err := handler(ctx, req)
	span.SetAttributes(attribute.String("rpc.response.status_code", rpcstatus.Code(err).String()))
	if err != nil {
		span.SetStatus(codes.Error, rpcstatus.Code(err).String())
	}
	return answer, err
}

// incomingHeaders is metadata as a propagator reads it.
type incomingHeaders metadata.MD

// Get implements propagation.TextMapCarrier.
func (h incomingHeaders) Get(key string) string {
	if values := metadata.MD(h).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (incomingHeaders) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (h incomingHeaders) Keys() []string { return slices.Collect(maps.Keys(h)) }

// queries returns what makes spans of statements, nil for none.
func (t *tracing) queries() pgx.QueryTracer {
	if t == nil {
		return nil
	}
	return queryTracer{t.tracer}
}

// A queryTracer makes spans of statements to Postgres that belong to a request. Statements and
// their arguments are left out.
type queryTracer struct{ tracer trace.Tracer }

// TraceQueryStart implements pgx.QueryTracer.
func (q queryTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return q.start(ctx)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (q queryTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	q.end(ctx, data.Err)
}

// TraceBatchStart implements pgx.BatchTracer.
func (q queryTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return q.start(ctx)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (queryTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (q queryTracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	q.end(ctx, data.Err)
}

func (q queryTracer) start(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx // background work
	}
	ctx, span := q.tracer.Start(ctx, "postgres", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("db.system.name", "postgresql")))
	return context.WithValue(ctx, querySpan{}, span)
}

func (queryTracer) end(ctx context.Context, err error) {
	span, ok := ctx.Value(querySpan{}).(trace.Span)
	if !ok {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "failed")
	}
	span.End()
}

type querySpan struct{}

// parseTraceEndpoint reads the address of a collector.
func (s *settings) parseTraceEndpoint(v string) (err error) {
	if s.traceEndpoint, err = url.Parse(v); err != nil {
		return err
	}
	return check((s.traceEndpoint.Scheme == "http" || s.traceEndpoint.Scheme == "https") && s.traceEndpoint.Hostname() != "")
}
