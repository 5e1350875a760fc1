package durable

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A loss is a long window that has just begun, or has not: either that is so, or the
// store has lost it. Its Window is the last that was seen of it.
type loss struct {
	Window
	begun int64 // its end, if a charge has begun it; 0: it was not there, or that is not known
	seen  int64 // when that was
}

// merge merges two suspicions of one limit, in whatever order they came: both is the later begin
// with the latest usage. If the window was lost between the two, before is its usage until then.
func (l loss) merge(other loss) (both loss, before Window) {
	first, last := l, other
	if last.seen < first.seen {
		first, last = last, first
	}
	if last.begun > 0 && first.End > 0 && first.seen < last.seen && first.At < last.seen {
		return last, first.Window // the window was seen before it began: it was lost in between
	}
	last.Window = first.then(last.Window)
	return last, Window{}
}

// losses wait to be looked into.
type losses struct {
	most  int
	known func(subject string) bool
	wake  chan struct{} // holds one element when somebody waits
	count atomic.Int64  // of subjects that wait
	out   atomic.Int64  // of subjects that are looked into

	mu      sync.Mutex
	waiting map[string]*suspect // guarded by mu: by subject
	// looking are those who are looked into, with what is seen of them meanwhile: noted apart, it
	// would hide the usage before the loss, which is noted and not written yet.
	looking map[string]*suspect // guarded by mu: by subject
	unknown int                 // guarded by mu: how many of them are
	dropped int                 // guarded by mu

	// settled are windows that were not there, which the ledger had nothing of: they
	// are looked for every minute at most, however often somebody asks.
	settled map[string]time.Time // guarded by mu
}

// A suspect is a subject that waits.
type suspect struct {
	known  bool
	losses []loss // one for each limit
}

func (l *losses) start(subjects int, known func(string) bool) {
	l.most, l.known = subjects, known
	l.wake, l.waiting, l.looking, l.settled = make(chan struct{}, 1), make(map[string]*suspect), make(map[string]*suspect), make(map[string]time.Time)
}

const (
	settledFor  = time.Minute
	mostSettled = 1 << 16
)

func settledKey(subject, limit string) string { return limit + " " + subject }

// suspect has a loss looked into. Unknown subjects take half of the places at most.
// If the window was begun twice, suspect returns the usage of the earlier begin, which
// must be noted.
func (l *losses) suspect(subject string, one loss) (seen Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(subject, one)
}

// add is suspect. l.mu is locked.
func (l *losses) add(subject string, one loss) (seen Window) {
	if one.begun == 0 && time.Now().Before(l.settled[settledKey(subject, one.Limit)]) {
		return seen
	}
	who := l.waiting[subject]
	if who == nil {
		who = &suspect{known: l.known(subject)}
		if len(l.waiting) >= l.most || !who.known && l.unknown >= l.most/2 {
			l.dropped++
			return seen
		}
		l.waiting[subject] = who
		l.count.Add(1)
		if !who.known {
			l.unknown++
		}
	}
	if old := who.of(one.Limit); old == nil {
		who.losses = append(who.losses, one)
	} else {
		*old, seen = old.merge(one)
	}
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
	return seen
}

// of returns the loss of a limit, nil if there is none or s is nil.
func (s *suspect) of(limit string) *loss {
	if s == nil {
		return nil
	}
	for i := range s.losses {
		if s.losses[i].Limit == limit {
			return &s.losses[i]
		}
	}
	return nil
}

// waits reports whether w is of a window that is looked into, and remembers it there.
func (l *losses) waits(subject string, w *Window) bool {
	if l.count.Load() == 0 && l.out.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, who := range []*suspect{l.waiting[subject], l.looking[subject]} {
		if one := who.of(w.Limit); one != nil {
			one.Window = one.then(*w)
			return true
		}
	}
	return false
}

// forget drops suspicions of usage that was forgiven.
func (l *losses) forget(r *Reset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, who := range []*suspect{l.waiting[r.Subject], l.looking[r.Subject]} {
		if who != nil {
			who.losses = slices.DeleteFunc(who.losses, func(one loss) bool { return one.At <= r.At && r.forgives(one.Limit) })
		}
	}
}

// take returns some who wait, who wait no more; of unknown ones at most so many.
func (l *losses) take(most, unknown int) (some map[string]*suspect, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	some = make(map[string]*suspect, min(most, len(l.waiting)))
	for subject, who := range l.waiting {
		if len(some) == most {
			break
		}
		if !who.known {
			if unknown == 0 {
				continue
			}
			unknown--
			l.unknown--
		}
		some[subject] = who
		l.looking[subject] = &suspect{known: who.known, losses: slices.Clone(who.losses)}
		l.out.Add(1)
		delete(l.waiting, subject)
		l.count.Add(-1)
	}
	dropped, l.dropped = l.dropped, 0
	return some, dropped
}

// looked ends the look into a subject, and adds to who what was seen meanwhile. If again is true the
// subject waits for another look; seen are windows that must be noted then.
func (l *losses) looked(subject string, who *suspect, again bool) (seen []Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	meanwhile := l.looking[subject]
	delete(l.looking, subject)
	l.out.Add(-1)
	for i := range who.losses {
		one := &who.losses[i]
		if later := meanwhile.of(one.Limit); later != nil {
			one.Window = one.then(later.Window)
		}
		if !again {
			continue
		}
		if w := l.add(subject, *one); w.End > 0 {
			seen = append(seen, w)
		}
	}
	return seen
}

