// Package durable keeps the usage of long windows beyond the life of the store
// that counts it.
//
// A [Store] wraps a store with shared counters. In the background it records in a
// [Ledger] the usage of fixed windows of a day or longer. If a charge begins a window
// that still runs according to the ledger, the wrapped store has lost the window: the
// Store then adds the ledger's usage to the new count.
//
// A loss can cost the usage charged since the ledger was last written: [Config.Every]
// plus the time of a write. If several processes charge a subject, the usage charged
// between the loss and the repair can be lost too. The repair follows shortly after the
// first charge; until then a subject may use its max again. Open holds are not recorded:
// after a loss their estimates stay charged. The Store does not notice if the wrapped
// store comes back with older counts.
package durable

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/lograte"
	"github.com/tierlimit/tierlimit/window"
)

// MinLength is how long a window is at least to be noted. A period always is.
const MinLength = 24 * time.Hour

// A Window is what a subject has used of one limit's window. Instants are on the
// store's clock, in milliseconds since the epoch.
type Window struct {
	Subject, Limit string
	Used           int64
	Max            int64 // the limit's max at its last charge; 0: not known, or unlimited
	End            int64 // when it ends
	At             int64 // when it was seen so
	// Corrected is when a hold that had charged the window was last settled, or 0: usage
	// seen up to then is obsolete. Given is the sum that settlements not yet written gave
	// back. A ledger lowers its usage by at most Given: a store that has lost the window
	// reports less than is used.
	Corrected int64
	Given     int64
}

// A Reset is usage that was forgiven.
type Reset struct {
	Subject string
	Limits  []string // none: all
	At      int64    // what was seen up to then does not count
}

// A Loss is a window that the store may have lost, and what the ledger has of it.
type Loss struct {
	Window
	Begun   int64 // the end of the window that was begun in its place; 0 if none is known
	BegunAt int64 // when that was
}

// A Ledger holds windows that outlive the store. It is safe for concurrent use by
// many processes.
type Ledger interface {
	// NoteWindows stores for each window the highest usage seen since the last correction,
	// and the earliest end, in whatever order windows arrive. A correction lowers the usage
	// by at most Given. A window that begins while the stored one runs is ignored.
	NoteWindows(ctx context.Context, list []Window) error
	// NoteResets forgets, also what is noted later and was seen before.
	NoteResets(ctx context.Context, list []Reset) error
	// ForgetEnded removes what ended before an instant.
	ForgetEnded(ctx context.Context, before int64) error
	// RunningWindows returns what subjects have used of windows that run at now.
	RunningWindows(ctx context.Context, subjects []string, now int64) ([]Window, error)
}

// A Restorer is a store to which usage can be given back.
type Restorer interface {
	tierlimit.Store
	// Restore makes losses of one subject good and returns how many there were. To
	// a window that was begun anew it adds what was used, once however often it is
	// asked; for others it sees to it that they have at least that.
	Restore(ctx context.Context, list []Loss) (int, error)
}

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	Every    time.Duration // how often the ledger is written; default 1s
	Batch    int           // most windows in one write, and subjects in one look; default 1,000
	Subjects int           // most subjects whose usage waits to be written, and that wait to be restored; default 131,072

	// Known reports whether a subject is a customer. Of others a bounded number is
	// noted and looked for at a time, those who use most first: names can be made up
	// without end. Default: everybody is.
	Known   func(subject string) bool
	Unknown int // most windows of unknown subjects in each write, and most of them in each look; default 200

	Logger *slog.Logger // told when the ledger is lost and found again, and of what is restored; default slog.Default
}

// A Store counts where the store it wraps does. It is safe for concurrent use.
type Store struct {
	inner  Restorer
	ledger Ledger
	cfg    Config
	notes  notes
	losses losses

	// What of them had no room.
	unseen, unwritten, forgotten lograte.Line

	// working is held while the ledger is read or written, so that Flush returns after
	// whatever was under way.
	working sync.Mutex

	stop     context.CancelFunc
	running  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

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
	s.losses.start(cfg.Subjects, cfg.Known)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.write(ctx) })
	s.running.Go(func() { s.restore(ctx) })
	return s
}

