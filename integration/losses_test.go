package integration

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// What is mistaken for a loss, and what hides one: each was so once.

const quickly = 30 * time.Millisecond // how often these tests write the ledger

// flush returns once all stores have written what they noted and looked into what they
// suspect.
func flush(t *testing.T, stores ...*durable.Store) {
	t.Helper()
	for _, s := range stores {
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A clockClient is a client whose Redis believes the time that set gives it.
func clockClient(t *testing.T) (client *redis.Client, set func(time.Time)) {
	t.Helper()
	admin := newClient(t, redisServer.URL, 5*time.Second)
	key := fmt.Sprintf("clock-%d", time.Now().UnixNano())
	c := &setClock{sources: map[string]string{}, shas: map[string]string{}}
	for _, s := range []scripts.Script{scripts.Take, scripts.Reset, scripts.Hold, scripts.Settle, scripts.Renew, scripts.Open, scripts.Restore} {
		source := fmt.Sprintf(clockShim, key) + s.Source
		sum := sha1.Sum([]byte(source))
		c.sources[s.Source], c.shas[s.SHA] = source, hex.EncodeToString(sum[:])
	}
	client = newClient(t, redisServer.URL, 5*time.Second)
	client.AddHook(c)
	return client, func(to time.Time) { admin.Set(t.Context(), key, to.UnixMilli(), time.Hour) }
}

func wantUsed(t *testing.T, s tierlimit.Store, id string, want []int64, c ...tierlimit.Ceiling) {
	t.Helper()
	o := take(t, s, id, 0, c...)
	for i := range want {
		if o.Counts[i].Used != want[i] {
			t.Errorf("%s: used %d, want %d", c[i].Name, o.Counts[i].Used, want[i])
		}
	}
}

func TestTheFirstUseOfAnotherLimitIsNoLoss(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	s := newDurable(t, client, ledger, durable.Config{Every: quickly})
	exports := tierlimit.Ceiling{Name: "exports", Max: 100, Window: tierlimit.Window{Length: 24 * time.Hour}}
	for _, cost := range []int64{1, 0} { // to charge it, and only to look at it
		id := newSubject(t)
		take(t, s, id, 30, perMonth(1000))
		flush(t, s)
		for range 4 {
			take(t, s, id, cost, exports, perMonth(1000))
			flush(t, s)
		}
		wantUsed(t, s, id, []int64{4 * cost, 30 + 4*cost}, exports, perMonth(1000))
	}
}

func TestTheNextDayIsNoLoss(t *testing.T) {
	client, set := clockClient(t)
	s := newDurable(t, client, openCatalogue(t, newDatabase(t)), durable.Config{Every: quickly})
	id, day := newSubject(t), tierlimit.Ceiling{Name: "per_day", Max: 1000, Window: tierlimit.Window{Period: tierlimit.Day}}
	for i := 10; i < 14; i++ {
		set(time.Date(2027, 3, i, 12, 0, 0, 0, time.UTC))
		take(t, s, id, 100, day, perMonth(100_000))
		flush(t, s)
	}
	wantUsed(t, s, id, []int64{100, 400}, day, perMonth(100_000))
}

func TestAWindowThatWasShortenedWhileItWasFullIsNoLoss(t *testing.T) {
	client, set := clockClient(t)
	s := newDurable(t, client, openCatalogue(t, newDatabase(t)), durable.Config{Every: quickly})
	now := time.Date(2027, 3, 10, 12, 0, 0, 0, time.UTC)
	quota := func(p tierlimit.Period) tierlimit.Ceiling {
		return tierlimit.Ceiling{Name: "quota", Max: 100, Window: tierlimit.Window{Period: p}}
	}
	id := newSubject(t)
	set(now)
	take(t, s, id, 100, quota(tierlimit.Month))
	flush(t, s)
	set(now.Add(time.Hour))
	if o := take(t, s, id, 1, quota(tierlimit.Day)); o.Allowed {
		t.Fatalf("%+v", o)
	}
	flush(t, s)
	set(now.Add(24 * time.Hour))
	take(t, s, id, 1, quota(tierlimit.Day))
	flush(t, s)
	wantUsed(t, s, id, []int64{1}, quota(tierlimit.Day))
}

func TestALossWhoseFirstAnswerIsLostIsSeen(t *testing.T) {
	direct, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	between := newProxy(t, direct)
	s := newDurable(t, newClient(t, "redis://"+between.Addr, 300*time.Millisecond), ledger, durable.Config{Every: quickly})
	id := newSubject(t)
	take(t, s, id, 90, perDay(100), perMonth(100))
	flush(t, s)
	flushAll(t, direct)
	between.Replies(lost)
	if _, err := s.Take(t.Context(), charge(id, 1, perDay(100), perMonth(100))); err == nil {
		t.Fatal("answered")
	}
	between.Replies(nil)
	eventually(t, 3*time.Second, "restored", func() bool {
		o := take(t, s, id, 0, perDay(100), perMonth(100))
		return o.Counts[0].Used >= 90 && o.Counts[0].Used <= 91 && o.Counts[1].Used >= 90 && o.Counts[1].Used <= 91
	})
}

func TestCloseMakesKnownLossesGood(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	s := newDurable(t, client, ledger, durable.Config{Every: quickly})
	other := newDurable(t, client, ledger, durable.Config{Every: quickly})
	id := newSubject(t)
	take(t, s, id, 90, perDay(100))
	flush(t, s)
	flushAll(t, client)
	take(t, s, id, 1, perDay(100))
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	take(t, other, id, 1, perDay(100))
	wantUsed(t, other, id, []int64{92}, perDay(100))
}

func TestAResetBeforeTheFirstWriteHolds(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	for _, limits := range [][]string{nil, {"per_day", "per_month"}} {
		s := newDurable(t, client, ledger, durable.Config{Every: 200 * time.Millisecond})
		id := newSubject(t)
		take(t, s, id, 90, perDay(100), perMonth(100))
		if err := s.Reset(t.Context(), id, limits...); err != nil {
			t.Fatal(err)
		}
		flush(t, s)
		flushAll(t, client)
		take(t, s, id, 2, perDay(100), perMonth(100))
		flush(t, s)
		wantUsed(t, s, id, []int64{2, 2}, perDay(100), perMonth(100))
	}
}

func TestAResetHoldsWhenALossIsAtHand(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	for name, lose := range map[string]func(s *durable.Store, id string){
		"reset, then lost": func(s *durable.Store, id string) {
			if err := s.Reset(t.Context(), id); err != nil {
				t.Error(err)
			}
			flushAll(t, client)
		},
		"lost, then reset": func(s *durable.Store, id string) {
			client.Del(t.Context(), redisstore.Key(id))
			if err := s.Reset(t.Context(), id); err != nil {
				t.Error(err)
			}
		},
		"lost, charged, then reset": func(s *durable.Store, id string) {
			client.Del(t.Context(), redisstore.Key(id))
			take(t, s, id, 1, perDay(100))
			if err := s.Reset(t.Context(), id); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newDurable(t, client, ledger, durable.Config{Every: quickly})
			id := newSubject(t)
			take(t, s, id, 90, perDay(100))
			flush(t, s)
			lose(s, id)
			take(t, s, id, 2, perDay(100))
			flush(t, s)
			wantUsed(t, s, id, []int64{2}, perDay(100))
		})
	}
}

func TestWhatIsChargedAfterAResetIsNoted(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	s := newDurable(t, client, ledger, durable.Config{Every: 200 * time.Millisecond})
	id := newSubject(t)
	take(t, s, id, 1, perMonth(100))
	flush(t, s)
	take(t, s, id, 60, perMonth(100))
	if err := s.Reset(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	take(t, s, id, 50, perMonth(100))
	eventually(t, 2*time.Second, "noted", func() bool {
		list, err := ledger.RunningWindows(t.Context(), []string{id}, time.Now().UnixMilli())
		return err == nil && len(list) == 1 && list[0].Used == 50
	})
}

func TestChargesThatWaitAreNotOverwrittenByALoss(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), &flakyLedger{Ledger: openCatalogue(t, newDatabase(t))}
	s := newDurable(t, client, ledger, durable.Config{Every: quickly})
	id := newSubject(t)
	ledger.down.Store(true)
	for range 9 {
		take(t, s, id, 10, perDay(100), perMonth(100))
	}
	_ = s.Flush(t.Context())         // the ledger is away
	time.Sleep(2 * time.Millisecond) // instants are whole milliseconds: what follows is later
	flushAll(t, client)
	take(t, s, id, 1, perDay(100), perMonth(100))
	_ = s.Flush(t.Context())
	ledger.down.Store(false)
	eventually(t, 3*time.Second, "restored", func() bool {
		o := take(t, s, id, 0, perDay(100), perMonth(100))
		return o.Counts[0].Used == 91 && o.Counts[1].Used == 91
	})
}

func TestARedisWhoseClockIsBehindIsRestored(t *testing.T) {
	client, set := clockClient(t)
	s := newDurable(t, client, openCatalogue(t, newDatabase(t)), durable.Config{Every: quickly})
	id, now := newSubject(t), time.Now()
	set(now)
	take(t, s, id, 90, perDay(100), perMonth(100))
	flush(t, s)
	flushAll(t, client)
	set(now.Add(-2 * time.Second))
	take(t, s, id, 1, perDay(100), perMonth(100))
	eventually(t, 2*time.Second, "restored", func() bool { // at least what was known
		o := take(t, s, id, 0, perDay(100), perMonth(100))
		return o.Counts[0].Used >= 90 && o.Counts[0].Used <= 91 && o.Counts[1].Used >= 90 && o.Counts[1].Used <= 91
	})
}

func TestDeniedChargesAndMadeUpNamesAreNoFloodOfLooks(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), &flakyLedger{Ledger: openCatalogue(t, newDatabase(t))}
	s := newDurable(t, client, ledger, durable.Config{Known: func(string) bool { return false }})
	id := newSubject(t)
	for range 500 {
		take(t, s, id, 1, perDay(0)) // always denied: the window is never there
	}
	flush(t, s)
	if n := ledger.looks.Load(); n > 3 {
		t.Errorf("%d looks for one subject", n)
	}
	before := ledger.subjects.Load()
	began := time.Now()
	for i := range 2000 {
		take(t, s, fmt.Sprint(id, "-", i), 1, perDay(10))
	}
	rounds := int64(time.Since(began)/(20*time.Millisecond)) + 2
	if n := ledger.subjects.Load() - before; n > 200*rounds {
		t.Errorf("%d made-up subjects were looked for in %d rounds", n, rounds)
	}
}

