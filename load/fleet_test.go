package load_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// A board is a load.Board in memory, with a clock of its own as Redis has one.
type board struct {
	mu      sync.Mutex
	ahead   time.Duration // of the test's clock
	texts   map[string]string
	expires map[string]time.Time
}

func newBoard() *board {
	return &board{ahead: -time.Hour, texts: make(map[string]string), expires: make(map[string]time.Time)}
}

func (b *board) now() time.Time { return time.Now().Add(b.ahead) }

func (b *board) put(name, text string, keep time.Duration) {
	b.texts[name], b.expires[name] = text, b.now().Add(keep)
}

func (b *board) do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, ends := range b.expires {
		if !ends.After(b.now()) {
			delete(b.texts, name)
			delete(b.expires, name)
		}
	}
	f()
}

// A line is one replica's way to the board: a call takes there and back.
type line struct {
	board *board

	mu          sync.Mutex
	there, back time.Duration // at most
	cut         bool
	readOnly    bool
	stopped     time.Duration // before the next Replace arrives, as if the process had been stopped
	servesFrom  time.Time     // when it was last continued
}

func (l *line) set(f func(l *line)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// serves reports whether the replica is not stopped, and has looked at the board since.
func (l *line) serves() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.servesFrom) > 500*time.Millisecond
}

var (
	errCut      = errors.New("the line is cut")
	errReadOnly = errors.New("the board takes nothing")
)

func (l *line) call(ctx context.Context, write bool, f func()) error {
	l.mu.Lock()
	there, back, cut, readOnly := l.there, l.back, l.cut, l.readOnly
	l.mu.Unlock()
	if cut {
		<-ctx.Done()
		return errCut
	}
	time.Sleep(rand.N(there + 1))
	if write && readOnly {
		return errReadOnly
	}
	l.board.do(f)
	time.Sleep(rand.N(back + 1))
	return nil
}

func (l *line) Publish(ctx context.Context, name, text string, keep time.Duration) error {
	return l.call(ctx, true, func() { l.board.put(name, text, keep) })
}

func (l *line) Replace(ctx context.Context, name, previous, text string, keep time.Duration) (won bool, err error) {
	l.mu.Lock()
	stopped := l.stopped
	if stopped > 0 {
		l.stopped, l.servesFrom = 0, time.Now().Add(stopped)
	}
	l.mu.Unlock()
	time.Sleep(stopped)
	err = l.call(ctx, true, func() {
		if won = l.board.texts[name] == previous; won {
			l.board.put(name, text, keep)
		}
	})
	return won, err
}

func (l *line) Notices(ctx context.Context) (all map[string]load.Notice, err error) {
	err = l.call(ctx, false, func() {
		all = make(map[string]load.Notice)
		for name, text := range l.board.texts {
			all[name] = load.Notice{Text: text, Left: l.board.expires[name].Sub(l.board.now()).Truncate(time.Millisecond)}
		}
	})
	return all, err
}

// A member is one replica of a simulated fleet.
type member struct {
	*load.Controller
	line  *line
	meter *script
}

// longestTrip is the longest round trip of a member that is not slowed down.
const longestTrip = 20 * time.Millisecond

