package integration

import (
	"context"
	crand "crypto/rand"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// What a store did must be explained by charges made one at a time, each between
// its call and its return; one whose reply was lost, at any time after its call
// or never, and never twice.

// counts are what is used of each window of a subject, or the max of each; -1 where a
// request does not touch the window.
type counts [3]int64

// windowKinds are the windows of a subject: none of them ends during a test, so that one
// which slides counts as the others do.
var windowKinds = [3]tierlimit.Ceiling{
	{Name: "per_day", Window: tierlimit.Window{Length: 24 * time.Hour}},
	{Name: "per_hour", Window: tierlimit.Window{Length: time.Hour}},
	{Name: "slides", Window: tierlimit.Window{Length: time.Hour}, Sliding: true},
}

type asked struct {
	subject string
	cost    int64
	max     counts
	reset   bool
}

type answered struct {
	unknown bool
	allowed bool
	used    counts
}

// charged returns what is used once in was charged, and whether it fits all windows.
func (c counts) charged(in asked) (after counts, fits bool) {
	after = c
	for i, most := range in.max {
		if most < 0 {
			continue
		}
		if after[i] += in.cost; after[i] > most {
			return c, false
		}
	}
	return after, true
}

// shows reports whether an answer about the windows of in is what c has.
func (c counts) shows(in asked, out answered) bool {
	for i, most := range in.max {
		if most >= 0 && out.used[i] != c[i] {
			return false
		}
	}
	return true
}

// countersModel is the windows of a subject, which do not end: a state is what is used of
// each. A request is charged against all windows it touches or against none.
var countersModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{counts{}} },
	Step: func(state, input, output any) []any {
		used, in, out := state.(counts), input.(asked), output.(answered)
		after, fits := used.charged(in)
		switch {
		case in.reset && out.unknown:
			return []any{used, counts{}}
		case in.reset:
			return []any{counts{}}
		case out.unknown && fits:
			return []any{used, after}
		case out.unknown:
			return []any{used}
		case out.allowed && fits && after.shows(in, out):
			return []any{after}
		case !out.allowed && !fits && used.shows(in, out):
			return []any{used}
		default:
			return nil
		}
	},
	Partition: bySubject,
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v -> %+v", input, output)
	},
}).ToModel()

func bySubject(history []porcupine.Operation) [][]porcupine.Operation {
	return partition(history, func(op porcupine.Operation) string { return op.Input.(asked).subject })
}

// partition splits a history by subject.
func partition(history []porcupine.Operation, subject func(porcupine.Operation) string) [][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, op := range history {
		parts[subject(op)] = append(parts[subject(op)], op)
	}
	return slices.Collect(maps.Values(parts))
}

// A historian writes down what its clients ask and are answered.
type historian struct {
	*testing.T
	began   time.Time
	mu      sync.Mutex
	history []porcupine.Operation
	lost    int
}

// ceilings are those of the windows that in touches.
func (in *asked) ceilings() (list []tierlimit.Ceiling) {
	for i, most := range in.max {
		if most >= 0 {
			c := windowKinds[i]
			c.Max = most
			list = append(list, c)
		}
	}
	return list
}

// used returns what o says of the windows that in touches.
func (in *asked) used(o *tierlimit.Outcome) (used counts) {
	n := 0
	for i, most := range in.max {
		if used[i] = -1; most >= 0 {
			used[i] = o.Counts[n].Used
			n++
		}
	}
	return used
}

// drawMaxes has a request touch some of the windows.
func drawMaxes(r *rand.Rand) (most counts) {
	touched := 1 + r.IntN(7)
	for i := range most {
		if most[i] = -1; touched&(1<<i) != 0 {
			most[i] = []int64{20, 35, 1000}[r.IntN(3)]
		}
	}
	return most
}

// forever is later than anything that returned.
const forever = int64(1) << 60

func (h *historian) ask(client int, s *redisstore.Store, in asked, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := time.Since(h.began).Nanoseconds()
	var o tierlimit.Outcome
	var err error
	if in.reset {
		err = s.Reset(ctx, in.subject)
	} else {
		o, err = s.Take(ctx, charge(in.subject, in.cost, in.ceilings()...))
	}
	op := porcupine.Operation{ClientId: client, Input: in, Call: call, Return: time.Since(h.began).Nanoseconds()}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil && in.reset:
		op.Output = answered{}
	case err == nil:
		op.Output = answered{allowed: o.Allowed, used: in.used(&o)}
	case errors.Is(err, redisstore.ErrNotSent):
		return // never made: if it was, nothing explains the others
	case !isNoAnswer(err):
		h.Errorf("%+v: %v", in, err)
		return
	default:
		op.Output, op.Return = answered{unknown: true}, forever
		h.lost++
	}
	h.history = append(h.history, op)
}

