package events

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

const (
	writeEvery   = 100 * time.Millisecond
	writeAtOnce  = 500
	maxWriteWait = 30 * time.Second // between two attempts to write
	lastWrite    = 3 * time.Second  // at the end
)

// writeCrossings writes the crossings that were taken, until ctx ends, and then what is left.
func (s *Service) writeCrossings(ctx context.Context) {
	var held []tierlimit.Crossing // could not be written
	wait := writeEvery
	for ended := false; !ended; {
		ended = !sleep(ctx, wait)
		var err error
		held, err = s.writeTaken(ctx, held, ended)
		s.health.note(ctx, "alerts cannot be written and wait", err)
		if err == nil {
			wait = writeEvery
		} else {
			wait = min(max(2*wait, time.Second), maxWriteWait)
		}
	}
	if n := len(held) + len(s.crossings); n > 0 {
		s.health.log.Warn("events: alerts were not written; another process writes them with the next request of the subjects", "alerts", n)
	}
}

// writeTaken writes held and then all crossings that were taken. It returns those that could not be
// written.
func (s *Service) writeTaken(ctx context.Context, held []tierlimit.Crossing, last bool) ([]tierlimit.Crossing, error) {
	if last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
		defer cancel()
	}
	for {
		for len(held) < writeAtOnce && len(s.crossings) > 0 {
			held = append(held, <-s.crossings)
		}
		if len(held) == 0 {
			return nil, nil
		}
		if err := s.cfg.Outbox.Alert(ctx, held); err != nil {
			return held, err
		}
		held = held[:0]
	}
}

const (
	endEvery     = 2 * time.Second
	checkAtOnce  = 50
	pruneEvery   = 10 * time.Minute
	keepMessages = 7 * 24 * time.Hour
)

// endAlerts writes that windows have ended or are below their thresholds again, and deletes old
// messages, until ctx ends.
func (s *Service) endAlerts(ctx context.Context, usage UsageFunc) {
	var pruned time.Time
	for sleep(ctx, endEvery) {
		s.health.note(ctx, "the end of alerts is not written", s.endAll(ctx))
		s.health.note(ctx, "alerts are not checked", s.checkAll(ctx, usage))
		if now := time.Now(); now.Sub(pruned) > pruneEvery {
			pruned = now
			s.health.note(ctx, "old messages are not deleted", s.prune(ctx, now.Add(-keepMessages)))
		}
	}
}

func (s *Service) endAll(ctx context.Context) error {
	for {
		n, err := s.cfg.Outbox.EndAlerts(ctx)
		if n == 0 || err != nil {
			return err
		}
	}
}

func (s *Service) prune(ctx context.Context, before time.Time) error {
	for {
		more, err := s.cfg.Outbox.Prune(ctx, before)
		if !more || err != nil {
			return err
		}
	}
}

// checkAll looks whether changes have brought windows below their thresholds.
func (s *Service) checkAll(ctx context.Context, usage UsageFunc) error {
	for {
		list, err := s.cfg.Outbox.AlertsToCheck(ctx, checkAtOnce)
		if len(list) == 0 || err != nil {
			return err
		}
		var failed error
		for _, a := range list {
			if err := s.check(ctx, a, usage); err != nil {
				failed = err // the alert comes again
			}
		}
		if failed != nil {
			return failed
		}
	}
}

func (s *Service) check(ctx context.Context, a tiers.Alert, usage UsageFunc) error {
	u, err := usage(ctx, a.Subject)
	switch {
	case err != nil:
		return err
	case isBelow(&a, u.Windows):
		return s.cfg.Outbox.RecoverAlert(ctx, a)
	}
	return s.cfg.Outbox.AlertChecked(ctx, a)
}

// isBelow reports whether the window of a is below its lowest threshold, or no longer limited, and
// sets a.Used and a.Max.
func isBelow(a *tiers.Alert, windows []tierlimit.WindowState) bool {
	for i := range windows {
		w := &windows[i]
		if w.Limit != a.Limit {
			continue
		}
		if a.Used = &w.Used; w.Max == tierlimit.Unlimited {
			return true
		}
		a.Max = &w.Max
		return w.Used*100 < w.Max*int64(a.Threshold)
	}
	return true
}

// health logs what fails: once when it begins and once when it ends.
type health struct {
	log     *slog.Logger
	mu      sync.Mutex
	failing map[string]bool // guarded by mu
}

func (h *health) note(ctx context.Context, what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err != nil && !h.failing[what]:
		h.failing[what] = true
		h.log.Warn("events: "+what, "error", err)
	case err == nil && h.failing[what]:
		delete(h.failing, what)
		h.log.Info("events: no longer so: " + what)
	}
}