// newFleet starts replicas whose clocks differ by seconds. What they are told counts, and their
// own CPU does not.
func newFleet(t *testing.T, b *board, n int) []*member {
	t.Helper()
	members := make([]*member, n)
	for i := range members {
		m := &member{line: &line{board: b, there: longestTrip / 2, back: longestTrip / 2}, meter: &script{}}
		cfg := load.Config{
			Tiers: tiers.Builtin, Meter: m.meter, Board: m.line, Name: fmt.Sprintf("m%d", i),
			Sources: load.Sources{Names: []string{"api-*"}}, Logger: slog.New(slog.DiscardHandler),
		}
		wrong := time.Duration(i-1) * 7 * time.Second
		load.SetClock(&cfg, func() time.Time { return time.Now().Add(wrong) })
		var err error
		if m.Controller, err = load.New(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		members[i] = m
		time.Sleep(rand.N(100 * time.Millisecond))
	}
	return members
}

func report(t *testing.T, m *member, source string, cpu, capacity float64) {
	t.Helper()
	if err := m.Report(load.Reading{Source: source, CPU: cpu, Capacity: capacity}); err != nil {
		t.Fatal(err)
	}
}

// A difference measures for how long at most members have not had the same multipliers, and counts
// the changes.
type difference struct {
	since   time.Time
	longest time.Duration
	last    [2]float64
	changes int
}

func (d *difference) look(members ...*member) {
	now, differ := time.Now(), false
	first := [2]float64{members[0].Multiplier("free"), members[0].Multiplier("pro")}
	for _, m := range members[1:] {
		differ = differ || first != [2]float64{m.Multiplier("free"), m.Multiplier("pro")}
	}
	switch {
	case !differ:
		d.since = time.Time{}
	case d.since.IsZero():
		d.since = now
	default:
		d.longest = max(d.longest, now.Sub(d.since))
	}
	if first != d.last {
		d.last = first
		d.changes++
	}
}

// watch looks at members every other millisecond.
func watch(span time.Duration, d *difference, members ...*member) {
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		d.look(members...)
	}
}

// Clocks are seconds apart, each service reports to one replica only, and the load goes up and
// down: no two replicas have different multipliers for longer than a round trip.
func TestReplicasHaveOneMultiplierAtEveryInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := newFleet(t, newBoard(), 3)
		var d difference
		for second := range 180 {
			for i, m := range members {
				wave := 0.85 + 0.15*math.Sin(float64(second+10*i)/15)
				report(t, m, fmt.Sprintf("api-%d", i), wave, float64(i+1))
			}
			watch(time.Second, &d, members...)
			for _, m := range members {
				free, pro, enterprise := m.Multiplier("free"), m.Multiplier("pro"), m.Multiplier("enterprise")
				if free < 0.1 || free > pro || pro > enterprise || enterprise != 1 {
					t.Fatalf("free %v, pro %v, enterprise %v", free, pro, enterprise)
				}
			}
		}
		if d.longest > longestTrip || d.changes < 20 {
			t.Errorf("%v apart with %d changes; want at most the round trip of %v", d.longest, d.changes, longestTrip)
		}
		for _, m := range members {
			if s := m.Status(); !s.Agreed || len(s.Readings) != 6 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// A replica without the board keeps what was agreed for five seconds and then goes on with what
// it knows. It agrees again at its first look.
func TestAPartitionedReplicaHoldsThenGoesOnAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := newFleet(t, newBoard(), 3)
		a, b, lost := members[0], members[1], members[2]
		var together, all difference
		load := func(seconds int, cpu float64, watched ...*member) {
			for range seconds {
				report(t, a, "api-1", cpu, 4)
				watch(time.Second, &together, a, b)
				if len(watched) > 0 {
					all.look(watched...)
				}
			}
		}
		load(15, 0.8, members...)
		if all.longest > 0 || lost.Multiplier("free") != 0.55 {
			t.Fatalf("%+v, %v", all, lost.Multiplier("free"))
		}
		lost.line.set(func(l *line) { l.cut = true })
		load(4, 1)
		if m, s := lost.Multiplier("free"), lost.Status(); m != 0.55 && m != 0.5 || !s.Agreed {
			t.Errorf("after four seconds: %v, %+v", m, s)
		}
		load(40, 1)
		if m, s := lost.Multiplier("free"), lost.Status(); m != 1 || s.Agreed || a.Multiplier("free") != 0.1 {
			t.Errorf("of nothing it knows: %v, %+v", m, s)
		}
		for range 10 {
			report(t, lost, "api-2", 1, 1)
			load(1, 1)
		}
		if m := lost.Multiplier("free"); m != 0.1 {
			t.Errorf("of what it is told itself: %v", m)
		}
		load(15, 0.75)
		lost.line.set(func(l *line) { l.cut = false })
		load(1, 0.75)
		all = difference{}
		for range 10 {
			report(t, a, "api-1", 0.75, 4)
			watch(time.Second, &all, members...)
		}
		if all.longest > longestTrip || !lost.Status().Agreed {
			t.Errorf("back: %v apart, %+v", all.longest, lost.Status())
		}
		if together.longest > longestTrip {
			t.Errorf("the others: %v apart", together.longest)
		}
	})
}

