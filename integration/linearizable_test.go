package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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

type asked struct {
	subject string
	cost    int64
	max     int64
	reset   bool
}

type answered struct {
	unknown bool
	allowed bool
	used    int64
}

// counterModel is one window that does not end: a state is what is used of it.
var counterModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{int64(0)} },
	Step: func(state, input, output any) []any {
		used, in, out := state.(int64), input.(asked), output.(answered)
		fits := used+in.cost <= in.max
		switch {
		case in.reset && out.unknown:
			return []any{used, int64(0)}
		case in.reset:
			return []any{int64(0)}
		case out.unknown && fits:
			return []any{used, used + in.cost}
		case out.unknown:
			return []any{used}
		case out.allowed && fits && out.used == used+in.cost:
			return []any{used + in.cost}
		case !out.allowed && !fits && out.used == used:
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
	parts := map[string][]porcupine.Operation{}
	for _, op := range history {
		s := op.Input.(asked).subject
		parts[s] = append(parts[s], op)
	}
	var list [][]porcupine.Operation
	for _, p := range parts {
		list = append(list, p)
	}
	return list
}

// A historian writes down what its clients ask and are answered.
type historian struct {
	*testing.T
	began   time.Time
	mu      sync.Mutex
	history []porcupine.Operation
	lost    int
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
		o, err = s.Take(ctx, charge(in.subject, in.cost, tierlimit.Ceiling{Name: "per_hour", Max: in.max, Window: tierlimit.Window{Length: time.Hour}}))
	}
	op := porcupine.Operation{ClientId: client, Input: in, Call: call, Return: time.Since(h.began).Nanoseconds()}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil && in.reset:
		op.Output = answered{}
	case err == nil:
		op.Output = answered{allowed: o.Allowed, used: o.Counts[0].Used}
	case !errors.Is(err, tierlimit.ErrStoreUnavailable):
		h.Errorf("%+v: %v", in, err)
		return
	case errors.Is(err, redisstore.ErrNotSent):
		return // never made: if it was, nothing explains the others
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
							subject: fmt.Sprintf("linear-%d-%d-%d", run, n, r.IntN(4)),
							cost:    int64(r.IntN(4)),
							max:     []int64{20, 35, 1000}[r.IntN(3)],
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
			if result := porcupine.CheckOperationsTimeout(counterModel, h.history, 20*time.Second); result != porcupine.Ok {
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