// putBack has those wait on who could not be looked into.
func (s *Store) putBack(some map[string]*suspect) {
	for subject, who := range some {
		for _, w := range s.losses.looked(subject, who, true) {
			s.notes.add(subject, w)
		}
	}
}

func (s *Store) suspect(subject string, one loss) {
	if seen := s.losses.suspect(subject, one); seen.End > 0 {
		s.notes.add(subject, seen)
	}
}

// settle remembers that there was nothing to find.
func (l *losses) settle(subject, limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.settled) >= mostSettled {
		clear(l.settled)
	}
	l.settled[settledKey(subject, limit)] = time.Now().Add(settledFor)
}

const (
	roundEvery = 20 * time.Millisecond // a round of looks: those who were charged at once come together
	retryIn    = 500 * time.Millisecond
	restorers  = 8 // at a time
)

// restore puts back what the store has lost, until ctx ends.
func (s *Store) restore(ctx context.Context) {
	var failing error
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.losses.wake:
		}
		restored := 0
		for pause := roundEvery; sleep(ctx, pause) && s.losses.count.Load() > 0; {
			n, err := s.restoreRound(ctx)
			restored += n
			pause = roundEvery
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				pause = retryIn
			}
			switch {
			case err != nil && failing == nil:
				s.cfg.Logger.Warn("durable: whether long windows were lost cannot be looked into, they wait", "error", err)
			case err == nil && failing != nil:
				s.cfg.Logger.Info("durable: losses of long windows are looked into again")
			}
			failing = err
		}
		if restored > 0 {
			s.cfg.Logger.Warn("durable: the store had lost long windows, which are restored", "windows", restored)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// restoreAll looks into all who wait.
func (s *Store) restoreAll(ctx context.Context) (restored int, err error) {
	for {
		n, err := s.restoreRound(ctx) // at least one, which waits for a round under way
		restored += n
		if err != nil || s.losses.count.Load() == 0 {
			return restored, err
		}
	}
}

// restoreRound looks into some who wait. Who could not be looked into waits on.
func (s *Store) restoreRound(ctx context.Context) (restored int, err error) {
	s.working.Lock()
	defer s.working.Unlock()
	some, dropped := s.losses.take(s.cfg.Batch, s.cfg.Unknown)
	if dropped > 0 {
		s.unseen.Add(dropped, func(total int64) {
			s.cfg.Logger.Warn("durable: more subjects wait to be looked into than there is room for: what they had lost is not known", "subjects", total)
		})
	}
	list, err := s.known(ctx, some)
	if err != nil {
		s.putBack(some)
		return 0, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	places := make(chan struct{}, restorers)
	for subject, who := range some {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			n, e := s.restoreOne(ctx, subject, who, list[subject])
			mu.Lock()
			defer mu.Unlock()
			restored += n
			if e != nil {
				err = errors.Join(err, e)
				s.putBack(map[string]*suspect{subject: who})
			}
		})
	}
	wg.Wait()
	return restored, err
}

// known returns what the ledger has of those who wait, once it has what this process
// knows.
func (s *Store) known(ctx context.Context, some map[string]*suspect) (map[string][]Window, error) {
	if err := s.flushResets(ctx); err != nil {
		return nil, err
	}
	subjects := make([]string, 0, len(some))
	for subject := range some {
		subjects = append(subjects, subject)
	}
	if err := s.writeWindows(ctx, s.notes.takeOf(subjects)); err != nil {
		return nil, err
	}
	// By this clock, give or take: the store's is asked when it is restored.
	list, err := s.ledger.RunningWindows(ctx, subjects, time.Now().Add(-time.Hour).UnixMilli())
	known := make(map[string][]Window)
	for _, w := range list {
		known[w.Subject] = append(known[w.Subject], w)
	}
	return known, err
}

// restoreOne gives the store what it lacks of a subject, and has noted what was
// charged meanwhile.
func (s *Store) restoreOne(ctx context.Context, subject string, who *suspect, ledger []Window) (int, error) {
	var list []Loss
	for i := range who.losses {
		one := &who.losses[i]
		at := slices.IndexFunc(ledger, func(w Window) bool { return w.Limit == one.Limit })
		if at < 0 {
			continue
		}
		l := Loss{Window: ledger[at], Begun: one.begun, BegunAt: one.seen}
		if l.At >= one.seen { // somebody has noted it since: of that nothing must be added
			l.Begun, l.BegunAt = 0, 0
		}
		list = append(list, l)
	}
	restored := 0
	if len(list) > 0 {
		var err error
		if restored, err = s.inner.Restore(ctx, list); err != nil {
			return 0, err
		}
	}
	s.losses.looked(subject, who, false)
	if restored > 0 {
		return restored, nil // the next charge says how much it is now
	}
	for _, one := range who.losses {
		if one.End > 0 {
			s.notes.add(subject, one.Window)
		} else {
			s.losses.settle(subject, one.Limit)
		}
	}
	return 0, nil
}