// Close makes good the losses that are known, writes what was noted, and stops. The
// wrapped store is not closed.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.stop()
		s.running.Wait()
		s.closeErr = s.Flush(ctx)
	})
	return s.closeErr
}

// Flush restores the losses that are known now and writes the usage that is noted now. The
// Store also does both in the background. Work that fails stays queued.
func (s *Store) Flush(ctx context.Context) error {
	_, err := s.restoreAll(ctx)
	return errors.Join(err, s.flush(ctx))
}

// Take implements tierlimit.Store.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	o, err := s.inner.Take(ctx, c)
	if err == nil {
		s.note(&c, &o)
	} else if c.Cost > 0 && errors.Is(err, tierlimit.ErrStoreUnavailable) {
		s.lookAgain(&c)
	}
	return o, err
}

// note remembers what o says of long windows. What was begun waits until it is known
// whether it was lost: what is noted of it must not hide what was used before.
func (s *Store) note(c *tierlimit.Charge, o *tierlimit.Outcome) {
	for i := range o.Counts {
		if !long(c.Ceilings.Spec(i)) {
			continue
		}
		count := &o.Counts[i]
		w := Window{Limit: c.Ceilings.Name(i), Used: count.Used, Max: max(c.Ceilings.Max(i), 0), End: count.End, At: o.At}
		switch {
		case count.Began:
			s.suspect(c.Subject, loss{Window: w, begun: count.End, seen: o.At})
		case count.End == 0: // nobody has used it, or it is lost
			s.suspect(c.Subject, loss{Window: w})
		case !s.losses.waits(c.Subject, &w):
			s.notes.add(c.Subject, w)
		}
	}
}

// lookAgain suspects what a charge touched of which nothing is known: it may have
// begun windows anew.
func (s *Store) lookAgain(c *tierlimit.Charge) {
	for i := range c.Ceilings.Len() {
		if long(c.Ceilings.Spec(i)) {
			s.suspect(c.Subject, loss{Window: Window{Limit: c.Ceilings.Name(i)}})
		}
	}
}

// long reports whether a window is noted.
func long(s window.Spec) bool {
	return s.Kind != window.Sliding && s.Kind != window.Concurrent && (s.Kind != window.Fixed || s.Length >= MinLength.Milliseconds())
}

// Reset implements tierlimit.Store. The ledger is told before it returns, or as soon
// as that can be.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	if err := s.inner.Reset(ctx, subject, limits...); err != nil {
		return err
	}
	// On the store's clock, and after the reset: what was seen in between is
	// forgotten too.
	o, err := s.inner.Take(ctx, tierlimit.Charge{Subject: subject, Ceilings: nothingLong})
	if err != nil {
		o.At = time.Now().UnixMilli() // the clocks are near each other, or nearly
	}
	r := Reset{Subject: subject, Limits: limits, At: o.At}
	s.losses.forget(&r)
	s.notes.forget(&r)
	if err := s.ledger.NoteResets(ctx, []Reset{r}); err != nil {
		s.notes.reset(r)
	}
	return nil
}

// nothingLong are ceilings that are read to learn the store's time.
var nothingLong = func() *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: "reset", Window: tierlimit.Window{Length: time.Second}})
	if err != nil {
		panic(err)
	}
	return c
}()

// Settle implements tierlimit.HoldStore.
func (s *Store) Settle(ctx context.Context, c tierlimit.Correction) (tierlimit.Settlement, error) {
	settled, err := s.inner.Settle(ctx, c)
	for _, l := range settled.Limits {
		if !l.Ended && l.Cost != l.Estimate && long(l.Spec) {
			w := Window{Limit: l.Limit, Used: l.Used, End: l.End, At: settled.At}
			if l.Cost < l.Estimate {
				w.Corrected, w.Given = settled.At, l.Estimate-l.Cost
			}
			if !s.losses.waits(c.Subject, &w) {
				s.notes.add(c.Subject, w)
			}
		}
	}
	return settled, err
}

// Renew implements tierlimit.HoldStore.
func (s *Store) Renew(ctx context.Context, r tierlimit.Renewal) (bool, error) {
	return s.inner.Renew(ctx, r)
}

// Holds implements tierlimit.HoldStore.
func (s *Store) Holds(ctx context.Context, subject string) ([]tierlimit.OpenHold, error) {
	return s.inner.Holds(ctx, subject)
}
