package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tierlimit/tierlimit"
)

type benchFlags struct {
	concurrency int
	requests    int64
	duration    time.Duration
	method      string
	headers     []string
	body        string
	expect      int64
}

func benchCommand(s streams) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench [URL]",
		Short: "Load a URL and count what is allowed and denied",
		Long: `Load a URL and count what is allowed and denied.

A 2xx is allowed and a 429 denied; a decision in JSON counts by its "allowed".
Everything else is an error. Exits with 1 on errors, and when --expect-allowed
does not hold. Without a URL it is the demo endpoint of a local tierlimit dev.`,
		Example: `  tierlimit bench -c 50 -n 50
  tierlimit bench -c 64 -d 10s http://127.0.0.1:8080/v1/take --body '{"subject":"acct_42"}'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := "http://127.0.0.1:8080/demo/data"
			if len(args) == 1 {
				target = args[0]
			}
			if cmd.Flags().Changed("requests") && f.requests == 0 {
				return usage(&tierlimit.FieldError{Field: "--requests", Value: "0", Want: "positive"})
			}
			b, err := newBench(f, target)
			if err != nil {
				return usage(err)
			}
			return b.run(cmd.Context(), s)
		},
	}
	fs := cmd.Flags()
	fs.IntVarP(&f.concurrency, "concurrency", "c", 50, "requests at a time, 1 to 10000")
	fs.Int64VarP(&f.requests, "requests", "n", 0, "requests in all (default as many as --concurrency, unless --duration is given)")
	fs.DurationVarP(&f.duration, "duration", "d", 0, "how long, instead of how many")
	fs.StringVarP(&f.method, "method", "X", "", "method (default GET, or POST with a body)")
	fs.StringArrayVarP(&f.headers, "header", "H", nil, `header, as "Name: value"; may be repeated`)
	fs.StringVar(&f.body, "body", "", "body to send")
	fs.Int64Var(&f.expect, "expect-allowed", -1, "fail unless exactly so many are allowed")
	return cmd
}

func checkURL(field, s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return &tierlimit.FieldError{Field: field, Value: s, Want: "http:// or https:// and a host"}
	}
	return nil
}

// A bench is one run: closed loop, every worker sends its next request when it
// has the answer to the last.
type bench struct {
	benchFlags
	target string
	header http.Header
	client *http.Client
	left   atomic.Int64

	mu                      sync.Mutex
	latency                 *hdrhistogram.Histogram // microseconds; guarded by mu
	allowed, denied, failed int64                   // guarded by mu
	failure                 error                   // the first; guarded by mu
}

func newBench(f benchFlags, target string) (*bench, error) {
	b := &bench{benchFlags: f, target: target, header: http.Header{}}
	if err := checkURL("URL", target); err != nil {
		return nil, err
	}
	if f.concurrency < 1 || f.concurrency > 10_000 {
		return nil, &tierlimit.FieldError{Field: "--concurrency", Value: fmt.Sprint(f.concurrency), Want: "from 1 to 10000"}
	}
	if f.duration < 0 {
		return nil, &tierlimit.FieldError{Field: "--duration", Value: f.duration.String(), Want: "positive"}
	}
	if f.requests < 0 || f.requests > 0 && f.duration > 0 {
		return nil, &tierlimit.FieldError{Field: "--requests", Value: fmt.Sprint(f.requests), Want: "positive, and not given together with --duration"}
	}
	if f.requests == 0 && f.duration == 0 {
		b.requests = int64(f.concurrency)
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, &tierlimit.FieldError{Field: "--header", Value: h, Want: `"Name: value"`}
		}
		b.header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if b.method == "" {
		b.method = http.MethodGet
		if b.body != "" {
			b.method = http.MethodPost
		}
	}
	b.client = &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: f.concurrency, MaxConnsPerHost: f.concurrency},
	}
	b.latency = hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
	return b, nil
}

func (b *bench) run(ctx context.Context, s streams) error {
	if b.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.duration)
		defer cancel()
	}
	b.left.Store(b.requests)
	start := time.Now()
	stopBar := b.progress(s.err, start)
	var wg sync.WaitGroup
	for range b.concurrency {
		wg.Go(func() { b.work(ctx) })
	}
	wg.Wait()
	took := time.Since(start)
	stopBar()
	b.client.CloseIdleConnections()
	b.report(s.out, took)
	return b.verdict()
}

func (b *bench) work(ctx context.Context) {
	for ctx.Err() == nil {
		if b.requests > 0 && b.left.Add(-1) < 0 {
			return
		}
		began := time.Now()
		allowed, err := b.send(ctx)
		if ctx.Err() != nil {
			return // cut off by the end of the run: neither answer nor error
		}
		b.count(time.Since(began), allowed, err)
	}
}

func (b *bench) count(took time.Duration, allowed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.latency.RecordValue(max(1, took.Microseconds())) // the client gives up before the histogram ends
	switch {
	case err != nil:
		b.failed++
		if b.failure == nil {
			b.failure = err
		}
	case allowed:
		b.allowed++
	default:
		b.denied++
	}
}

func (b *bench) send(ctx context.Context) (allowed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, b.method, b.target, strings.NewReader(b.body))
	if err != nil {
		return false, err
	}
	req.Header = b.header
	resp, err := b.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return false, err
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return false, nil
	case resp.StatusCode/100 != 2:
		return false, fmt.Errorf("answered %s", resp.Status)
	}
	var decision struct{ Allowed *bool }
	if json.Unmarshal(body, &decision) == nil && decision.Allowed != nil {
		return *decision.Allowed, nil
	}
	return true, nil
}

// progress draws a bar where somebody can see it.
func (b *bench) progress(w io.Writer, start time.Time) (stop func()) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	total, done := b.requests, func() int64 { return min(b.requests, b.requests-b.left.Load()) }
	if b.duration > 0 {
		total, done = b.duration.Milliseconds(), func() int64 { return min(b.duration.Milliseconds(), time.Since(start).Milliseconds()) }
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(40))
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				_ = bar.Finish() // only a bar
				return
			case <-tick.C:
				_ = bar.Set64(done())
			}
		}
	}()
	return func() { close(quit); <-gone }
}

func (b *bench) report(w io.Writer, took time.Duration) {
	total := b.allowed + b.denied + b.failed
	fmt.Fprintf(w, "%d requests to %s, %d at a time, in %v: %.0f a second\n\n",
		total, b.target, b.concurrency, took.Round(time.Millisecond), float64(total)/took.Seconds())
	fmt.Fprintf(w, "  allowed  %8d\n  denied   %8d\n  errors   %8d\n\n", b.allowed, b.denied, b.failed)
	at := func(q float64) time.Duration {
		return time.Duration(b.latency.ValueAtQuantile(q)) * time.Microsecond
	}
	fmt.Fprintf(w, "  latency  p50 %v  p90 %v  p99 %v  max %v\n", at(50), at(90), at(99), at(100))
}

func (b *bench) verdict() error {
	if b.failed > 0 {
		return fmt.Errorf("%d errors, the first: %w", b.failed, b.failure)
	}
	if b.expect >= 0 && b.allowed != b.expect {
		return fmt.Errorf("%d allowed, expected exactly %d", b.allowed, b.expect)
	}
	return nil
}
