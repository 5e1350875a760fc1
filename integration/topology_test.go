package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// Redis as users run it: behind Sentinels, and as a Cluster.

func newMachine(t *testing.T, n int) *servers.Machine {
	t.Helper()
	m, err := servers.NewMachine(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	return m
}

func newCluster(t *testing.T, replicas bool) *servers.Cluster {
	t.Helper()
	c, err := servers.NewCluster(newMachine(t, 6), 3, replicas)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClusterConformance(t *testing.T) {
	c := newCluster(t, false)
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		return storetest.Harness{
			Store: clusterStore(t, c.URL(), testBudget, nil), Now: time.Now, Advance: time.Sleep,
		}
	})
}

// A tally is what clients were told.
type tally struct {
	admitted, denied, unknown atomic.Int64
	slowest                   atomic.Int64 // nanoseconds
	refused                   sync.Map     // texts of errors that are no unavailability
}

// take charges one and tells how it went.
func (y *tally) take(ctx context.Context, s tierlimit.Store, c tierlimit.Charge) {
	began := time.Now()
	o, err := s.Take(ctx, c)
	took := time.Since(began).Nanoseconds()
	for slowest := y.slowest.Load(); took > slowest; slowest = y.slowest.Load() {
		if y.slowest.CompareAndSwap(slowest, took) {
			break
		}
	}
	switch {
	case err == nil && o.Allowed:
		y.admitted.Add(1)
	case err == nil:
		y.denied.Add(1)
	case !isNoAnswer(err):
		y.refused.Store(err.Error(), true)
	default:
		y.unknown.Add(1)
	}
}

// press makes charges of one for the subjects, from some callers, until stop is called,
// which returns what they were told by subject.
func press(s tierlimit.Store, callers int, subjects []string, ceiling tierlimit.Ceiling) (stop func() []*tally) {
	tallies := make([]*tally, len(subjects))
	for i := range tallies {
		tallies[i] = &tally{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for n := caller; ctx.Err() == nil; n++ {
				i := n % len(subjects)
				tallies[i].take(context.Background(), s, charge(subjects[i], 1, ceiling))
			}
		})
	}
	return func() []*tally {
		cancel()
		wg.Wait()
		return tallies
	}
}

func newSubjects(t *testing.T, n int) []string {
	base := newSubject(t)
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(base, "-", i)
	}
	return list
}

// used is what the store says is used of a ceiling.
func used(t *testing.T, s tierlimit.Store, subject string, ceiling tierlimit.Ceiling) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		o, err := s.Take(ctx, charge(subject, 0, ceiling))
		if err == nil {
			return o.Counts[0].Used
		}
		if ctx.Err() != nil {
			t.Fatalf("what is used by %s: %v", subject, err)
		}
	}
}

var plenty = tierlimit.Ceiling{Name: "per_hour", Max: 1 << 40, Window: tierlimit.Window{Length: time.Hour}}

// aSlotMigration moves the slots of all who are charged, twice, while they are.
func aSlotMigration(f *field) {
	t := f.T
	c := newCluster(t, false)
	s := clusterStore(t, c.URL(), time.Second, nil)
	must(t, s.Ping(t.Context())) // so that it knows who has which slot
	var subjects []string
	var slots []int
	for _, subject := range newSubjects(t, 150) {
		if s.Server(subject) != c.Masters[0].Addr {
			continue
		}
		slot, err := c.Slot(t.Context(), redisstore.Key(subject))
		must(t, err)
		if !slices.Contains(slots, slot) {
			subjects, slots = append(subjects, subject), append(slots, slot)
		}
	}
	charged, corrected := subjects[:len(subjects)/2], subjects[len(subjects)/2:]
	stop := press(s, 8, charged, plenty)
	settled := settleAndForget(t, s, corrected)
	must(t, c.Migrate(t.Context(), c.Masters[0], c.Masters[1], slots...))
	must(t, c.Migrate(t.Context(), c.Masters[1], c.Masters[2], slots...))
	holds := settled()
	var admitted int64
	for i, y := range stop() {
		y.refused.Range(func(text, _ any) bool { t.Errorf("refused: %v", text); return true })
		admitted += y.admitted.Load()
		if n := y.unknown.Load() + y.denied.Load(); n > 0 {
			t.Errorf("%s: %d charges failed, %d were denied", charged[i], y.unknown.Load(), y.denied.Load())
		}
		if n := used(t, s, charged[i], plenty); n != y.admitted.Load() {
			t.Errorf("%s: %d admitted and %d used", charged[i], y.admitted.Load(), n)
		}
	}
	f.tell("%d charges, and %d holds with a settlement or a reset, of %d subjects while their slots were moved twice; none failed, all counted", admitted, holds, len(subjects))
}