var (
	histories = flag.Int("histories", 25, "how many histories are made on each kind of Redis")
	lostGoal  = flag.Int("lost", 2000, "how many replies are lost on each kind of Redis")
)

func TestChargesAreLinearizableWhileRepliesAreLost(t *testing.T) {
	onEachKind(t, func(t *testing.T, k *kind) {
		row := record(t, "replies are lost, late and torn, in seeded histories of many callers: "+k.name, "what was answered is explained by charges made one at a time, each at most once")
		const callers, each = 12, 10
		const patience = 40 * time.Millisecond
		stores := []*redisstore.Store{k.store(t, testBudget, nil), k.store(t, patience, k.wires), k.store(t, patience, k.wires)}
		lost, run := 0, time.Now().UnixNano()
		for n := range *histories {
			seed := *faultSeed<<32 + uint64(n)
			h := &historian{T: t, began: time.Now()}
			over, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				loseNowAndThen(k.wires, rand.New(rand.NewPCG(seed, 0)), over)
			}()
			var wg sync.WaitGroup
			for caller := range callers {
				r := rand.New(rand.NewPCG(seed, uint64(caller+1)))
				wg.Go(func() {
					for range each {
						in := asked{
							subject: fmt.Sprintf("linear-%d-%d-%d", run, n, r.IntN(10)),
							cost:    int64(r.IntN(4)),
							max:     drawMaxes(r),
							reset:   r.IntN(25) == 0,
						}
						h.ask(caller, stores[caller%len(stores)], in, patience)
					}
				})
			}
			wg.Wait()
			close(over)
			<-done
			lost += h.lost
			if t.Failed() {
				return
			}
			if result := porcupine.CheckOperationsTimeout(countersModel, h.history, busyMachine); result != porcupine.Ok {
				t.Fatalf("history %d (seed %d) of %d operations, %d of them lost, is %v", n, seed, len(h.history), h.lost, result)
			}
		}
		if lost < *histories {
			t.Errorf("only %d replies were lost: the test shows little", lost)
		}
		row.tell("%d histories of %d operations, %d of them without a reply", *histories, callers*each, lost)
	})
}

// loseNowAndThen lets replies through, and for moments keeps them back or cuts
// the connection on them.
func loseNowAndThen(w *wires, r *rand.Rand, over <-chan struct{}) {
	defer w.replies(nil)
	for {
		switch r.IntN(10) {
		case 0, 1:
			w.replies(lost)
		case 2, 3:
			w.replies(func(proxy.Reply) proxy.Fate { return proxy.Fate{Cut: true} })
		case 4:
			w.replies(func(proxy.Reply) proxy.Fate { return proxy.Fate{Torn: true} })
		default:
			w.replies(nil)
		}
		select {
		case <-over:
			return
		case <-time.After(time.Duration(200+r.IntN(1000)) * time.Microsecond):
		}
	}
}

// However many replies are lost, after the charges were made: each charge is counted
// once at most, and never one that was not asked for.
func TestChargesWhoseRepliesAreLostAreMadeAtMostOnce(t *testing.T) {
	onEachKind(t, func(t *testing.T, k *kind) {
		row := record(t, "connections are cut on the reply to a charge: "+k.name, "each charge is counted at most once")
		const budget = 300 * time.Millisecond
		s, direct := k.store(t, budget, k.wires), k.store(t, testBudget, nil)
		var cut atomic.Int64
		r := rand.New(rand.NewPCG(*faultSeed, 2))
		var mu sync.Mutex
		k.wires.replies(func(reply proxy.Reply) proxy.Fate {
			mu.Lock()
			n := r.IntN(4)
			mu.Unlock()
			if !reply.Script || n == 0 {
				return proxy.Fate{}
			}
			cut.Add(1)
			return proxy.Fate{Cut: n == 1, Torn: n > 1}
		})
		subjects := newSubjects(t, 64)
		moved := func() int { return 0 }
		if k.shuffle != nil {
			moved = k.shuffle(t, subjects)
		}
		tallies := make([]tally, len(subjects))
		var wg sync.WaitGroup
		for i := range subjects { // each on its own, so that few share a reply
			wg.Go(func() {
				for cut.Load() < int64(*lostGoal) {
					tallies[i].take(context.Background(), s, charge(subjects[i], 1, plenty))
				}
			})
		}
		wg.Wait()
		k.wires.replies(nil)
		moves := moved()
		var admitted, unknown, counted int64
		for i := range tallies {
			y := &tallies[i]
			y.refused.Range(func(text, _ any) bool { t.Errorf("refused: %v", text); return true })
			n := used(t, direct, subjects[i], plenty)
			if n < y.admitted.Load() || n > y.admitted.Load()+y.unknown.Load() {
				t.Errorf("%s: %d used, %d were admitted and of %d nothing is known", subjects[i], n, y.admitted.Load(), y.unknown.Load())
			}
			admitted, unknown, counted = admitted+y.admitted.Load(), unknown+y.unknown.Load(), counted+n
		}
		row.tell("%d replies lost; %d confirmed, %d unknown, %d counted", cut.Load(), admitted, unknown, counted)
		if moves > 0 {
			row.tell("meanwhile slots were moved %d times", moves)
		}
	})
}

