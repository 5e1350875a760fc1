package main

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/felixge/httpsnoop"
)

// A requestWatch observes the requests of a listener: each has an id, a duration in the metrics, a
// span if spans are made, and a line of the log if that is wanted.
type requestWatch struct {
	listener string
	metrics  *metrics
	spans    *tracing // nil: none
	access   bool     // write lines of the log
	log      *slog.Logger
}

// wrap observes the requests to next.
func (o requestWatch) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := idOf(r)
		r.Header.Set(requestID, id)
		w.Header().Set(requestID, id)
		path := r.URL.Path // a handler may change it; without the query, which may have secrets
		r, end := o.spans.begin(o.listener, r)
		m := httpsnoop.Metrics{Code: http.StatusOK}
		defer func() { // also after a panic, by which the proxy aborts a response
			end(m.Code)
			o.metrics.requests.WithLabelValues(o.listener, methodLabel(r.Method), strconv.Itoa(m.Code)).Observe(m.Duration.Seconds())
			if o.access {
				o.log.Info("request", "listener", o.listener, "method", r.Method, "path", path, "status", m.Code,
					"bytes", m.Written, "duration", m.Duration.Round(time.Microsecond).String(), "peer", r.RemoteAddr, "request_id", id)
			}
		}()
		m.CaptureMetrics(w, func(w http.ResponseWriter) { next.ServeHTTP(w, r) })
	})
}

var methods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions,
}

// methodLabel bounds the series: a client may send any method.
func methodLabel(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "other"
}