func TestMadeUpNamesTakeNoCustomersPlace(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), &flakyLedger{Ledger: openCatalogue(t, newDatabase(t))}
	id := newSubject(t)
	s := newDurable(t, client, ledger, durable.Config{Every: quickly, Subjects: 1024, Known: func(subject string) bool { return subject == id }})
	take(t, s, id, 90, perDay(100))
	flush(t, s)
	flushAll(t, client)
	ledger.down.Store(true)
	for i := range 2000 {
		take(t, s, fmt.Sprint(id, "-", i), 1, perDay(10))
	}
	take(t, s, id, 1, perDay(100))
	ledger.down.Store(false)
	eventually(t, 3*time.Second, "restored", func() bool { return take(t, s, id, 0, perDay(100)).Counts[0].Used == 91 })
}

func TestWhatIsNoLossIsNotLoggedAndWhatCannotBeRestoredIs(t *testing.T) {
	client, ledger := newClient(t, redisServer.URL, 5*time.Second), openCatalogue(t, newDatabase(t))
	var log lockedLog
	cfg := durable.Config{Every: quickly, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s := durable.New(newStore(t, client), ledger, cfg)
	id := newSubject(t)
	take(t, s, id, 90, perDay(100))
	flush(t, s)
	if err := s.Reset(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	take(t, s, id, 1, perDay(100))
	flush(t, s)
	if err := s.Close(t.Context()); err != nil || log.String() != "" {
		t.Errorf("%v, and the log says %q", err, log.String())
	}

	inner := &noRestorer{Restorer: newStore(t, client)}
	s = durable.New(inner, ledger, cfg)
	id = newSubject(t)
	take(t, s, id, 90, perDay(100))
	flush(t, s)
	flushAll(t, client)
	take(t, s, id, 1, perDay(100))
	eventually(t, 3*time.Second, "tried again", func() bool { return inner.tries.Load() > 2 })
	if n := strings.Count(log.String(), "NOPERM"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Close(ctx); err == nil {
		t.Error("closed as if nothing were left")
	}
}

type noRestorer struct {
	durable.Restorer
	tries atomic.Int64
}

func (n *noRestorer) Restore(context.Context, []durable.Loss) (int, error) {
	n.tries.Add(1)
	return 0, errors.New("NOPERM")
}

type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Notes come late, of windows that have ended and of usage that was forgiven.
func TestLateNotesChangeNothing(t *testing.T) {
	ledger := openCatalogue(t, newDatabase(t))
	note := func(w durable.Window) {
		t.Helper()
		w.Limit = "per_day"
		if err := ledger.NoteWindows(t.Context(), []durable.Window{w}); err != nil {
			t.Fatal(err)
		}
	}
	id := newSubject(t)
	note(durable.Window{Subject: id, Used: 400, End: 20_000, At: 10_001})
	note(durable.Window{Subject: id, Used: 500, End: 10_000, At: 9_990})
	if list, err := ledger.RunningWindows(t.Context(), []string{id}, 10_002); err != nil || len(list) != 1 || list[0].Used != 400 {
		t.Errorf("the window before came late: %+v, %v", list, err)
	}
	for _, limits := range [][]string{nil, {"per_day"}} {
		id := newSubject(t)
		if err := ledger.NoteResets(t.Context(), []durable.Reset{{Subject: id, Limits: limits, At: 150}}); err != nil {
			t.Fatal(err)
		}
		if err := ledger.ForgetEnded(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		note(durable.Window{Subject: id, Used: 30, End: 20_000, At: 100})
		if list, err := ledger.RunningWindows(t.Context(), []string{id}, 200); err != nil || len(list) != 0 {
			t.Errorf("from before a reset: %+v, %v", list, err)
		}
		note(durable.Window{Subject: id, Used: 3, End: 20_000, At: 151})
		if list, err := ledger.RunningWindows(t.Context(), []string{id}, 200); err != nil || len(list) != 1 || list[0].Used != 3 {
			t.Errorf("from after a reset: %+v, %v", list, err)
		}
	}
}

// A restore whose answer was lost is asked for again.
func TestARepeatedRestoreAddsOnce(t *testing.T) {
	client := newClient(t, redisServer.URL, 5*time.Second)
	s, id := newStore(t, client), newSubject(t)
	was := take(t, s, id, 30, perMonth(1000))
	if err := client.Del(t.Context(), redisstore.Key(id)).Err(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond)
	now := take(t, s, id, 7, perMonth(1000))
	loss := durable.Loss{
		Window: durable.Window{Subject: id, Limit: "per_month", Used: 30, End: was.Counts[0].End, At: was.At},
		Begun:  now.Counts[0].End, BegunAt: now.At,
	}
	for i, want := range []int{1, 0, 0} {
		time.Sleep(2 * time.Millisecond)
		if n, err := s.Restore(t.Context(), []durable.Loss{loss}); err != nil || n != want {
			t.Errorf("asked %d times: %d, %v; want %d", i+1, n, err, want)
		}
	}
	wantUsed(t, s, id, []int64{37}, perMonth(1000))
}