// A replica that is slow, and one that was stopped between reading and writing, change nothing
// for the others.
func TestASlowOrStoppedReplicaDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := newFleet(t, newBoard(), 3)
		slow := 2 * time.Second / 10
		members[2].line.set(func(l *line) { l.there, l.back = slow/2, slow/2 })
		var quick, all difference
		began, first := time.Now(), members[0].Status().Step
		step := first
		for second := range 120 {
			report(t, members[second%3], "api-1", 0.85+0.15*math.Sin(float64(second)/9), 1)
			if second%20 == 10 {
				members[1].line.set(func(l *line) { l.stopped = 3 * time.Second })
			}
			for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
				if members[1].line.serves() {
					all.look(members...)
				} else {
					all.since = time.Time{} // a stopped process serves nobody
				}
				quick.look(members[0], members[0])
				now := members[0].Status().Step
				if now < step || now > step+1 {
					t.Fatalf("step %d follows step %d: a step was made from an old one", now, step)
				}
				step = now
			}
		}
		if all.longest > slow || quick.changes < 10 {
			t.Errorf("%v apart with %d changes", all.longest, quick.changes)
		}
		if most := int64(time.Since(began) / (500 * time.Millisecond)); step-first > most+1 || step-first < most*3/4 {
			t.Errorf("%d steps in %v", step-first, time.Since(began))
		}
	})
}

// Whoever makes the steps may die: the next replica that looks makes the next one.
func TestStepsGoOnWhoeverDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := newFleet(t, newBoard(), 3)
		last := members[2]
		step, at := last.Status().Step, time.Now()
		for i := range 30 {
			report(t, last, "api-1", 0.85, 1)
			if i == 10 || i == 20 {
				members[i/10-1].line.set(func(l *line) { l.cut = true }) // a killed process says nothing to anybody
			}
			for range 100 {
				time.Sleep(10 * time.Millisecond)
				if s := last.Status(); s.Step != step {
					if s.Step != step+1 || !s.Agreed {
						t.Fatalf("from step %d to %+v", step, s)
					}
					step, at = s.Step, time.Now()
				}
				if gap := time.Since(at); gap > time.Second {
					t.Fatalf("no step for %v", gap)
				}
			}
		}
		if m := last.Multiplier("free"); m != 0.3 {
			t.Errorf("multiplier %v", m)
		}
	})
}

// A Redis that forgets all or whose clock jumps does not move a multiplier.
func TestARedisThatForgetsOrIsOfAnotherTimeMovesNothing(t *testing.T) {
	for name, fault := range map[string]func(b *board){
		"forgets":            func(b *board) { clear(b.texts); clear(b.expires) },
		"clock goes back":    func(b *board) { b.ahead -= time.Hour },
		"clock goes forward": func(b *board) { b.ahead += time.Hour },
		"holds what is no state": func(b *board) {
			b.put("agreed", `{"step":1,"cpu":0,"smoothed":0,"known":true,"tiers":{"free":{"multiplier":1e9,"before":-1,"rested":0}}}`, time.Hour)
		},
		"holds no JSON": func(b *board) { b.put("agreed", "\xff", time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard()
				members := newFleet(t, b, 3)
				var d difference
				for second := range 30 {
					report(t, members[0], "api-1", 0.8, 1)
					if second == 20 {
						d = difference{last: d.last}
						b.do(func() { fault(b) })
					}
					watch(time.Second, &d, members...)
				}
				if d.changes > 0 || d.longest > 0 || members[1].Multiplier("free") != 0.55 {
					t.Errorf("%d changes, %v apart, %v", d.changes, d.longest, members[1].Multiplier("free"))
				}
				step := members[0].Status().Step
				time.Sleep(2 * time.Second)
				if s := members[0].Status(); s.Step == step || !s.Agreed {
					t.Errorf("no step after the fault: %+v", s)
				}
			})
		})
	}
}

