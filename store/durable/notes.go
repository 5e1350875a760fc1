package durable

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

const noteShards = 64

// notes are what waits to be written.
type notes struct {
	seed     maphash.Seed
	perShard int
	shards   [noteShards]noteShard

	mu      sync.Mutex
	credits []Credit // guarded by mu
	resets  []Reset  // guarded by mu
}

type noteShard struct {
	mu      sync.Mutex
	windows map[string][]Window // guarded by mu: by subject; their Subject is not set
	dropped int                 // guarded by mu
}

// maxRare bounds the credits and resets that wait, each.
const maxRare = 100_000

func (n *notes) start(subjects int) {
	n.seed, n.perShard = maphash.MakeSeed(), max(1, subjects/noteShards)
	for i := range n.shards {
		n.shards[i].windows = make(map[string][]Window)
	}
}

// add notes a window, unless more is noted of it. What there is no room for is
// noted when the subject is charged again.
func (n *notes) add(subject string, w Window) {
	sh := &n.shards[maphash.String(n.seed, subject)%noteShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list, known := sh.windows[subject]
	if !known && len(sh.windows) >= n.perShard {
		sh.dropped++
		return
	}
	for i := range list {
		if list[i].Limit == w.Limit {
			if w.At >= list[i].At && (w.End != list[i].End || w.Used > list[i].Used) {
				list[i] = w
			}
			return
		}
	}
	sh.windows[subject] = append(list, w)
}

func (n *notes) credit(c Credit) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.credits) < maxRare {
		n.credits = append(n.credits, c)
	}
}

func (n *notes) forget(r Reset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.resets) < maxRare {
		n.resets = append(n.resets, r)
	}
}

// takeAll returns what waits, which waits no more.
func (n *notes) takeAll() (windows []Window, credits []Credit, resets []Reset, dropped int) {
	n.mu.Lock()
	credits, resets, n.credits, n.resets = n.credits, n.resets, nil, nil
	n.mu.Unlock()
	for i := range n.shards {
		sh := &n.shards[i]
		sh.mu.Lock()
		var taken map[string][]Window
		dropped, sh.dropped = dropped+sh.dropped, 0
		if n := len(sh.windows); n > 0 {
			taken, sh.windows = sh.windows, make(map[string][]Window, n)
		}
		sh.mu.Unlock()
		for subject, list := range taken {
			for _, w := range list {
				w.Subject = subject
				windows = append(windows, w)
			}
		}
	}
	return windows, credits, resets, dropped
}

// What ended is forgotten late: clocks differ.
const (
	forgetEvery = time.Minute
	forgetAfter = 24 * time.Hour
)

// write keeps the ledger until ctx ends.
func (s *Store) write(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	failing, forgot := false, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.flush(ctx)
		if now := time.Now(); now.Sub(forgot) > forgetEvery && err == nil {
			forgot, err = now, s.ledger.ForgetEnded(ctx, now.Add(-forgetAfter).UnixMilli())
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failing:
			s.cfg.Logger.Warn("durable: usage of long windows cannot be written, it waits", "error", err)
		case err == nil && failing:
			s.cfg.Logger.Info("durable: usage of long windows is written again")
		}
		failing = err != nil
	}
}

// flush writes what waits. What could not be written waits on.
func (s *Store) flush(ctx context.Context) error {
	windows, credits, resets, dropped := s.notes.takeAll()
	if dropped > 0 {
		s.cfg.Logger.Warn("durable: more subjects were charged than can wait to be written", "charges", dropped, "subjects", s.cfg.Subjects)
	}
	var errs []error
	if len(resets) > 0 {
		if err := s.ledger.NoteResets(ctx, resets); err != nil {
			errs = append(errs, err)
			for _, r := range resets {
				s.notes.forget(r)
			}
		}
	}
	for batch := range slices.Chunk(s.worthwhile(windows), s.cfg.Batch) {
		if len(errs) == 0 {
			err := s.ledger.NoteWindows(ctx, batch)
			if err == nil {
				continue
			}
			errs = append(errs, err)
		}
		for _, w := range batch {
			subject := w.Subject
			w.Subject = ""
			s.notes.add(subject, w)
		}
	}
	for batch := range slices.Chunk(credits, s.cfg.Batch) {
		if len(errs) == 0 {
			err := s.ledger.NoteCredits(ctx, batch)
			if err == nil {
				continue
			}
			errs = append(errs, err)
		}
		for _, c := range batch {
			s.notes.credit(c)
		}
	}
	return errors.Join(errs...)
}

// worthwhile leaves out the unknown beyond those who use most.
func (s *Store) worthwhile(windows []Window) []Window {
	var known, unknown []Window
	for _, w := range windows {
		if s.cfg.Known(w.Subject) {
			known = append(known, w)
		} else {
			unknown = append(unknown, w)
		}
	}
	slices.SortFunc(unknown, func(a, b Window) int { return cmp.Compare(b.Used, a.Used) })
	return append(known, unknown[:min(len(unknown), s.cfg.Unknown)]...)
}
