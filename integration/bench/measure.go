package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A result is one contender under one workload with so many callers, once.
type result struct {
	PerSecond float64
	P50, P99  time.Duration
	RedisUS   float64 // CPU of Redis for a decision, in microseconds
	ClientUS  float64 // CPU of this process for a decision, what measures it included
	Allocs    float64 // for a decision, of the whole process
	Admitted  int64   // the most of any subject, in less than a window
	Errors    int64
}

// A caller's own counts, far enough from the next one's.
type caller struct {
	done, errors int64
	times        []time.Duration
	err          error
	_            [64]byte
}

// A bench measures on one Redis, or on the masters of one Cluster.
type bench struct {
	addr    string        // of the first server
	admin   *redis.Client // of the first server
	servers []*redis.Client
	tally   []tally
}

// A tally is beside its name: a look elsewhere is a good part of what a decision
// from memory takes.
type tally struct {
	name     string
	admitted atomic.Int64
}

func tallies() []tally {
	list := make([]tally, subjects)
	for i := range list {
		list[i].name = names[i]
	}
	return list
}

func newBench(addrs ...string) *bench {
	b := &bench{addr: addrs[0], tally: tallies()}
	for _, addr := range addrs {
		b.servers = append(b.servers, redis.NewClient(&redis.Options{Addr: addr}))
	}
	b.admin = b.servers[0]
	return b
}

// measure runs a contender for each number of callers, on an empty Redis.
func (b *bench) measure(c contender, w *workload, draws []int32, callers []int, length time.Duration) (map[int]result, error) {
	ctx := context.Background()
	for _, server := range b.servers {
		if err := server.FlushAll(ctx).Err(); err != nil {
			return nil, err
		}
	}
	ask, stop, err := c.open(b.addr, w.windows)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	defer stop()
	if w.settled {
		if err := settle(ctx, ask); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.name, w.name, err)
		}
	}
	for i := range b.tally {
		b.tally[i].admitted.Store(0)
	}
	results := make(map[int]result, len(callers))
	for _, n := range callers {
		b.run(ctx, ask, w, draws, n, max(length/5, w.warm)) // connections, scripts, caches
		runtime.GC()
		r, err := b.run(ctx, ask, w, draws, n, length)
		if err != nil {
			return nil, fmt.Errorf("%s, %s, %d callers: %w", c.name, w.name, n, err)
		}
		results[n] = r
	}
	return results, nil
}

// settle asks once for every subject.
func settle(ctx context.Context, ask decide) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < subjects; i = next.Add(1) - 1 {
				if _, err := ask(ctx, names[i]); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *bench) run(ctx context.Context, ask decide, w *workload, draws []int32, n int, length time.Duration) (result, error) {
	list := make([]caller, n)
	for i := range list {
		list[i].times = make([]time.Duration, 0, 1<<16/n+1024)
	}
	var over atomic.Bool
	var before, after runtime.MemStats
	cpu, err := b.redisCPU(ctx)
	if err != nil {
		return result{}, err
	}
	runtime.ReadMemStats(&before)
	own := processCPU()
	start := time.Now()
	timer := time.AfterFunc(length, func() { over.Store(true) })
	defer timer.Stop()
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() { b.call(ctx, ask, &list[i], draws, i*len(draws)/n, w.sample, &over) })
	}
	wg.Wait()
	took := time.Since(start)
	own = processCPU() - own
	runtime.ReadMemStats(&after)
	cpuAfter, err := b.redisCPU(ctx)
	if err != nil {
		return result{}, err
	}
	var r result
	var done int64
	var times []time.Duration
	for i := range list {
		done += list[i].done
		r.Errors += list[i].errors
		times = append(times, list[i].times...)
		if list[i].err != nil {
			err = list[i].err
		}
	}
	if done == 0 || len(times) == 0 {
		return r, fmt.Errorf("nothing was decided: %w", err)
	}
	slices.Sort(times)
	r.PerSecond = float64(done) / took.Seconds()
	r.P50, r.P99 = times[len(times)/2], times[len(times)*99/100]
	r.RedisUS = float64((cpuAfter - cpu).Microseconds()) / float64(done)
	r.ClientUS = float64(own.Microseconds()) / float64(done)
	r.Allocs = float64(after.Mallocs-before.Mallocs) / float64(done)
	for i := range b.tally {
		r.Admitted = max(r.Admitted, b.tally[i].admitted.Load())
	}
	return r, nil
}

func (b *bench) call(ctx context.Context, ask decide, c *caller, draws []int32, at, sample int, over *atomic.Bool) {
	for i := 0; !over.Load(); i++ {
		subject := &b.tally[draws[at]]
		if at++; at == len(draws) {
			at = 0
		}
		timed := i%sample == 0
		var began time.Time
		if timed {
			began = time.Now()
		}
		allowed, err := ask(ctx, subject.name)
		if timed {
			c.times = append(c.times, time.Since(began))
		}
		c.done++
		if allowed {
			subject.admitted.Add(1)
		}
		if err != nil {
			c.errors, c.err = c.errors+1, err
		}
	}
}

// redisCPU is what the servers have used in all.
func (b *bench) redisCPU(ctx context.Context) (time.Duration, error) {
	sum := 0.0
	for _, server := range b.servers {
		info, err := server.Info(ctx, "cpu").Result()
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(info) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_sys" || name == "used_cpu_user" {
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, err
				}
				sum += seconds
			}
		}
	}
	return time.Duration(sum * float64(time.Second)), nil
}
