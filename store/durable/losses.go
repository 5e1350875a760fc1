package durable

import (
	"context"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// losses are subjects of which a long window has just begun, or has not: either
// that is so, or the store has lost it.
type losses struct {
	most int
	wake chan struct{} // holds one element when somebody waits

	mu      sync.Mutex
	waiting map[string]int64 // guarded by mu: when it was seen, on the store's clock
	dropped int              // guarded by mu
}

func (l *losses) start(subjects int) {
	l.most, l.wake, l.waiting = subjects, make(chan struct{}, 1), make(map[string]int64)
}

func (l *losses) suspect(subject string, seen int64) {
	l.mu.Lock()
	before, waits := l.waiting[subject]
	if waits || len(l.waiting) < l.most {
		l.waiting[subject] = max(before, seen) // it may be lost again before it is made good
	} else {
		l.dropped++
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// take returns some that wait, who wait no more.
func (l *losses) take(most int) (some map[string]int64, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	some = make(map[string]int64, min(most, len(l.waiting)))
	for subject, seen := range l.waiting {
		if len(some) == most {
			break
		}
		some[subject] = seen
		delete(l.waiting, subject)
	}
	dropped, l.dropped = l.dropped, 0
	return some, dropped
}

// settleFor lets those who were charged at once come together, and what was
// charged before the loss reach the ledger that is asked.
const (
	settleFor = 20 * time.Millisecond
	retryIn   = 500 * time.Millisecond
)

// restore puts back what the store has lost, until ctx ends.
func (s *Store) restore(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.losses.wake:
		}
		pause, restored := settleFor, 0
		for {
			if !sleep(ctx, pause) {
				return
			}
			some, dropped := s.losses.take(s.cfg.Batch)
			if dropped > 0 {
				s.cfg.Logger.Warn("durable: more subjects began long windows than can wait: whether these were lost is not known", "subjects", dropped)
			}
			if len(some) == 0 {
				break
			}
			pause = 0
			n, err := s.restoreSome(ctx, some)
			restored += n
			if err != nil {
				pause = retryIn
				for subject, seen := range some {
					s.losses.suspect(subject, seen)
				}
			}
		}
		if restored > 0 {
			s.cfg.Logger.Warn("durable: the store had lost long windows, which are restored", "subjects", restored)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// restoreSome asks the ledger for subjects and gives the store what it lacks; it
// returns of how many. To ask for one again that was restored does nothing.
func (s *Store) restoreSome(ctx context.Context, some map[string]int64) (restored int, err error) {
	subjects := make([]string, 0, len(some))
	now := int64(0)
	for subject, seen := range some {
		subjects = append(subjects, subject)
		now = max(now, seen)
	}
	list, err := s.ledger.RunningWindows(ctx, subjects, now)
	if err != nil {
		return 0, err
	}
	lost := make(map[string][]Window)
	for _, w := range list {
		if w.At < some[w.Subject] { // else what it has is from after the loss
			lost[w.Subject] = append(lost[w.Subject], w)
		}
	}
	for subject, windows := range lost {
		if err := s.inner.Restore(ctx, subject, some[subject], windows); err != nil {
			return restored, err
		}
		restored++
	}
	return restored, nil
}

var _ tierlimit.Store = (*Store)(nil)