// Each hold is settled at most once, and its final charge is the settled cost, although
// replies are lost and every replica is asked.
func TestHoldsAreSettledAtMostOnceWhileRepliesAreLost(t *testing.T) {
	onEachKind(t, func(t *testing.T, k *kind) {
		row := record(t, "connections are cut on the replies to holds and settlements: "+k.name, "each hold is settled at most once, whoever is asked, and what is charged is what was settled")
		const budget, estimate = 300 * time.Millisecond, 5
		replicas := []*redisstore.Store{k.store(t, budget, k.wires), k.store(t, budget, k.wires), k.store(t, budget, k.wires)}
		direct := k.store(t, testBudget, nil)
		var cut atomic.Int64
		var mu sync.Mutex
		r := rand.New(rand.NewPCG(*faultSeed, 3))
		k.wires.replies(func(reply proxy.Reply) proxy.Fate {
			mu.Lock()
			n := r.IntN(6)
			mu.Unlock()
			if !reply.Script || n > 1 {
				return proxy.Fate{}
			}
			cut.Add(1)
			return proxy.Fate{Cut: n == 1, Torn: n == 0}
		})
		subjects := newSubjects(t, 24)
		moved := func() int { return 0 }
		if k.shuffle != nil {
			moved = k.shuffle(t, subjects)
		}
		var settled, unknown atomic.Int64
		least, most := make([]int64, len(subjects)), make([]int64, len(subjects))
		var wg sync.WaitGroup
		for i, subject := range subjects {
			r := rand.New(rand.NewPCG(*faultSeed, uint64(100+i)))
			wg.Go(func() {
				for cut.Load() < int64(*lostGoal) {
					in := charge(subject, estimate, plenty)
					in.Hold = &tierlimit.Hold{For: time.Hour}
					_, _ = crand.Read(in.Hold.ID[:])
					o, err := replicas[r.IntN(3)].Take(context.Background(), in)
					if err == nil && !o.Allowed { // holds whose reply was lost are still open
						return
					}
					cost := r.Int64N(2 * estimate)
					// A hold whose reply was lost may or may not exist.
					found, failed := false, err != nil
					for range 4 {
						c := tierlimit.Correction{Subject: subject, ID: in.Hold.ID, Cost: cost}
						s, err := replicas[r.IntN(3)].Settle(context.Background(), c)
						if err == nil {
							if s.Found && found {
								t.Errorf("%s: a hold was settled twice", subject)
							}
							found = found || s.Found
							if !s.Found && !found && !failed {
								t.Errorf("%s: an open hold was not found", subject)
							}
							continue
						}
						failed = true
					}
					switch {
					case found:
						settled.Add(1)
						least[i], most[i] = least[i]+cost, most[i]+cost
					default: // the hold was not opened, is settled, or is still open
						unknown.Add(1)
						most[i] += max(cost, estimate)
					}
				}
			})
		}
		wg.Wait()
		k.wires.replies(nil)
		moves := moved()
		for i, subject := range subjects {
			if n := used(t, direct, subject, plenty); n < least[i] || n > most[i] {
				t.Errorf("%s: %d used, want %d to %d", subject, n, least[i], most[i])
			}
		}
		row.tell("%d replies lost; %d holds settled, of %d nothing is known", cut.Load(), settled.Load(), unknown.Load())
		if moves > 0 {
			row.tell("meanwhile slots were moved %d times", moves)
		}
	})
}
