package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/priority"
	"github.com/go-kratos/aegis/ratelimit"
	"github.com/go-kratos/aegis/ratelimit/bbr"
	zeroload "github.com/zeromicro/go-zero/core/load"
	"github.com/zeromicro/go-zero/core/logx"
	"golang.org/x/sys/unix"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/load/guard"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// An arm is one way to protect a service.
type arm struct {
	name  string
	ours  bool
	about string
	wrap  func(*gauges) (func(http.Handler) http.Handler, error)
}

var arms = []arm{
	{"none", false, "nothing before the handler", func(*gauges) (func(http.Handler) http.Handler, error) {
		return func(h http.Handler) http.Handler { return h }, nil
	}},
	{"static limits", false, "limits for each customer, whatever the load", limited},
	{"step rule", false, "the limits times 0.8 above 50 % CPU, times 0.5 above 80 %, for all tiers alike", stepped},
	{"aegis BBR", false, "go-kratos/aegis, told that its share is one of two processors", aegis},
	{"go-zero", false, "go-zero's adaptive shedder, its threshold of 90 % as that of one of two processors", goZero},
	{"failsafe-go", false, "the prioritized adaptive limiter with usage tracking, calibrated twice a second", failsafe},
	{"multiplier", true, "the limits, scaled by the CPU of the process along each tier's curve", multiplied},
	{"guard", true, "load/guard, and no limits", guarded},
	{"both", true, "load/guard before the scaled limits", both},
}

// refusing refuses everything, to measure what a refusal costs.
var refusing = arm{"refusing", true, "", func(*gauges) (func(http.Handler) http.Handler, error) {
	return tiered(false, nil, guard.New(guard.Config{Wait: func() (time.Duration, bool) { return time.Hour, true }}))
}}

// gauges are what a service tells of itself.
type gauges struct {
	multiplier func(tier string) float64
	guard      *guard.Guard
}

const subjectHeader = "X-Account"

// tiered returns tierlimit's middleware, with counters in memory: Redis would take part of a
// processor that is measured.
func tiered(limits bool, scale tierlimit.Load, g *guard.Guard) (func(http.Handler) http.Handler, error) {
	resolver, err := tiers.Static(plans(limits), tierOf)
	if err != nil {
		return nil, err
	}
	// The budget does not matter to memory.
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Load: scale, Budget: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	return httplimit.New(lim, httplimit.Config{
		Subject: func(r *http.Request) (string, error) { return r.Header.Get(subjectHeader), nil },
		Guard:   g, Logger: slog.New(slog.DiscardHandler),
	})
}

func limited(*gauges) (func(http.Handler) http.Handler, error) { return tiered(true, nil, nil) }

// A stepRule is one rule for everybody, from a sample of the CPU that is five seconds old at most.
type stepRule struct{ multiplier atomic.Value }

func (s *stepRule) Multiplier(string) float64 { return s.multiplier.Load().(float64) }

func stepped(g *gauges) (func(http.Handler) http.Handler, error) {
	s := &stepRule{}
	s.multiplier.Store(1.0)
	go func() {
		m := &ownCPU{}
		for now := range time.Tick(5 * time.Second) {
			switch u, _, _ := m.Read(now); {
			case u > 0.8:
				s.multiplier.Store(0.5)
			case u > 0.5:
				s.multiplier.Store(0.8)
			default:
				s.multiplier.Store(1.0)
			}
		}
	}()
	g.multiplier = s.Multiplier
	return tiered(true, s, nil)
}

// ownCPU measures this process as a part of one processor.
type ownCPU struct {
	at   time.Time
	used time.Duration
}

func (*ownCPU) Source() string { return "process" }

func (*ownCPU) Capacity() float64 { return 1 }

func (m *ownCPU) Read(now time.Time) (float64, bool, error) {
	used := cpuTime(unix.RUSAGE_SELF)
	u := (used - m.used).Seconds() / now.Sub(m.at).Seconds()
	ok := !m.at.IsZero()
	m.at, m.used = now, used
	return min(u, 1), ok, nil
}

func scaled(g *gauges) (*load.Controller, error) {
	c, err := load.New(load.Config{Tiers: func() []tiers.Tier { return plans(true) }, Meter: &ownCPU{}, Mode: load.Enforce})
	if err == nil {
		g.multiplier = c.Multiplier
	}
	return c, err
}

func multiplied(g *gauges) (func(http.Handler) http.Handler, error) {
	c, err := scaled(g)
	if err != nil {
		return nil, err
	}
	return tiered(true, c, nil)
}

func guarded(g *gauges) (func(http.Handler) http.Handler, error) {
	g.guard = guard.New(guard.Config{})
	return tiered(false, nil, g.guard)
}

func both(g *gauges) (func(http.Handler) http.Handler, error) {
	c, err := scaled(g)
	if err != nil {
		return nil, err
	}
	g.guard = guard.New(guard.Config{})
	return tiered(true, c, g.guard)
}

func refuse(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }

// aegis reads the CPU of the machine, of which the service has one of two processors.
func aegis(*gauges) (func(http.Handler) http.Handler, error) {
	limiter := bbr.NewLimiter(bbr.WithCPUQuota(0.5))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			done, err := limiter.Allow()
			if err != nil {
				refuse(w)
				return
			}
			defer done(ratelimit.DoneInfo{})
			next.ServeHTTP(w, r)
		})
	}, nil
}

// goZero reads the CPU of the machine too: 90 % of one of two processors is 450 of 1000.
func goZero(*gauges) (func(http.Handler) http.Handler, error) {
	logx.SetWriter(logx.NewWriter(io.Discard))
	shedder := zeroload.NewAdaptiveShedder(zeroload.WithCpuThreshold(450))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			promise, err := shedder.Allow()
			if err != nil {
				refuse(w)
				return
			}
			defer promise.Pass()
			next.ServeHTTP(w, r)
		})
	}, nil
}

var priorities = map[string]priority.Priority{"free": priority.Low, "pro": priority.Medium, "enterprise": priority.High}

func failsafe(*gauges) (func(http.Handler) http.Handler, error) {
	prioritizer := adaptivelimiter.NewPrioritizerBuilder().WithUsageTracker(priority.NewUsageTracker(10*time.Second, 10_000)).Build()
	prioritizer.ScheduleCalibrations(context.Background(), 500*time.Millisecond)
	limiter := adaptivelimiter.NewBuilder[any]().BuildPrioritized(prioritizer)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			subject := r.Header.Get(subjectHeader)
			ctx := priority.ContextWithUser(priority.ContextWithPriority(r.Context(), priorities[tierOf(subject)]), subject)
			permit, err := limiter.AcquirePermitWithMaxWait(ctx, inTime)
			if err != nil {
				refuse(w)
				return
			}
			defer permit.Record()
			next.ServeHTTP(w, r)
		})
	}, nil
}
