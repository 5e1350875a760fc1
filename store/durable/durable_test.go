package durable_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// counters are a store that can lose its memory.
type counters struct {
	*memstore.Store
	mu       sync.Mutex
	restored []durable.Loss // guarded by mu: all that was asked for
	answers  int            // guarded by mu: how many of them it says it changed; -1: all
	err      error          // guarded by mu

	replyLost bool // guarded by mu: whether the reply to the next charge, which is made, is lost
}

func (c *counters) Restore(_ context.Context, list []durable.Loss) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restored = append(c.restored, list...)
	if c.answers >= 0 {
		return c.answers, c.err
	}
	return len(list), c.err
}

// losses returns all that was to be restored.
func (c *counters) losses() []durable.Loss {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.restored)
}

// Take is the store's, but for the next reply if that is to be lost.
func (c *counters) Take(ctx context.Context, charge tierlimit.Charge) (tierlimit.Outcome, error) {
	o, err := c.Store.Take(ctx, charge)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replyLost {
		c.replyLost = false
		return tierlimit.Outcome{}, tierlimit.ErrStoreUnavailable
	}
	return o, err
}

func (c *counters) lose() { c.Store = memstore.New(memstore.Config{}) }

// A ledger keeps what it is told, as it is told.
type ledger struct {
	mu        sync.Mutex
	down      error            // guarded by mu
	windows   []durable.Window // guarded by mu: noted, the latest of each last
	resets    []durable.Reset  // guarded by mu
	order     []string         // guarded by mu: what was written, in order
	forgotten []int64          // guarded by mu
	looks     int              // guarded by mu
	resetting func()           // guarded by mu: the next write of resets calls it once, without mu
	during    func() error     // guarded by mu: the next look calls it once, without mu, and returns its error
}

func (l *ledger) note(what string) error {
	if l.down == nil {
		l.order = append(l.order, what)
	}
	return l.down
}

func (l *ledger) NoteWindows(_ context.Context, list []durable.Window) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.note("windows"); err != nil {
		return err
	}
	for _, w := range list {
		l.windows = slices.DeleteFunc(l.windows, func(old durable.Window) bool { return old.Subject == w.Subject && old.Limit == w.Limit })
		l.windows = append(l.windows, w)
	}
	return nil
}

func (l *ledger) NoteResets(_ context.Context, list []durable.Reset) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if resetting := l.resetting; resetting != nil && l.down == nil {
		l.resetting = nil
		l.mu.Unlock()
		resetting()
		l.mu.Lock()
	}
	if err := l.note("resets"); err != nil {
		return err
	}
	l.resets = append(l.resets, list...)
	for _, r := range list {
		l.windows = slices.DeleteFunc(l.windows, func(w durable.Window) bool {
			return w.Subject == r.Subject && w.At <= r.At && (len(r.Limits) == 0 || slices.Contains(r.Limits, w.Limit))
		})
	}
	return nil
}

func (l *ledger) ForgetEnded(_ context.Context, before int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgotten = append(l.forgotten, before)
	return l.down
}

func (l *ledger) RunningWindows(_ context.Context, subjects []string, now int64) (list []durable.Window, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	if during := l.during; during != nil {
		l.during = nil
		l.mu.Unlock()
		err := during()
		l.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	for _, w := range l.windows {
		if slices.Contains(subjects, w.Subject) && w.End > now {
			list = append(list, w)
		}
	}
	return list, l.down
}

func (l *ledger) looked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looks
}

func (l *ledger) set(down error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

// used returns what the ledger has of a window, -1 for none.
func (l *ledger) used(subject, limit string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.windows {
		if w.Subject == subject && w.Limit == limit {
			return w.Used
		}
	}
	return -1
}

// A lockedLog is written by the store's goroutines and read by the test's.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A field is a durable store, and all around it.
type field struct {
	*testing.T
	store  *durable.Store
	inner  *counters
	ledger *ledger
	log    *lockedLog
}

func bubble(t *testing.T, cfg durable.Config, run func(f *field)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &field{T: t, inner: &counters{answers: -1}, ledger: &ledger{}, log: &lockedLog{}}
		f.inner.lose()
		cfg.Logger = slog.New(slog.NewTextHandler(f.log, nil))
		f.store = durable.New(f.inner, f.ledger, cfg)
		defer f.store.Close(context.Background())
		run(f)
	})
}

func perDay() tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_day", Max: 1000, Window: tierlimit.Window{Length: 24 * time.Hour}}
}

