package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-redis/redis_rate/v10"

	"github.com/tierlimit/tierlimit/httplimit"
)

// A guarded server is one chi route behind a limiter, or behind none.
type guarded struct {
	name string
	wrap func(addr string) (func(http.Handler) http.Handler, func(), error)
}

const unguarded = "no limiter"

var guards = []guarded{
	{unguarded, func(string) (func(http.Handler) http.Handler, func(), error) {
		return func(h http.Handler) http.Handler { return h }, func() {}, nil
	}},
	{"tierlimit, allowed", guardOurs(huge, anySubject)},
	{"tierlimit, denied", guardOurs(100, func(*http.Request) (string, error) { return names[0], nil })},
	{reference, guardRedisRate},
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
	mw, stop, err := g.wrap(b.addr)
	if err != nil {
		return httpResult{}, err
	}
	defer stop()
	r := chi.NewRouter()
	r.With(mw).Get("/data", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"message":"ok"}`))
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return httpResult{}, err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(l)
	defer server.Close()
	url := "http://" + l.Addr().String() + "/data"
	if _, err := wrk(url, time.Second); err != nil { // connections, scripts, windows
		return httpResult{}, err
	}
	before := cpuUsed()
	out, err := wrk(url, length)
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
