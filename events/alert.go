package events

import (
	"context"
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
	wait, failing := writeEvery, false
	for ended := false; !ended; {
		ended = !sleep(ctx, wait)
		var err error
		if held, err = s.writeTaken(ctx, held, ended); err == nil {
			if failing {
				s.log.Info("events: alerts are written again")
			}
			wait, failing = writeEvery, false
			continue
		}
		if !failing {
			s.log.Warn("events: alerts cannot be written; they wait", "error", err)
		}
		wait, failing = min(max(2*wait, time.Second), maxWriteWait), true
	}
	if n := len(held) + len(s.crossings); n > 0 {
		s.log.Warn("events: alerts were not written; another process writes them with the next request of the subjects", "alerts", n)
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
	pruneEvery   = time.Hour
	keepMessages = 7 * 24 * time.Hour
)

// endAlerts writes that windows have ended or are below their thresholds again, and deletes old
// messages, until ctx ends.
func (s *Service) endAlerts(ctx context.Context, usage UsageFunc) {
	var pruned time.Time
	for sleep(ctx, endEvery) {
		if err := s.endAll(ctx); err != nil {
			s.log.Debug("events: the end of alerts is not written", "error", err)
			continue
		}
		if err := s.checkAlerts(ctx, usage); err != nil {
			s.log.Debug("events: alerts are not checked", "error", err)
		}
		if now := time.Now(); now.Sub(pruned) > pruneEvery {
			pruned = now
			if err := s.cfg.Outbox.Prune(ctx, now.Add(-keepMessages)); err != nil {
				s.log.Warn("events: old messages are not deleted", "error", err)
			}
		}
	}
}

func (s *Service) endAll(ctx context.Context) error {
	for {
		n, err := s.cfg.Outbox.EndAlerts(ctx, time.Now())
		if n == 0 || err != nil {
			return err
		}
	}
}

// checkAlerts looks whether changes have brought windows below their thresholds.
func (s *Service) checkAlerts(ctx context.Context, usage UsageFunc) error {
	list, err := s.cfg.Outbox.AlertsToCheck(ctx, time.Now(), checkAtOnce)
	if err != nil {
		return err
	}
	for _, a := range list {
		u, err := usage(ctx, a.Subject)
		if err != nil {
			return err // the end of the window is told in any case
		}
		if isBelow(&a, u.Windows) {
			if err := s.cfg.Outbox.RecoverAlert(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// isBelow reports whether the window of a is below its lowest threshold, or no longer limited, and
// sets a.Used and a.Max.
func isBelow(a *tiers.Alert, windows []tierlimit.WindowState) bool {
	for i := range windows {
		w := &windows[i]
		if w.Limit != a.Limit {
			continue
		}
		a.Used, a.Max = w.Used, max(w.Max, 0)
		return w.Max == tierlimit.Unlimited || w.Used*100 < w.Max*int64(a.Threshold)
	}
	return true
}