func perMonth() tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_month", Max: 1000, Window: tierlimit.Window{Period: tierlimit.Month}}
}

func (f *field) take(subject string, cost int64, list ...tierlimit.Ceiling) tierlimit.Outcome {
	f.Helper()
	o, err := f.store.Take(context.Background(), storetest.Charge(subject, cost, list...))
	if err != nil {
		f.Fatal(err)
	}
	return o
}

func (f *field) flush() {
	f.Helper()
	if err := f.store.Flush(context.Background()); err != nil {
		f.Fatal(err)
	}
}

func (f *field) wantUsed(subject, limit string, want int64) {
	f.Helper()
	if got := f.ledger.used(subject, limit); got != want {
		f.Errorf("the ledger has %d of %s's %s, want %d", got, subject, limit, want)
	}
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		inner := &counters{answers: -1}
		now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
		inner.Store = memstore.New(memstore.Config{Now: func() time.Time { return now }})
		s := durable.New(inner, &ledger{}, durable.Config{Logger: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() { s.Close(context.Background()) })
		return storetest.Harness{Store: s, Now: func() time.Time { return now }, Advance: func(d time.Duration) { now = now.Add(d) }}
	})
}

func TestLongWindowsAreWrittenEverySecond(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		hour := tierlimit.Ceiling{Name: "per_hour", Max: 1000, Window: tierlimit.Window{Length: 24*time.Hour - time.Millisecond}}
		slides := tierlimit.Ceiling{Name: "slides", Max: 1000, Window: tierlimit.Window{Length: 48 * time.Hour}, Sliding: true}
		f.take("acct_42", 5, perDay(), hour, perMonth(), slides)
		f.wantUsed("acct_42", "per_day", -1)
		time.Sleep(1100 * time.Millisecond)
		f.wantUsed("acct_42", "per_day", 5)
		f.wantUsed("acct_42", "per_month", 5)
		f.wantUsed("acct_42", "per_hour", -1)
		f.wantUsed("acct_42", "slides", -1)
		f.take("acct_42", 2, perDay(), hour, perMonth(), slides)
		f.take("acct_42", 0, perDay(), hour, perMonth(), slides)
		time.Sleep(1100 * time.Millisecond)
		f.wantUsed("acct_42", "per_day", 7)
		if f.log.String() != "" || len(f.inner.losses()) > 0 {
			f.Errorf("restored %+v, and told %s", f.inner.losses(), f.log)
		}
	})
}

func TestALostWindowIsRestoredAndNoOther(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		was := f.take("acct_42", 30, perDay(), perMonth())
		f.flush()
		f.inner.lose()
		time.Sleep(time.Second)
		now := f.take("acct_42", 1, perDay())
		f.take("acct_43", 1, perDay())
		f.flush()
		if len(f.inner.losses()) != 1 {
			f.Fatalf("restored %+v", f.inner.losses())
		}
		l := f.inner.losses()[0]
		if l.Subject != "acct_42" || l.Limit != "per_day" || l.Used != 30 || l.End != was.Counts[0].End || l.At != was.At ||
			l.Begun != now.Counts[0].End || l.BegunAt != now.At {
			f.Errorf("restored %+v of %+v, begun as %+v", l, was, now)
		}
		if n := strings.Count(f.log.String(), "had lost long windows"); n != 0 {
			f.Errorf("told %d times: %s", n, f.log) // a flush tells its caller
		}
	})
}

// In the background a loss is restored within a fraction of a second, and told once.
func TestALossIsRestoredInTheBackground(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		f.take("acct_42", 30, perDay())
		f.flush()
		f.inner.lose()
		time.Sleep(time.Second)
		f.take("acct_42", 1, perDay())
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if len(f.inner.losses()) != 1 || strings.Count(f.log.String(), "had lost long windows") != 1 {
			f.Errorf("restored %+v, and told %s", f.inner.losses(), f.log)
		}
	})
}

// A look finds a loss too; that there was none is remembered for a minute.
func TestALookAtAWindowThatIsNotThereLooksIntoTheLedgerOnceAMinute(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		for range 500 {
			f.take("acct_42", 0, perDay())
		}
		f.flush()
		looks := f.ledger.looked()
		for range 500 {
			f.take("acct_42", 0, perDay())
		}
		time.Sleep(50 * time.Second)
		f.take("acct_42", 0, perDay())
		f.flush()
		if f.ledger.looked() > looks+1 { // a flush always looks once
			f.Errorf("%d looks within a minute", f.ledger.looked()-looks)
		}
		time.Sleep(11 * time.Second)
		before := f.ledger.looked()
		f.take("acct_42", 0, perDay())
		time.Sleep(100 * time.Millisecond)
		if f.ledger.looked() != before+1 {
			f.Errorf("%d looks after a minute", f.ledger.looked()-before)
		}
	})
}

