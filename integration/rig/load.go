package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Load asks for decisions at a steady rate, whatever comes back and when: a server
// that stalls finds all that came meanwhile, as it would outside. A latency is from
// when a request was due.
type Load struct {
	Rate     int           // requests a second
	Subjects []string      // asked in turn
	Patience time.Duration // until a client gives up; default 10s
	Each     func(Answer)  // is told every answer, from many goroutines; default: they are kept
}

// An Answer is what a client was told.
type Answer struct {
	Subject  string
	Replica  *Replica
	Due      time.Time
	Took     time.Duration
	Err      error // nothing was told, or no decision
	Allowed  bool
	Degraded bool
	Source   string
}

// Counted reports whether it says that it was charged in Redis.
func (a *Answer) Counted() bool { return a.Err == nil && a.Allowed && !a.Degraded }

// A Run is a Load at work.
type Run struct {
	load   Load
	client *http.Client
	stop   context.CancelFunc
	asking sync.WaitGroup

	mu      sync.Mutex
	answers []Answer   // guarded by mu
	targets []*Replica // guarded by mu: who is asked
}

// Start puts a Load on the replicas, in turn.
func (r *Rig) Start(l Load) *Run {
	if l.Patience == 0 {
		l.Patience = 10 * time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	run := &Run{
		load: l, stop: stop, targets: slices.Clone(r.Replicas),
		client: &http.Client{Timeout: l.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}},
	}
	run.asking.Go(func() { run.pace(ctx) })
	return run
}

// Skip asks a replica no more: as a load balancer does that was told.
func (run *Run) Skip(r *Replica) {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.targets = slices.DeleteFunc(run.targets, func(one *Replica) bool { return one == r })
}

// Add asks one more.
func (run *Run) Add(r *Replica) {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.targets = append(run.targets, r)
}

func (run *Run) pace(ctx context.Context) {
	step := time.Second / time.Duration(run.load.Rate)
	due := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		if r := run.next(n); r != nil {
			a := Answer{Subject: run.load.Subjects[n%len(run.load.Subjects)], Replica: r, Due: due}
			run.asking.Go(func() { run.ask(a) })
		}
		due = due.Add(step)
	}
}

// next is whose turn it is; nil if nobody is left.
func (run *Run) next(n int) *Replica {
	run.mu.Lock()
	defer run.mu.Unlock()
	if len(run.targets) == 0 {
		return nil
	}
	// Subjects and replicas take turns of their own, so that all meet all.
	return run.targets[(n/len(run.load.Subjects)+n)%len(run.targets)]
}

func (run *Run) ask(a Answer) {
	a.Err = run.decide(&a)
	a.Took = time.Since(a.Due)
	if run.load.Each != nil {
		run.load.Each(a)
		return
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	run.answers = append(run.answers, a)
}

func (run *Run) decide(a *Answer) error {
	req, err := http.NewRequest(http.MethodPost, a.Replica.Public+"/v1/take", strings.NewReader(fmt.Sprintf(`{"subject":%q}`, a.Subject)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+AdminToken)
	resp, err := run.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %s", resp.StatusCode, text)
	}
	var d struct {
		Allowed, Degraded bool
		Source            string
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	a.Allowed, a.Degraded, a.Source = d.Allowed, d.Degraded, d.Source
	return nil
}

// Answers are those that have come so far.
func (run *Run) Answers() []Answer {
	run.mu.Lock()
	defer run.mu.Unlock()
	return append([]Answer(nil), run.answers...)
}

// Stop asks no more, and returns all answers.
func (run *Run) Stop() []Answer {
	run.stop()
	run.asking.Wait()
	run.client.CloseIdleConnections()
	return run.Answers()
}
