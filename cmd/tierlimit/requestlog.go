package main

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/felixge/httpsnoop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const requestID = "X-Request-Id"

// withRequestID gives each request an id, for the logs on both sides: the trace id of traceparent,
// else the X-Request-Id that came, else a new one. The response and the upstream of the proxy get
// it. With access each request is a line of the log.
func withRequestID(listener string, access bool, log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := idOf(r)
		r.Header.Set(requestID, id)
		w.Header().Set(requestID, id)
		if !access {
			next.ServeHTTP(w, r)
			return
		}
		path := r.URL.Path // without the query, which may have secrets
		m := httpsnoop.CaptureMetrics(next, w, r)
		log.Info("request", "listener", listener, "method", r.Method, "path", path, "status", m.Code,
			"bytes", m.Written, "duration", m.Duration.Round(time.Microsecond).String(), "peer", r.RemoteAddr, "request_id", id)
	})
}

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