// What was charged before a reset and waits to be written stays forgiven.
func TestAResetForgetsWhatWaitsToBeWritten(t *testing.T) {
	for _, limits := range [][]string{nil, {"per_day"}} {
		bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
			f.take("acct_42", 1, perDay(), perMonth())
			f.flush() // it is no loss
			f.take("acct_42", 8, perDay(), perMonth())
			if err := f.store.Reset(context.Background(), "acct_42", limits...); err != nil {
				f.Fatal(err)
			}
			f.flush()
			f.wantUsed("acct_42", "per_day", -1)
			if limits == nil {
				f.wantUsed("acct_42", "per_month", -1)
			} else {
				f.wantUsed("acct_42", "per_month", 9)
			}
			if len(f.ledger.resets) != 1 || f.ledger.resets[0].Subject != "acct_42" || !slices.Equal(f.ledger.resets[0].Limits, limits) || f.ledger.resets[0].At < time.Now().Add(-time.Second).UnixMilli() {
				f.Errorf("noted %+v", f.ledger.resets)
			}
		})
	}
}

// A reset that the ledger was not told waits, and comes before what was charged since.
func TestAResetWaitsForTheLedger(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.take("acct_42", 1, perDay())
		f.flush()
		f.ledger.set(errors.New("away"))
		if err := f.store.Reset(context.Background(), "acct_42"); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Second)
		f.take("acct_42", 2, perDay())
		if err := f.store.Flush(context.Background()); err == nil {
			f.Error("written to a ledger that is away")
		}
		f.ledger.set(nil)
		f.ledger.order = nil
		f.flush()
		if len(f.ledger.resets) != 1 || len(f.ledger.order) < 2 || f.ledger.order[0] != "resets" {
			f.Errorf("noted %+v in the order %v", f.ledger.resets, f.ledger.order)
		}
		f.wantUsed("acct_42", "per_day", 2)
	})
}

// A settlement of a long window is recorded, even if notes of the window have been written or
// are being written.
func TestASettlementIsNoted(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		slides := tierlimit.Ceiling{Name: "slides", Max: 1000, Window: tierlimit.Window{Length: 48 * time.Hour}, Sliding: true}
		short := tierlimit.Ceiling{Name: "short", Max: 1000, Window: tierlimit.Window{Length: time.Hour}}
		c := storetest.Charge("acct_42", 5, perDay(), perMonth(), short, slides)
		hold := func() *tierlimit.Hold {
			c.Hold = &tierlimit.Hold{For: time.Hour}
			c.Hold.ID[0] = 1
			if o, err := f.store.Take(context.Background(), c); err != nil || !o.Allowed {
				f.Fatalf("%+v, %v", o, err)
			}
			return c.Hold
		}
		settle := func(cost int64) {
			if s, err := f.store.Settle(context.Background(), tierlimit.Correction{Subject: "acct_42", ID: hold().ID, Cost: cost}); err != nil || !s.Found {
				f.Fatalf("%+v, %v", s, err)
			}
		}
		f.take("acct_42", 10, perDay(), perMonth(), short, slides)
		f.flush()
		time.Sleep(time.Second)
		settle(2) // at once: no note of the hold is written yet
		f.flush()
		f.wantUsed("acct_42", "per_day", 12)
		f.wantUsed("acct_42", "per_month", 12)
		time.Sleep(time.Second)
		hold()
		f.flush()
		f.wantUsed("acct_42", "per_day", 17)
		time.Sleep(time.Second)
		if _, err := f.store.Settle(context.Background(), tierlimit.Correction{Subject: "acct_42", ID: c.Hold.ID}); err != nil {
			f.Fatal(err)
		}
		f.flush()
		f.wantUsed("acct_42", "per_day", 12)
		settle(100)
		f.flush()
		f.wantUsed("acct_42", "per_day", 112)
		for _, w := range f.ledger.windows {
			if w.Limit != "per_day" && w.Limit != "per_month" {
				f.Errorf("noted: %+v", w)
			}
		}
	})
}

