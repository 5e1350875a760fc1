package main

import (
	"crypto/rand"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const requestID = "X-Request-Id"

// idOf returns the id of a request, for the logs on both sides: the trace id of traceparent, else
// the X-Request-Id that came, else a new one. The response and the upstream of the proxy get it.
func idOf(r *http.Request) string {
	if span := trace.SpanContextFromContext(traceContext.Extract(r.Context(), propagation.HeaderCarrier(r.Header))); span.HasTraceID() {
		return span.TraceID().String()
	}
	if id := r.Header.Get(requestID); isRequestID(id) {
		return id
	}
	return rand.Text()
}

// isRequestID reports whether an id of a client may stand in a log.
func isRequestID(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool {
		return !strings.ContainsRune("._:-+/=", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}
