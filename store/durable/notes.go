package durable

import (
	"cmp"
	"context"
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
	resets  []Reset // guarded by mu
	dropped int     // guarded by mu: number of dropped resets
}

type noteShard struct {
	mu      sync.Mutex
	windows map[string][]Window // guarded by mu: by subject; their Subject is not set
	dropped int                 // guarded by mu
}

// maxResets is the most resets kept until they are written.
const maxResets = 100_000

func (n *notes) start(subjects int) {
	n.seed, n.perShard = maphash.MakeSeed(), max(1, subjects/noteShards)
	for i := range n.shards {
		n.shards[i].windows = make(map[string][]Window)
	}
}

func (n *notes) shard(subject string) *noteShard {
	return &n.shards[maphash.String(n.seed, subject)%noteShards]
}

// add notes a window, unless more is noted of it, or of one that it was begun in the
// place of. What there is no room for is noted when the subject is charged again.
func (n *notes) add(subject string, w Window) {
	sh := n.shard(subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list, known := sh.windows[subject]
	if !known && len(sh.windows) >= n.perShard {
		sh.dropped++
		return
	}
	for i := range list {
		if old := &list[i]; old.Limit == w.Limit {
			*old = old.then(w)
			return
		}
	}
	sh.windows[subject] = append(list, w)
}

// then merges old with w, another observation of the window; either may be the later one. The
// later usage wins even if lower, because settlements lower usage.
func (old Window) then(w Window) Window {
	switch {
	case old.End <= w.At:
		return w // w is the next window
	case w.End > old.End || w.End <= old.At:
		return old // w began while old ran
	}
	most := cmp.Or(old.Max, w.Max)
	given, corrected := old.Given+w.Given, max(old.Corrected, w.Corrected)
	if w.At > old.At || w.At == old.At && w.Corrected > old.Corrected || w.Used > old.Used && w.At > old.Corrected {
		w.At = max(w.At, old.At)
		old = w
	}
	if old.Max == 0 {
		old.Max = most
	}
	old.Given, old.Corrected = given, corrected
	return old
}

// forget drops what is noted of usage that was forgiven.
func (n *notes) forget(r *Reset) {
	sh := n.shard(r.Subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := slices.DeleteFunc(sh.windows[r.Subject], func(w Window) bool { return w.At <= r.At && r.forgives(w.Limit) })
	if sh.windows[r.Subject] = list; len(list) == 0 {
		delete(sh.windows, r.Subject)
	}
}

func (r *Reset) forgives(limit string) bool {
	return len(r.Limits) == 0 || slices.Contains(r.Limits, limit)
}

func (n *notes) reset(r Reset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.resets) < maxResets {
		n.resets = append(n.resets, r)
	} else {
		n.dropped++
	}
}

// takeResets removes and returns the pending resets.
func (n *notes) takeResets() (resets []Reset, dropped int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resets, dropped = n.resets, n.dropped
	n.resets, n.dropped = nil, 0
	return resets, dropped
}

// takeAll returns the windows that wait, which wait no more.
func (n *notes) takeAll() (windows []Window, dropped int) {
	for i := range n.shards {
		sh := &n.shards[i]
		var taken map[string][]Window
		sh.mu.Lock()
		dropped, sh.dropped = dropped+sh.dropped, 0
		if n := len(sh.windows); n > 0 {
			taken, sh.windows = sh.windows, make(map[string][]Window, n)
		}
		sh.mu.Unlock()
		for subject, list := range taken {
			windows = appendWindows(windows, subject, list)
		}
	}
	return windows, dropped
}

// takeOf returns those of some subjects.
func (n *notes) takeOf(subjects []string) (windows []Window) {
	for _, subject := range subjects {
		sh := n.shard(subject)
		sh.mu.Lock()
		list := sh.windows[subject]
		delete(sh.windows, subject)
		sh.mu.Unlock()
		windows = appendWindows(windows, subject, list)
	}
	return windows
}

func appendWindows(windows []Window, subject string, list []Window) []Window {
	for _, w := range list {
		w.Subject = subject
		windows = append(windows, w)
	}
	return windows
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
	s.working.Lock()
	defer s.working.Unlock()
	if err := s.flushResets(ctx); err != nil {
		return err
	}
	windows, dropped := s.notes.takeAll()
	if dropped > 0 {
		s.unwritten.Add(dropped, func(total int64) {
			s.cfg.Logger.Warn("durable: more subjects were charged than can wait to be written", "charges", total, "subjects", s.cfg.Subjects)
		})
	}
	return s.writeWindows(ctx, s.worthwhile(windows))
}

// flushResets writes the pending resets. It must run before windows are written.
func (s *Store) flushResets(ctx context.Context) error {
	resets, dropped := s.notes.takeResets()
	if dropped > 0 {
		s.forgotten.Add(dropped, func(total int64) {
			s.cfg.Logger.Error("durable: more resets wait to be written than there is room for: the last ones are not known after a loss", "dropped", total)
		})
	}
	return inBatches(resets, s.cfg.Batch, func(batch []Reset) error { return s.ledger.NoteResets(ctx, batch) }, s.notes.reset)
}

func (s *Store) writeWindows(ctx context.Context, windows []Window) error {
	return inBatches(windows, s.cfg.Batch, func(batch []Window) error { return s.ledger.NoteWindows(ctx, batch) }, func(w Window) {
		subject := w.Subject
		w.Subject = ""
		s.notes.add(subject, w)
	})
}

// inBatches writes a list until that fails, and keeps the rest.
func inBatches[T any](list []T, size int, write func([]T) error, keep func(T)) (err error) {
	for batch := range slices.Chunk(list, size) {
		if err == nil {
			if err = write(batch); err == nil {
				continue
			}
		}
		for _, one := range batch {
			keep(one)
		}
	}
	return err
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