func TestWhatCannotBeWrittenWaits(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		f.take("acct_42", 5, perDay())
		f.flush()
		f.ledger.set(errors.New("away"))
		f.take("acct_42", 3, perDay())
		time.Sleep(10 * time.Second)
		f.take("acct_42", 1, perDay())
		time.Sleep(10 * time.Second)
		f.wantUsed("acct_42", "per_day", 5)
		f.ledger.set(nil)
		time.Sleep(1100 * time.Millisecond)
		f.wantUsed("acct_42", "per_day", 9)
		for line, want := range map[string]int{"cannot be written": 1, "is written again": 1} {
			if n := strings.Count(f.log.String(), line); n != want {
				f.Errorf("told %q %d times: %s", line, n, f.log)
			}
		}
	})
}

// What ended is forgotten a day late, and what runs is not: the sign of that was a way to
// delete all daily windows every minute.
func TestOnlyWhatEndedADayAgoIsForgotten(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		time.Sleep(3*time.Minute + 30*time.Second)
		f.ledger.mu.Lock()
		defer f.ledger.mu.Unlock()
		if n := len(f.ledger.forgotten); n < 2 || n > 3 {
			f.Errorf("forgot %d times in three and a half minutes", n)
		}
		for _, before := range f.ledger.forgotten {
			if age := time.Since(time.UnixMilli(before)); age < 24*time.Hour || age > 24*time.Hour+4*time.Minute {
				f.Errorf("forgot what ended %v ago", age)
			}
		}
	})
}

// Names can be made up: of subjects that nobody knows only the heaviest are written.
func TestOfUnknownSubjectsTheHeaviestAreWritten(t *testing.T) {
	cfg := durable.Config{Every: time.Hour, Unknown: 2, Known: func(subject string) bool { return strings.HasPrefix(subject, "acct_") }}
	bubble(t, cfg, func(f *field) {
		names := []string{"made_up_1", "made_up_2", "made_up_3", "made_up_4", "acct_1", "acct_2"}
		for range 8 { // until none of them is suspected any more
			for _, name := range names {
				f.take(name, 0, perDay())
			}
			f.flush()
		}
		for i, name := range names {
			f.take(name, int64(10+i), perDay())
			f.take(name, 1, perDay())
		}
		for range 4 {
			f.flush()
		}
		f.wantUsed("acct_1", "per_day", 15)
		f.wantUsed("acct_2", "per_day", 16)
		known := 0
		for i := 1; i <= 4; i++ {
			if f.ledger.used(fmt.Sprint("made_up_", i), "per_day") >= 0 {
				known++
			}
		}
		if known == 0 {
			f.Error("none of the unknown was written")
		}
	})
}

func TestCloseWritesWhatWaits(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.take("acct_42", 5, perDay())
		for range 2 {
			if err := f.store.Close(context.Background()); err != nil {
				f.Fatal(err)
			}
		}
		f.wantUsed("acct_42", "per_day", 5)
	})
}

// A store that cannot restore is asked again, and told of once.
func TestALossThatCannotBeRestoredWaits(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		f.take("acct_42", 30, perDay())
		f.flush()
		f.inner.lose()
		f.inner.mu.Lock()
		f.inner.answers, f.inner.err = 0, errors.New("NOPERM")
		f.inner.mu.Unlock()
		time.Sleep(time.Second)
		f.take("acct_42", 1, perDay())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		tries := len(f.inner.losses())
		if tries < 3 || tries > 8 || strings.Count(f.log.String(), "NOPERM") != 1 {
			f.Errorf("tried %d times in three seconds, and told %s", tries, f.log)
		}
		f.inner.mu.Lock()
		f.inner.answers, f.inner.err = -1, nil
		f.inner.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(f.inner.losses()) != tries+1 {
			f.Errorf("tried %d times once it could", len(f.inner.losses())-tries)
		}
	})
}

// A charge whose reply is lost may have begun a window anew: it is looked into.
func TestAChargeOfWhichNothingIsKnownIsLookedInto(t *testing.T) {
	bubble(t, durable.Config{}, func(f *field) {
		f.take("acct_42", 30, perDay())
		f.flush()
		f.inner.lose()
		full := memstore.New(memstore.Config{MaxSubjects: 1})
		if _, err := full.Take(context.Background(), storetest.Charge("somebody", 1, perDay())); err != nil {
			f.Fatal(err)
		}
		f.inner.Store = full // answers that it is unavailable
		time.Sleep(time.Second)
		if _, err := f.store.Take(context.Background(), storetest.Charge("acct_42", 1, perDay())); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
			f.Fatalf("got %v", err)
		}
		f.flush()
		if len(f.inner.losses()) != 1 || f.inner.losses()[0].Used != 30 || f.inner.losses()[0].Begun != 0 {
			f.Errorf("restored %+v", f.inner.losses())
		}
	})
}