// settleAndForget opens and settles holds and resets subjects, which uses several keys of a
// slot, until stop is called. stop returns how often.
func settleAndForget(t *testing.T, s tierlimit.Store, subjects []string) (stop func() int64) {
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	var wg sync.WaitGroup
	const callers = 8
	for caller := range callers {
		wg.Go(func() {
			for i := caller; ctx.Err() == nil; i += callers {
				subject := subjects[i%len(subjects)]
				in := charge(subject, 3, plenty)
				in.Hold = &tierlimit.Hold{For: time.Minute}
				_, _ = rand.Read(in.Hold.ID[:])
				_, err := s.Take(context.Background(), in)
				if err == nil && i%10 > 0 { // leave some open, so that their keys must migrate too
					var settled tierlimit.Settlement
					settled, err = s.Settle(context.Background(), tierlimit.Correction{Subject: subject, ID: in.Hold.ID})
					if err == nil && !settled.Found {
						t.Errorf("%s: its hold is lost", subject)
					}
				}
				if err == nil && i%30 == 0 {
					err = s.Reset(context.Background(), subject)
				}
				time.Sleep(5 * time.Millisecond)
				if err != nil {
					t.Errorf("%s: %v", subject, err)
					return
				}
				n.Add(1)
			}
		})
	}
	return func() int64 { cancel(); wg.Wait(); return n.Load() }
}

func aFrozenMaster(f *field) {
	t := f.T
	c := newCluster(t, false)
	const budget = 2 * time.Second
	s := clusterStore(t, c.URL(), budget, nil)
	subjects := newSubjects(t, 60)
	for _, subject := range subjects {
		_, err := s.Take(t.Context(), charge(subject, 1, plenty))
		must(t, err)
	}
	must(t, c.Masters[0].Freeze())
	stop := press(s, 30, subjects, plenty)
	time.Sleep(6 * time.Second) // the others find it dead after one and a half
	tallies := stop()
	must(t, c.Masters[0].Thaw())
	var frozen, fine int
	var failed, admitted int64
	for i, y := range tallies {
		if s.Server(subjects[i]) == c.Masters[0].Addr {
			frozen++
			failed += y.unknown.Load()
			if y.admitted.Load() > 0 {
				t.Errorf("%s was admitted %d times by a frozen server", subjects[i], y.admitted.Load())
			}
			continue
		}
		fine++
		admitted += y.admitted.Load()
		if y.unknown.Load() > 0 || *onTime && time.Duration(y.slowest.Load()) > budget/2 {
			t.Errorf("%s, on another server: %d failed, the slowest took %v", subjects[i], y.unknown.Load(), time.Duration(y.slowest.Load()))
		}
	}
	f.hold(frozen > 0 && fine > 0 && failed >= 60, "%d subjects on the frozen server, whose charges failed %d times, %d elsewhere: this shows nothing", frozen, failed, fine)
	f.tell("%d subjects on the frozen master, whose charges failed %d times; %d elsewhere: %d charges, none failed", frozen, failed, fine, admitted)
}

// aFrozenTarget leaves a slot half way to a master that then freezes, and charges a
// subject of it among those of the master it came from.
func aFrozenTarget(f *field) {
	t := f.T
	c := newCluster(t, false)
	const budget = 2 * time.Second
	s := clusterStore(t, c.URL(), budget, nil)
	must(t, s.Ping(t.Context()))
	var here []string
	for _, subject := range newSubjects(t, 200) {
		if s.Server(subject) == c.Masters[0].Addr {
			here = append(here, subject)
		}
	}
	under, subjects := here[0], here[1:]
	slot, err := c.Slot(t.Context(), redisstore.Key(under))
	must(t, err)
	must(t, c.Open(t.Context(), c.Masters[0], c.Masters[1], slot))
	must(t, c.Masters[1].Freeze())
	stop := press(s, 8, subjects, plenty)
	moving := press(s, 1, []string{under}, plenty)
	time.Sleep(2 * time.Second)
	half := moving()[0]
	must(t, c.Masters[1].Thaw())
	var admitted int64
	var slowest time.Duration
	for i, y := range stop() {
		admitted += y.admitted.Load()
		slowest = max(slowest, time.Duration(y.slowest.Load()))
		f.hold(y.unknown.Load() == 0, "%s: %d failed", subjects[i], y.unknown.Load())
	}
	f.hold(half.admitted.Load() == 0 && half.unknown.Load() > 0, "the subject under way: %d admitted, %d failed: this shows nothing", half.admitted.Load(), half.unknown.Load())
	f.onTime(slowest < budget, "the slowest took %v", slowest)
	f.tell("the subject under way failed %d times; of %d charges to the master it comes from none, the slowest took %d ms", half.unknown.Load(), admitted, slowest.Milliseconds())
}

