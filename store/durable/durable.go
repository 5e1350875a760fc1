// Package durable keeps the usage of long windows beyond the life of the store
// that counts it.
//
// A [Store] wraps one that shares its counters, and notes in a [Ledger], in the
// background, what was used of windows of a day or longer. A charge that begins
// such a window anew, although the ledger says that it is running, shows that the
// store has lost it: what the ledger has is put back on top.
//
// What can be lost is what was charged in the last [Config.Every] and the write
// that follows it. Until a loss is made good, which takes a moment after the first
// charge, a subject may use its max again. Windows that slide are not noted.
package durable

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// MinLength is how long a window is at least to be noted. A period always is.
const MinLength = 24 * time.Hour

// A Window is what a subject has used of one limit's window.
type Window struct {
	Subject, Limit string
	Used           int64
	End            int64 // when it ends: milliseconds since the epoch, on the store's clock
	At             int64 // when it was seen so, on the same clock
}

// A Credit is a charge that was given back.
type Credit struct {
	Subject, Limit string
	Cost           int64
	End            int64 // of the window
}

// A Reset is usage that was forgiven.
type Reset struct {
	Subject string
	Limits  []string // none: all
	At      int64    // what was seen up to then does not count
}

// A Ledger holds windows that outlive the store. It is safe for concurrent use by
// many processes.
type Ledger interface {
	// NoteWindows keeps of each window the most that was seen, whatever comes in
	// which order. One that ends later than the one that runs, as it seems begun
	// anew, leaves that as it is.
	NoteWindows(ctx context.Context, list []Window) error
	// NoteCredits takes charges off.
	NoteCredits(ctx context.Context, list []Credit) error
	// NoteResets forgets.
	NoteResets(ctx context.Context, list []Reset) error
	// ForgetEnded removes windows that ended before an instant, some at a time.
	ForgetEnded(ctx context.Context, before int64) error
	// RunningWindows returns what subjects have used of windows that run at now.
	RunningWindows(ctx context.Context, subjects []string, now int64) ([]Window, error)
}

// A Restorer is a store to which usage can be given back.
type Restorer interface {
	tierlimit.Store
	// Restore adds what was used of a subject's windows to what the store has, once
	// for each loss, whose instant on the store's clock is seen.
	Restore(ctx context.Context, subject string, seen int64, list []Window) error
}

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	Every    time.Duration // how often the ledger is written; default 1s
	Batch    int           // most windows in one write, and subjects in one look; default 1,000
	Subjects int           // most subjects whose usage waits to be written, and that wait to be restored; default 131,072

	// Known reports whether a subject is a customer. Of others a bounded number is
	// noted at a time, those who use most first: names can be made up without end.
	// Default: everybody is.
	Known   func(subject string) bool
	Unknown int // most windows of unknown subjects in each write; default 200

	Logger *slog.Logger // told when the ledger is lost and found again, and of what is restored; default slog.Default
}

// A Store counts where the store it wraps does. It is safe for concurrent use.
type Store struct {
	inner    Restorer
	ledger   Ledger
	cfg      Config
	notes    notes
	losses   losses
	stop     context.CancelFunc
	running  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

var _ tierlimit.Immediate = (*Store)(nil)

// New returns a Store that wraps inner; Close it.
func New(inner Restorer, ledger Ledger, cfg Config) *Store {
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	if cfg.Batch <= 0 {
		cfg.Batch = 1000
	}
	if cfg.Subjects <= 0 {
		cfg.Subjects = 1 << 17
	}
	if cfg.Known == nil {
		cfg.Known = func(string) bool { return true }
	}
	if cfg.Unknown <= 0 {
		cfg.Unknown = 200
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Store{inner: inner, ledger: ledger, cfg: cfg}
	s.notes.start(cfg.Subjects)
	s.losses.start(cfg.Subjects)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.write(ctx) })
	s.running.Go(func() { s.restore(ctx) })
	return s
}

// Close writes what was noted and stops. The wrapped store is not closed.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.stop()
		s.running.Wait()
		s.closeErr = s.flush(ctx)
	})
	return s.closeErr
}

// Take implements tierlimit.Store.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	o, err := s.inner.Take(ctx, c)
	if err == nil && o.Source != tierlimit.SourceLease {
		s.note(&c, &o)
	}
	return o, err
}

// TakeNow implements tierlimit.Immediate. What it serves was charged before, and
// noted then.
func (s *Store) TakeNow(c tierlimit.Charge) (o tierlimit.Outcome, ok bool) {
	if now, is := s.inner.(tierlimit.Immediate); is {
		return now.TakeNow(c)
	}
	return o, false
}

// note remembers what o says of long windows.
func (s *Store) note(c *tierlimit.Charge, o *tierlimit.Outcome) {
	for i := range o.Counts {
		if !long(&c.Ceilings[i]) {
			continue
		}
		count := &o.Counts[i]
		switch {
		case o.Allowed && c.Cost > 0:
			s.notes.add(c.Subject, Window{Limit: c.Ceilings[i].Name, Used: count.Used, End: count.End, At: o.At})
			if count.Began {
				s.losses.suspect(c.Subject, o.At)
			}
		case count.End == 0: // nobody has used it, or it is lost
			s.losses.suspect(c.Subject, o.At)
		}
	}
}

func long(c *tierlimit.Ceiling) bool {
	return !c.Sliding && (c.Window.Period != "" || c.Window.Length >= MinLength)
}

// Reset implements tierlimit.Store.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	if err := s.inner.Reset(ctx, subject, limits...); err != nil {
		return err
	}
	// On the store's clock, and after the reset: what is noted of a charge in
	// between is forgotten too.
	o, err := s.inner.Take(ctx, tierlimit.Charge{
		Subject: subject, Ceilings: []tierlimit.Ceiling{{Name: "reset", Window: tierlimit.Window{Length: time.Second}}},
	})
	if err != nil {
		o.At = time.Now().UnixMilli() // the clocks are near each other, or nearly
	}
	s.notes.forget(Reset{Subject: subject, Limits: limits, At: o.At})
	return nil
}

// Refund implements tierlimit.Store.
func (s *Store) Refund(ctx context.Context, r tierlimit.Refund) (bool, error) {
	done, err := s.inner.Refund(ctx, r)
	if done {
		for _, w := range r.Windows {
			if w.Length == 0 { // it does not slide
				s.notes.credit(Credit{Subject: r.Subject, Limit: w.Limit, Cost: r.Cost, End: w.End})
			}
		}
	}
	return done, err
}