// What is charged while a loss is looked into must not hide what was used before it.
func TestChargesDoNotHideALossThatIsLookedInto(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.take("acct_42", 30, perDay())
		f.flush()
		f.inner.lose()
		time.Sleep(time.Second)
		f.take("acct_42", 1, perDay())
		f.take("acct_42", 1, perDay())
		f.flush()
		if losses := f.inner.losses(); len(losses) != 1 || losses[0].Used != 30 {
			f.Errorf("restored %+v", losses)
		}
		f.wantUsed("acct_42", "per_day", 30)
	})
}

// A window that was lost again while the ledger was looked into, without success, forgot
// what the first look was about.
func TestALossDuringALookThatFailsForgetsNothing(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.take("acct_42", 30, perDay())
		f.ledger.during = func() error {
			f.inner.lose()
			time.Sleep(time.Second)
			f.take("acct_42", 1, perDay())
			return errors.New("the ledger is away")
		}
		if err := f.store.Flush(context.Background()); err == nil {
			f.Fatal("the ledger was not asked: the test shows nothing")
		}
		f.flush()
		if losses := f.inner.losses(); len(losses) != 1 || losses[0].Used != 30 || losses[0].Begun == 0 {
			f.Errorf("restored %+v, want what was used before the loss", losses)
		}
		f.wantUsed("acct_42", "per_day", 30)
	})
}

// What was seen of a calendar window during a look took the place of the usage before the loss, which
// was noted and not written yet: both end at the same instant.
func TestAReadDuringALookDoesNotHideWhatWasLost(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.ledger.set(errors.New("the ledger is away"))
		f.take("acct_42", 90, perMonth())
		time.Sleep(time.Second)
		f.inner.lose()
		f.take("acct_42", 1, perMonth())
		if err := f.store.Reset(context.Background(), "acct_9"); err != nil { // waits to be written
			f.Fatal(err)
		}
		time.Sleep(time.Second)
		read := false
		f.ledger.mu.Lock()
		f.ledger.resetting = func() {
			read = true
			f.take("acct_42", 0, perMonth())
		}
		f.ledger.mu.Unlock()
		f.ledger.set(nil)
		f.flush()
		if losses := f.inner.losses(); !read || len(losses) != 1 || losses[0].Used != 90 {
			f.Errorf("restored %+v, want the 90 from before the loss", losses)
		}
	})
}

// The usage of a window was forgotten if the reply to its first charge was lost, the ledger was
// away, and the window was lost then.
func TestALossAfterAReplyThatWasLostForgetsNothing(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		f.ledger.set(errors.New("the ledger is away"))
		f.inner.mu.Lock()
		f.inner.replyLost = true
		f.inner.mu.Unlock()
		if _, err := f.store.Take(context.Background(), storetest.Charge("acct_42", 1, perDay())); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		f.take("acct_42", 29, perDay())
		time.Sleep(time.Second)
		f.inner.lose()
		f.take("acct_42", 1, perDay())
		f.ledger.set(nil)
		f.flush()
		if losses := f.inner.losses(); len(losses) != 1 || losses[0].Used != 30 {
			t.Errorf("restored %+v, want the 30 from before the loss", losses)
		}
	})
}

// What another process has noted since a window was begun anew is in it already.
func TestWhatWasNotedSinceALossIsNotAddedAgain(t *testing.T) {
	bubble(t, durable.Config{Every: time.Hour}, func(f *field) {
		now := f.take("acct_42", 1, perDay())
		if err := f.ledger.NoteWindows(context.Background(), []durable.Window{
			{Subject: "acct_42", Limit: "per_day", Used: 31, End: now.Counts[0].End, At: now.At + 5},
		}); err != nil {
			f.Fatal(err)
		}
		f.flush()
		if losses := f.inner.losses(); len(losses) != 1 || losses[0].Begun != 0 || losses[0].BegunAt != 0 {
			f.Errorf("restored %+v", losses)
		}
	})
}