func aMasterDies(f *field) {
	t := f.T
	c := newCluster(t, true)
	s := clusterStore(t, c.URL(), 500*time.Millisecond, nil)
	subjects := newSubjects(t, 30)
	for _, subject := range subjects {
		if _, err := s.Take(t.Context(), charge(subject, 1, plenty)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, c.Replicated(t.Context())) // replication is asynchronous: what a replica has not heard is lost
	lost := s.Server(subjects[0])
	for _, p := range c.Masters {
		if p.Addr == lost {
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	promoted := make(chan time.Time, 1)
	go func() { promoted <- c.Promoted(t.Context()) }()
	eventually(t, 30*time.Second, "another master counts", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := s.Take(ctx, charge(subjects[0], 1, plenty))
		if err != nil && !isNoAnswer(err) {
			t.Fatalf("refused: %v", err)
		}
		return err == nil
	})
	counted, promotion := time.Now(), <-promoted
	f.onTime(counted.Sub(promotion) < 2*time.Second, "it was counted again %v after the promotion", counted.Sub(promotion))
	f.tell("another was promoted after %d ms, and asked %d ms later", promotion.Sub(began).Milliseconds(), counted.Sub(promotion).Milliseconds())
	for _, subject := range subjects {
		if n := used(t, s, subject, plenty); n < 1 {
			t.Errorf("%s: %d used: its replica did not know", subject, n)
		}
	}
}

// aFailover presses on subjects while the Sentinels promote the replica.
func aFailover(f *field, fail func(*servers.Sentinel) error) {
	t := f.T
	watch, err := servers.NewSentinel(newMachine(t, 5))
	f.must(err)
	s := sentinelStore(t, watch.URL(), testBudget, nil)
	const most = 400
	subjects := newSubjects(t, 20)
	stop := press(s, 8, subjects, perHour(most))
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	f.must(fail(watch))
	eventually(t, 30*time.Second, "the new master counts", func() bool {
		_, err := s.Take(t.Context(), charge(newSubject(t), 1, plenty))
		return err == nil
	})
	recovered := time.Since(began)
	for _, subject := range subjects { // until each is full
		eventually(t, 30*time.Second, "full", func() bool { return used(t, s, subject, perHour(most)) == most })
	}
	var over int64
	for i, y := range stop() {
		y.refused.Range(func(text, _ any) bool { f.hold(false, "refused: %v", text); return true })
		n := y.admitted.Load()
		f.hold(n <= 2*most, "%s: %d admitted of %d", subjects[i], n, most)
		over += max(0, n-most)
	}
	f.tell("counted again after %d ms; %d of %d admitted beyond the max", recovered.Milliseconds(), over, most*len(subjects))
}

var topologyFaults = []fault{
	{
		name: "Sentinels promote the replica, by order", promise: "counted again by itself, no request is refused, at most the max once more", alone: true,
		run: func(f *field) { aFailover(f, func(s *servers.Sentinel) error { return s.Failover(f.Context()) }) },
	},
	{
		name: "the master dies and Sentinels promote the replica", promise: "counted again by itself, no request is refused, at most the max once more", alone: true,
		run: func(f *field) {
			aFailover(f, func(s *servers.Sentinel) error { return errors.Join(s.Master.Kill(), s.Promoted(f.Context())) })
		},
	},
	{
		name: "slots of a Cluster are moved under load", promise: "no decision fails, each charge is counted once; holds and resets wait until their slot has moved", alone: true, run: aSlotMigration,
	},
	{
		name: "a master of a Cluster is frozen", promise: "it concerns those it counts, and nobody else", alone: true, run: aFrozenMaster,
	},
	{
		name: "a slot is half way to a master that is frozen", promise: "it concerns those of that slot, and nobody else", alone: true, run: aFrozenTarget,
	},
	{
		name: "a master of a Cluster dies", promise: "it is counted again once there is another, by itself", alone: true, run: aMasterDies,
	},
}