// One counter, three replicas, a client that asks all of them in turn: once it is denied it stays
// denied for the window, unless the multiplier of the fleet rises. Without a board the same client
// is denied and allowed in turn.
func TestAClientSeesNoFlips(t *testing.T) {
	flips := func(t *testing.T, share bool) (flips int) {
		synctest.Test(t, func(t *testing.T) {
			b := newBoard()
			members := newFleet(t, b, 3)
			if !share {
				for _, m := range members {
					m.line.set(func(l *line) { l.cut = true })
				}
			}
			used, denied := 0.0, false
			for tick := range 60_000 / 20 {
				if tick%50 == 0 {
					for i, m := range members { // each has a service of its own that reports to it
						cpu := min(0.72+float64(tick)/30_000+0.05*float64(i), 1)
						report(t, m, fmt.Sprintf("api-%d", i), cpu, 1)
					}
				}
				time.Sleep(20 * time.Millisecond)
				allowed := used+1 <= math.Floor(1000*members[tick%3].Multiplier("free"))
				if allowed {
					used++
				}
				if allowed && denied {
					flips++
				}
				denied = !allowed
			}
			if !denied {
				t.Error("the client was never denied")
			}
		})
		return flips
	}
	if n := flips(t, true); n > 0 {
		t.Errorf("%d flips on one board", n)
	}
	if n := flips(t, false); n < 10 {
		t.Errorf("%d flips without a board: the test does not see them", n)
	}
}

// A Board that can be read and not written, as a Redis without memory, holds no multiplier down
// for ever.
func TestABoardThatCannotBeWrittenIsAsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := newFleet(t, newBoard(), 3)
		for range 60 {
			report(t, members[0], "api-1", 1, 1)
			time.Sleep(time.Second)
		}
		for _, m := range members {
			if m.Multiplier("free") != 0.1 {
				t.Fatalf("%+v", m.Status())
			}
			m.line.set(func(l *line) { l.readOnly = true })
		}
		time.Sleep(time.Minute)
		for _, m := range members {
			if s := m.Status(); s.Agreed || m.Multiplier("free") != 1 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// What a replica publishes that cannot be true is ignored, each reading by itself. An age below
// zero is zero, so a reading counts for no longer than others do.
func TestALyingReplicaIsIgnoredOrBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		members := newFleet(t, b, 2)
		b.do(func() {
			b.put("replica:liar", `[{"source":"api-capacity","cpu":1,"capacity":1e9,"kind":"report","protected":true,"age_ms":0},
				{"source":"api-cpu","cpu":2,"capacity":1,"kind":"report","protected":true,"age_ms":0},
				{"source":"Not A Name","cpu":1,"capacity":1,"kind":"report","protected":true,"age_ms":0},
				{"source":"api-ahead","cpu":1,"capacity":1,"kind":"report","protected":true,"age_ms":-9000000000000000000},
				{"source":"api-old","cpu":1,"capacity":1,"kind":"report","protected":true,"age_ms":9000000000000000000}]`, 10*time.Second)
			b.put("replica:hour", `[{"source":"api-hour","cpu":1,"capacity":1,"kind":"report","protected":true,"age_ms":0}]`, time.Hour)
			b.put("replica:nan", `[{"source":"api-nan","cpu":NaN,"capacity":1,"kind":"report","protected":true,"age_ms":0}]`, 10*time.Second)
		})
		known := func() (list []string) {
			for _, r := range members[0].Status().Readings {
				if r.Kind == load.KindReport {
					list = append(list, fmt.Sprint(r.Source, " ", r.Counts))
				}
			}
			return list
		}
		for _, when := range []struct {
			after time.Duration
			want  string
		}{{3 * time.Second, "[api-ahead true]"}, {4 * time.Second, "[api-ahead false]"}, {5 * time.Second, "[]"}} {
			time.Sleep(when.after)
			if got := fmt.Sprint(known()); got != when.want {
				t.Errorf("%v later: %v, want %v", when.after, got, when.want)
			}
		}
	})
}
