package integration

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// A leasing process is one of several that share a limit.
type leasingProcess struct {
	t     *testing.T
	store *redisstore.Store
}

func newProcess(t *testing.T) *leasingProcess {
	return &leasingProcess{t, newStore(t, newClient(t, redisServer.URL, testBudget))}
}

func (p *leasingProcess) take(subject string, cost int64, c ...tierlimit.Ceiling) tierlimit.Outcome {
	p.t.Helper()
	o, err := p.store.Take(p.t.Context(), charge(subject, cost, c...))
	if err != nil {
		p.t.Fatal(err)
	}
	return o
}

// holdShare takes until the process holds a share, and returns how many charges
// that took.
func (p *leasingProcess) holdShare(subject string, c ...tierlimit.Ceiling) (charged int64) {
	p.t.Helper()
	for charged < 100 {
		charged++
		if p.take(subject, 1, c...).Source == tierlimit.SourceLease {
			return charged
		}
	}
	p.t.Fatal("no share was granted")
	return 0
}

func (p *leasingProcess) close() {
	p.t.Helper()
	if err := p.store.Close(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

func perHour(most int64) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_hour", Max: most, Window: tierlimit.Window{Length: time.Hour}}
}

func leased(c tierlimit.Ceiling) tierlimit.Ceiling {
	c.Lease = true
	return c
}

func usedInRedis(t *testing.T, subject string, c ...tierlimit.Ceiling) int64 {
	t.Helper()
	o, err := newStore(t, newClient(t, redisServer.URL, testBudget)).Take(t.Context(), charge(subject, 0, c...))
	if err != nil {
		t.Fatal(err)
	}
	return o.Counts[0].Used
}

func TestLeasesOfManyProcessesNeverPassTheLimit(t *testing.T) {
	const processes, callers, most = 4, 16, 2000
	subject := newSubject(t)
	limits := []tierlimit.Ceiling{leased(perHour(tierlimit.Unlimited)), leased(perMinute(most))}
	var admitted, fromLeases atomic.Int64
	var wg sync.WaitGroup
	for range processes {
		p := newProcess(t)
		for range callers {
			wg.Go(func() {
				for {
					o, err := p.store.Take(t.Context(), charge(subject, 1, limits...))
					if err != nil {
						t.Error(err)
						return
					}
					if !o.Allowed {
						return
					}
					admitted.Add(1)
					if o.Source == tierlimit.SourceLease {
						fromLeases.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	if admitted.Load() != most {
		t.Errorf("%d admitted of %d", admitted.Load(), most)
	}
	if fromLeases.Load() < most/2 {
		t.Errorf("only %d of %d were served from leases", fromLeases.Load(), most)
	}
}

// Whatever was asked, in whatever sizes and by whom: once all processes have
// given back, what is used is what was admitted.
func TestLeasesGiveBackExactlyWhatWasNotServed(t *testing.T) {
	const processes, callers, each, subjects, most = 3, 8, 300, 5, 30000
	var names [subjects]string
	var charged [subjects]atomic.Int64
	for i := range names {
		names[i] = newSubject(t)
	}
	limits := []tierlimit.Ceiling{leased(perMinute(most))}
	list := make([]*leasingProcess, processes)
	var wg sync.WaitGroup
	for n := range list {
		p := newProcess(t)
		list[n] = p
		for caller := range callers {
			r := rand.New(rand.NewPCG(uint64(n), uint64(caller)))
			wg.Go(func() {
				for range each {
					i, cost := r.IntN(subjects), r.Int64N(6)
					o, err := p.store.Take(t.Context(), charge(names[i], cost, limits...))
					if err != nil {
						t.Error(err)
						return
					}
					if o.Counts[0].Used > most {
						t.Errorf("%d used of %d", o.Counts[0].Used, most)
					}
					if o.Allowed {
						charged[i].Add(cost)
					}
				}
			})
		}
	}
	wg.Wait()
	held := int64(0)
	for i := range names {
		held += usedInRedis(t, names[i], limits...) - charged[i].Load()
	}
	if held <= 0 {
		t.Errorf("%d are held in shares: the test shows nothing", held)
	}
	for _, p := range list {
		p.close()
	}
	for i := range names {
		if used := usedInRedis(t, names[i], limits...); used != charged[i].Load() {
			t.Errorf("%d used, %d admitted", used, charged[i].Load())
		}
	}
}

// What leases trade: a client may be denied while others hold shares. They are at
// most a sixteenth of what was left, each.
func TestAShareIsASmallPartOfWhatIsLeft(t *testing.T) {
	const most = 1600
	subject, limit := newSubject(t), leased(perMinute(most))
	holder, other := newProcess(t), newProcess(t)
	for range 5 { // demand grows, and would take more
		for range 40 {
			holder.take(subject, 1, limit)
		}
	}
	served := int64(200)
	held := usedInRedis(t, subject, limit) - served
	if held <= 0 || held > (most-served)/16+16 {
		t.Fatalf("%d of %d are held", held, most-served)
	}
	admitted := int64(0)
	for other.take(subject, 1, limit).Allowed {
		admitted++
	}
	if admitted != most-served-held {
		t.Errorf("the other process was given %d, want all but the share: %d", admitted, most-served-held)
	}
	holder.close()
	for other.take(subject, 1, limit).Allowed {
		admitted++
	}
	if admitted != most-served {
		t.Errorf("once the share is given back %d were given of %d", admitted, most-served)
	}
}

func TestASmallLimitIsNotShared(t *testing.T) {
	subject, limit := newSubject(t), leased(perMinute(15))
	p := newProcess(t)
	for i := range int64(20) {
		o := p.take(subject, 1, limit)
		if o.Source != tierlimit.SourceRedis || o.Counts[0].Used != min(i+1, 15) {
			t.Fatalf("charge %d: %+v", i+1, o)
		}
	}
}

func TestALimitThatIsNotLeasedTakesEveryChargeToRedis(t *testing.T) {
	subject := newSubject(t)
	p := newProcess(t)
	for range 20 {
		if o := p.take(subject, 1, perHour(1000), leased(perMinute(1000))); o.Source != tierlimit.SourceRedis {
			t.Fatalf("served from %s", o.Source)
		}
	}
}

func TestALeaseIsGivenBackWhenItExpires(t *testing.T) {
	t.Parallel()
	subject := newSubject(t)
	limit := leased(tierlimit.Ceiling{Name: "burst", Max: 10000, Window: tierlimit.Window{Length: 12 * time.Second}}) // a lease of two
	p := newProcess(t)
	charged := p.holdShare(subject, limit)
	if used := usedInRedis(t, subject, limit); used <= charged {
		t.Fatalf("%d used, %d charged: no share is out", used, charged)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // real Redis, real time
		used := usedInRedis(t, subject, limit)
		if used == charged {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d used, %d charged, long after the lease has expired", used, charged)
		}
	}
}

func TestAnotherPlanIsInForceAtOnceDespiteALease(t *testing.T) {
	subject, p := newSubject(t), newProcess(t)
	charged := p.holdShare(subject, leased(perMinute(10000)))
	if o := p.take(subject, 1, leased(perMinute(charged))); o.Allowed || o.Counts[0].Used != charged {
		t.Errorf("after a downgrade to what is used: %+v", o)
	}
	if o := p.take(subject, 1, leased(perMinute(charged+1))); !o.Allowed || o.Counts[0].Used != charged+1 {
		t.Errorf("after an upgrade by one: %+v", o)
	}
}

func TestAResetForgetsTheShareToo(t *testing.T) {
	subject, limit, p := newSubject(t), leased(perMinute(10000)), newProcess(t)
	p.holdShare(subject, limit)
	if err := p.store.Reset(t.Context(), subject); err != nil {
		t.Fatal(err)
	}
	if o := p.take(subject, 1, limit); o.Source != tierlimit.SourceRedis || o.Counts[0].Used != 1 {
		t.Errorf("%+v", o)
	}
}

// A charge larger than what is left of the share takes that along, rather than be
// denied beside it.
func TestAShareThatIsTooSmallCountsTowardsTheCharge(t *testing.T) {
	subject, limit, p := newSubject(t), leased(perMinute(1000)), newProcess(t)
	charged := p.holdShare(subject, limit)
	if o := p.take(subject, 1000-charged, limit); !o.Allowed || o.Counts[0].Used != 1000 {
		t.Errorf("%+v", o)
	}
}

func TestAShareOfAnotherWindowIsNotGivenBack(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	subject := newSubject(t)
	key, end := redisstore.Key(subject), time.Now().Add(time.Minute).UnixMilli()
	if err := client.Set(t.Context(), key, storedValue(storedWindow{"per_minute", 9, end}), time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ back, end, used int64 }{{4, end - 1, 9}, {4, end, 5}, {100, end, 0}} {
		text := frame{groups: []frameGroup{{
			1, 1, 1, "per_minute:", [][3]uint64{{10, 0, 3600_000}}, [][2]uint64{{0, 1}}, []uint64{0, uint64(c.back), uint64(c.end)},
		}}}.String()
		reply, err := client.Eval(t.Context(), scripts.Take.Source, []string{key}, text).Int64Slice()
		if err != nil || !slices.Equal(reply[1:4], []int64{1, 0, c.used}) {
			t.Errorf("giving back %d of the window that ends at %d: %v, %v; want %d used", c.back, c.end, reply, err, c.used)
		}
	}
}

// What was served from a share had no window to be refunded in.
func TestAChargeFromALeaseCanBeRefunded(t *testing.T) {
	p, subject, limit := newProcess(t), newSubject(t), leased(perMinute(10000))
	p.holdShare(subject, limit)
	before := usedInRedis(t, subject, limit)
	o := p.take(subject, 1, limit)
	if o.Source != tierlimit.SourceLease {
		t.Fatalf("served from %s", o.Source)
	}
	refunded, err := p.store.Refund(t.Context(), tierlimit.Refund{
		Subject: subject, Cost: 1, Nonce: 7, At: o.At, Windows: []tierlimit.RefundWindow{{Limit: limit.Name, End: o.Counts[0].End}},
	})
	if used := usedInRedis(t, subject, limit); err != nil || !refunded || used != before-1 {
		t.Errorf("%v, %v: %d used, %d before", refunded, err, used, before)
	}
}

func TestAClosedStoreGoesOnWithoutLeases(t *testing.T) {
	subject, limit, p := newSubject(t), leased(perMinute(10000)), newProcess(t)
	p.holdShare(subject, limit)
	p.close()
	for range 20 {
		if o := p.take(subject, 1, limit); !o.Allowed || o.Source != tierlimit.SourceRedis {
			t.Fatalf("%+v", o)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.store.Close(ctx); err == nil {
		t.Error("Close with a context that has ended says nothing")
	}
}
