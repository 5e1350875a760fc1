package main

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// inTime is how long an answer is of use, from when its request was to be sent.
	inTime = time.Second
	// patience is how long a client waits for an answer.
	patience = 2 * time.Second
)

// A generatorConfig is what a generator process reads from its standard input.
type generatorConfig struct {
	Addr   string
	Seed   uint64
	Phases []phase
	Closed time.Duration // how long to count answers instead, by clients that wait for them
	Status int           // of the answers to count
}

// A phase is a load for some time.
type phase struct {
	Load   float64 // as a part of the capacity
	Rate   float64 // requests a second
	Length time.Duration
}

// A bucket counts the requests of one class that were to be sent within one second.
type bucket struct {
	Asked   int
	Good    int // answered in time
	Late    int // answered, and too late
	Refused int // 503
	Denied  int // 429
	Failed  int // not answered
}

// A load is what a generator has measured of one phase.
type measured struct {
	Began     int64                   // milliseconds since the epoch
	Seconds   [][]bucket              // by second and class
	Latencies map[int][]time.Duration // of answers, also of late ones, by class; unordered
	Delays    []time.Duration         // from when a request was to be sent until it was; unordered
}

// generate is the generator process: it writes what it measured.
func generate() error {
	var cfg generatorConfig
	if err := json.NewDecoder(os.Stdin).Decode(&cfg); err != nil {
		return err
	}
	g := &generator{
		url: "http://" + cfg.Addr + "/", random: rand.New(rand.NewPCG(cfg.Seed, 1)),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1 << 14, DisableCompression: true}},
	}
	if cfg.Closed > 0 {
		return json.NewEncoder(os.Stdout).Encode(g.closed(cfg.Closed, cfg.Status))
	}
	list := make([]measured, len(cfg.Phases))
	for i, p := range cfg.Phases {
		g.run(p, &list[i])
	}
	g.running.Wait()
	return json.NewEncoder(os.Stdout).Encode(list)
}

type generator struct {
	url     string
	client  *http.Client
	random  *rand.Rand
	running sync.WaitGroup
	mu      sync.Mutex // guards what is measured
}

// closed returns how many answers a second with a status eight clients get that always wait for one.
func (g *generator) closed(length time.Duration, status int) float64 {
	var answers atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	for range 8 {
		g.running.Go(func() {
			for ctx.Err() == nil {
				if g.ask(ctx, "free:0:0") == status {
					answers.Add(1)
				}
			}
		})
	}
	time.Sleep(time.Second) // to warm up
	first, began := answers.Load(), time.Now()
	time.Sleep(length)
	perSecond := float64(answers.Load()-first) / time.Since(began).Seconds()
	stop()
	g.running.Wait()
	return perSecond
}

// run sends requests at random instants, whatever becomes of them.
func (g *generator) run(p phase, m *measured) {
	began := time.Now()
	m.Began, m.Latencies = began.UnixMilli(), map[int][]time.Duration{}
	for range p.Length / time.Second {
		m.Seconds = append(m.Seconds, make([]bucket, len(population)))
	}
	for at := time.Duration(0); p.Rate > 0; {
		at += time.Duration(g.random.ExpFloat64() / p.Rate * float64(time.Second))
		if at >= p.Length {
			break
		}
		due := began.Add(at)
		time.Sleep(time.Until(due))
		of, subject := draw(g.random)
		g.running.Go(func() {
			ctx, cancel := context.WithDeadline(context.Background(), due.Add(patience))
			defer cancel()
			delay := time.Since(due)
			status := g.ask(ctx, subject)
			g.note(m, int(at/time.Second), of, status, delay, time.Since(due))
		})
	}
	time.Sleep(time.Until(began.Add(p.Length)))
}

func (g *generator) note(m *measured, second, of, status int, delay, latency time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := &m.Seconds[second][of]
	b.Asked++
	m.Delays = append(m.Delays, delay)
	switch status {
	case http.StatusOK:
		m.Latencies[of] = append(m.Latencies[of], latency)
		if latency <= inTime {
			b.Good++
		} else {
			b.Late++
		}
	case http.StatusServiceUnavailable:
		b.Refused++
	case http.StatusTooManyRequests:
		b.Denied++
	default:
		b.Failed++
	}
}

// ask returns the status of the answer, 0 if there is none.
func (g *generator) ask(ctx context.Context, subject string) int {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
	if err != nil {
		return 0
	}
	r.Header.Set(subjectHeader, subject)
	resp, err := g.client.Do(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}
