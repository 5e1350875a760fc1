package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-redis/redis_rate/v10"

	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/proxy"
)

// A guarded server is an HTTP server behind a limiter, or behind none.
type guarded struct {
	group string
	name  string
	open  func(addr string) (http.Handler, func(), error)
}

// The groups of guarded servers, and the baseline of each.
const (
	overHTTP     = "http"
	unguarded    = "no limiter"
	throughProxy = "proxy"
	bareProxy    = "httputil.ReverseProxy"
)

var guards = []guarded{
	{overHTTP, unguarded, onRoute(func(string) (func(http.Handler) http.Handler, func(), error) {
		return func(h http.Handler) http.Handler { return h }, func() {}, nil
	})},
	{overHTTP, "tierlimit, allowed", onRoute(guardOurs(huge, anySubject))},
	{overHTTP, "tierlimit, denied", onRoute(guardOurs(100, func(*http.Request) (string, error) { return names[0], nil }))},
	{overHTTP, reference, onRoute(guardRedisRate)},
	{throughProxy, bareProxy, openBareProxy},
	{throughProxy, "tierlimit's proxy", openProxy},
}

// onRoute returns one chi route behind a middleware.
func onRoute(wrap func(addr string) (func(http.Handler) http.Handler, func(), error)) func(string) (http.Handler, func(), error) {
	return func(addr string) (http.Handler, func(), error) {
		mw, stop, err := wrap(addr)
		if err != nil {
			return nil, nil, err
		}
		r := chi.NewRouter()
		r.With(mw).Get("/data", answer)
		return r, stop, nil
	}
}

func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"message":"ok"}`))
}

// serveUpstream is the API behind a proxy.
func serveUpstream(l net.Listener) error {
	return (&http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}

func openBareProxy(string) (http.Handler, func(), error) {
	stop, address, err := startChild("upstream")
	if err != nil {
		return nil, nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 512, 512
	return &httputil.ReverseProxy{
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0), // wrk hangs up at its end
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: address})
			pr.SetXForwarded()
		},
	}, stop, nil
}

// silent is told of the requests that are under way when wrk hangs up.
var silent = slog.New(slog.DiscardHandler)

func openProxy(addr string) (http.Handler, func(), error) {
	stop, address, err := startChild("upstream")
	if err != nil {
		return nil, nil, err
	}
	lim, closeLimiter, err := newLimiter(addr, perMinute(huge))
	if err != nil {
		return nil, nil, err
	}
	h, err := proxy.New(lim, proxy.Config{
		Upstream: &url.URL{Scheme: "http", Host: address}, Limit: httplimit.Config{Subject: anySubject, Logger: silent}, Logger: silent,
	})
	return h, func() { closeLimiter(); stop() }, err
}

// anySubject spares the load generator making names up.
func anySubject(*http.Request) (string, error) { return names[rand.IntN(subjects)], nil }

func guardOurs(most int64, subject httplimit.SubjectFunc) func(string) (func(http.Handler) http.Handler, func(), error) {
	return func(addr string) (func(http.Handler) http.Handler, func(), error) {
		lim, stop, err := newLimiter(addr, perMinute(most))
		if err != nil {
			return nil, nil, err
		}
		mw, err := httplimit.New(lim, httplimit.Config{Subject: subject})
		return mw, stop, err
	}
}

// guardRedisRate is the middleware its users write.
func guardRedisRate(addr string) (func(http.Handler) http.Handler, func(), error) {
	client := newClient(addr)
	lim := redis_rate.NewLimiter(client)
	limit := redis_rate.PerMinute(huge)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			subject, _ := anySubject(r)
			res, err := lim.Allow(r.Context(), subject, limit)
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			h := w.Header()
			h.Set("RateLimit-Remaining", strconv.Itoa(res.Remaining))
			if res.Allowed == 0 {
				h.Set("RateLimit-Reset", strconv.Itoa(int(res.RetryAfter/time.Second)))
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		})
	}, func() { client.Close() }, nil
}

type httpResult struct {
	PerSecond float64
	P50, P99  time.Duration
	ServerUS  float64 // CPU of the server for a request, in microseconds
}

// measureHTTP lets wrk ask a guarded server, 64 at a time.
func (b *bench) measureHTTP(g guarded, length time.Duration) (httpResult, error) {
	if err := b.admin.FlushAll(context.Background()).Err(); err != nil {
		return httpResult{}, err
	}
	handler, stop, err := g.open(b.addr)
	if err != nil {
		return httpResult{}, err
	}
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return httpResult{}, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(l)
	defer server.Close()
	target := "http://" + l.Addr().String() + "/data"
	if _, err := wrk(target, time.Second); err != nil { // connections, scripts, windows
		return httpResult{}, err
	}
	before := cpuUsed()
	out, err := wrk(target, length)
	if err != nil {
		return httpResult{}, err
	}
	return parseWrk(out, cpuUsed()-before)
}

func wrk(url string, length time.Duration) (string, error) {
	seconds := strconv.Itoa(max(1, int(length/time.Second)))
	out, err := exec.CommandContext(context.Background(), "wrk", "-t2", "-c64", "-d"+seconds, "--latency", url).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("wrk: %w: %s", err, out)
	}
	return string(out), nil
}

var (
	wrkLatency  = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+[mu]?s)$`)
	wrkRequests = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([\d.]+)s`)
)

func parseWrk(out string, cpu time.Duration) (httpResult, error) {
	var r httpResult
	total := wrkRequests.FindStringSubmatch(out)
	latency := wrkLatency.FindAllStringSubmatch(out, -1)
	if total == nil || len(latency) != 2 {
		return r, fmt.Errorf("wrk wrote %q", out)
	}
	requests, err := strconv.ParseFloat(total[1], 64)
	if err != nil {
		return r, err
	}
	seconds, err := strconv.ParseFloat(total[2], 64)
	if err != nil {
		return r, err
	}
	r.PerSecond = requests / seconds
	if r.P50, err = time.ParseDuration(latency[0][2]); err != nil {
		return r, err
	}
	if r.P99, err = time.ParseDuration(latency[1][2]); err != nil {
		return r, err
	}
	r.ServerUS = float64(cpu.Microseconds()) / requests
	return r, nil
}

func cpuUsed() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
