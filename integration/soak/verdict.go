package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// A sample is how large a replica was at a time.
type sample struct {
	at          time.Duration
	memory      int64
	descriptors int
}

const (
	lookEvery = 5 * time.Second
	warmUp    = time.Minute // until a replica has the size it has under this load
)

// live lets time pass and faults happen, and says how it goes.
func (s *site) live(ctx context.Context, o *options, plan []fault, out io.Writer) error {
	began := time.Now()
	s.oldest = s.Replicas[0]
	over, look := time.After(o.duration), time.NewTicker(lookEvery)
	defer look.Stop()
	var next, heal <-chan time.Time
	if len(plan) > 0 {
		next = time.After(o.every / 2)
	}
	now := "nothing fails"
	var failing fault
	for {
		select {
		case <-ctx.Done():
			return errEarly
		case <-over:
			if heal != nil {
				if err := failing.heal(ctx, s); err != nil {
					return err
				}
			}
			time.Sleep(2 * time.Second) // until all is as before
			return nil
		case <-next:
			failing, plan = plan[0], plan[1:]
			now, next, heal = failing.name, nil, time.After(o.lasting)
			if len(plan) > 0 {
				next = time.After(o.every)
			}
			if err := failing.fail(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", failing.name, err)
			}
		case <-heal:
			now, heal = "nothing fails", nil
			if err := failing.heal(ctx, s); err != nil {
				return fmt.Errorf("%s, afterwards: %w", failing.name, err)
			}
		case <-look.C:
			s.memory = append(s.memory, sample{time.Since(began), s.oldest.Memory(), s.oldest.Descriptors()})
			fmt.Fprintf(out, "%5s  %d asked, %d degraded, %d failed; lately at most %s; %s\n", time.Since(began).Round(time.Second),
				s.book.asked.Load(), s.book.degraded.Load(), s.book.failed.Load(), time.Duration(s.book.lately.Swap(0)).Round(100*time.Microsecond), now)
		}
	}
}

// A verdict is what was found, line by line.
type verdict struct {
	title string
	lines []line
}

type line struct {
	promise, found string
	held           bool
}

func (v *verdict) add(held bool, promise, format string, a ...any) {
	v.lines = append(v.lines, line{promise, fmt.Sprintf(format, a...), held})
}

func (v *verdict) held() bool {
	for _, l := range v.lines {
		if !l.held {
			return false
		}
	}
	return true
}

func (v *verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# A long load, and something that fails now and then\n\nWritten by `make soak`: %s\n\n| promise | found | |\n|---|---|---|\n", v.title)
	for _, l := range v.lines {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.promise, l.found, map[bool]string{true: "held", false: "NOT HELD"}[l.held])
	}
	return b.String()
}

func (s *site) verdict(o *options) (*verdict, error) {
	b := s.book
	v := &verdict{title: fmt.Sprintf("%s at %d requests a second, %d replicas, a budget of %s, a fault\nevery %s for %s (seed %d), on a machine with %d cores, which the clients, the replicas, Redis and\nPostgres share. A latency is from when a request was due.",
		o.duration, o.rate, o.replicas, o.budget, o.every, o.lasting, o.seed, runtime.NumCPU())}
	asked, due := b.asked.Load(), int64(o.duration.Seconds()*float64(o.rate))
	v.add(asked >= due*99/100, "the load is what was asked for", "%d requests of %d", asked, due)
	v.add(b.worst.Took <= o.budget+o.slack, fmt.Sprintf("no answer takes longer than the budget and %s", o.slack), "the slowest took %s; 50 %% within %s, 99 %% within %s, 99.9 %% within %s",
		b.worst.Took.Round(100*time.Microsecond), b.within(.5), b.within(.99), b.within(.999))
	killed := int64(s.kills) * int64(o.rate) / 20 // those due within 50 ms
	v.add(b.failed.Load() <= killed, "whoever asks is told a decision, but when a replica is killed", "%d were told none, %d a degraded one", b.failed.Load(), b.degraded.Load())
	if err := s.account(v); err != nil {
		return nil, err
	}
	s.growth(v)
	return v, nil
}

// account compares what clients were told with what Redis has counted.
func (s *site) account(v *verdict) error {
	var confirmed, unknown, counted, wrong int64
	for id, a := range s.book.accounts {
		used, err := s.Used(id)
		if err != nil {
			return err
		}
		told, open := a.confirmed.Load(), a.unknown.Load()
		if used < told || used > told+open {
			wrong++
		}
		confirmed, unknown, counted = confirmed+told, unknown+open, counted+used
	}
	v.add(wrong == 0, "every charge that was confirmed is counted, and of the unknown none twice", "%d confirmed, %d unknown, %d counted; %d subjects do not agree", confirmed, unknown, counted, wrong)
	return nil
}

// growth compares how large the oldest replica is at the end with how large it was once
// it was warm.
func (s *site) growth(v *verdict) {
	var warm []sample
	for _, one := range s.memory {
		if one.at >= min(warmUp, s.memory[len(s.memory)-1].at/2) {
			warm = append(warm, one)
		}
	}
	if len(warm) < 4 || warm[0].memory == 0 {
		v.add(true, "memory does not grow", "not measured: too short, or not a system that tells")
		return
	}
	// Least squares: single samples are before or after a collection.
	var sx, sy, sxx, sxy float64
	for _, one := range warm {
		x, y := one.at.Minutes(), float64(one.memory)/(1<<20)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(warm))
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	v.add(slope < 1, "memory does not grow", "%.1f MB on average, %+.2f MB a minute", sy/n, slope)
	first, last := warm[0].descriptors, warm[len(warm)-1].descriptors
	v.add(last <= first+64, "descriptors do not grow", "%d once warm, %d at the end", first, last)
}
