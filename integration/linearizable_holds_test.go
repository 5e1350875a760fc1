package integration

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// Histories with holds must be linearizable: some sequential order of the operations, each
// between its call and its return, explains all answers. Holds expire by Redis' clock;
// answers that contain its time show which holds had expired.

// mostInHistory is the maximum number of holds of a subject in one history.
const mostInHistory = 24

// places is the max of the concurrent limit.
const places = 3

// The windows of a subject. None ends during a test.
const (
	kept     = iota // an expired hold keeps its charge
	released        // an expired hold gives its charge back
	heldWindows
)

type holdVerb int

const (
	takeKept holdVerb = iota // charges one window, by scripts/take.lua
	takeBoth                 // charges both windows, without a hold
	takeHeld
	settleHold
	renewHold
	resetAll
)

// limits returns the ceilings of a take.
func (v holdVerb) limits(most [heldWindows]int64) []tierlimit.Ceiling {
	list := []tierlimit.Ceiling{
		{Name: "kept", Max: most[kept], Window: tierlimit.Window{Length: 24 * time.Hour}},
		{Name: "released", Max: most[released], Window: tierlimit.Window{Length: time.Hour}, Sliding: true, Release: true},
		{Name: "together", Max: places, Concurrent: true},
	}
	return list[:1+v-takeKept]
}

// A holdCall is one operation of a history.
type holdCall struct {
	subject string
	verb    holdVerb
	hold    int   // index of the subject's hold
	cost    int64 // Keep for a settlement that changes no charge
	life    int64 // of the hold, in milliseconds
	most    [heldWindows]int64
}

type holdAnswer struct {
	unknown bool
	at, to  int64 // the operation took effect in this interval, in milliseconds since the epoch
	allowed bool  // or found
	used    [heldWindows]int64
	places  int64
	ended   [heldWindows]bool // of a settlement: SettledLimit.Ended
}

// A modelled hold expires between soonest and latest.
type modelled struct {
	open            bool
	forgiven        bool // by a reset
	cost            int64
	soonest, latest int64
	life            int64
}

// never is the latest expiry of a hold that was opened at an unknown instant.
const never = int64(1) << 62

// A heldState is the state of a subject and its holds. It is comparable, as porcupine requires.
type heldState struct {
	now   int64
	used  [heldWindows]int64
	holds [mostInHistory]modelled
}

// correct replaces the charge of a hold in a window.
func (s *heldState) correct(window, hold int, cost int64) {
	if !s.holds[hold].forgiven {
		s.used[window] = max(0, s.used[window]+cost-s.holds[hold].cost)
	}
}

// at returns the possible states of s at an instant, which differ in the expired holds.
func (s heldState) at(now int64) []heldState {
	s.now = max(s.now, now)
	list := []heldState{s}
	for i := range s.holds {
		for j := range list {
			h := &list[j].holds[i]
			if !h.open {
				continue
			}
			if h.latest == never {
				h.latest = s.now + h.life
			}
			if h.soonest > s.now {
				continue
			}
			gone := list[j]
			gone.correct(released, i, 0)
			gone.holds[i] = modelled{}
			if h.latest <= s.now {
				list[j] = gone
			} else {
				list = append(list, gone)
			}
		}
	}
	return list
}

// between returns the possible states of s between the instants from and to.
func (s heldState) between(from, to int64) (list []heldState) {
	from = max(s.now, from)
	instants := []int64{from}
	for _, h := range s.holds {
		if h.open && h.soonest > from && h.soonest <= to {
			instants = append(instants, h.soonest)
		}
	}
	slices.Sort(instants)
	for _, now := range slices.Compact(instants) {
		list = append(list, s.at(now)...)
	}
	return list
}

func (s *heldState) open() (n int64) {
	for i := range s.holds {
		if s.holds[i].open {
			n++
		}
	}
	return n
}

// made returns the state after a call and the answer to the call.
func (s heldState) made(in holdCall, exact bool) (after heldState, out holdAnswer) {
	after = s
	latest := s.now + in.life
	if !exact {
		latest = never
	}
	switch h := &after.holds[in.hold]; in.verb {
	case takeKept, takeBoth, takeHeld:
		windows := min(heldWindows, len(in.verb.limits(in.most)))
		out.allowed = in.verb != takeHeld || s.open() < places
		for i := range windows {
			out.allowed = out.allowed && s.used[i]+in.cost <= in.most[i]
		}
		if out.allowed {
			for i := range windows {
				after.used[i] += in.cost
			}
			if in.verb == takeHeld {
				*h = modelled{open: true, cost: in.cost, soonest: s.now + in.life, latest: latest, life: in.life}
			}
		}
		if in.verb == takeHeld {
			out.places = after.open()
		}
		copy(out.used[:windows], after.used[:])
	case settleHold:
		if out.allowed = h.open; h.open {
			cost := in.cost
			if cost == tierlimit.Keep {
				cost = h.cost
			}
			for i := range after.used {
				out.ended[i] = h.forgiven
				after.correct(i, in.hold, cost)
				if !h.forgiven {
					out.used[i] = after.used[i]
				}
			}
			*h = modelled{}
		}
	case renewHold:
		if out.allowed = h.open; h.open {
			h.soonest, h.latest, h.life = s.now+in.life, latest, in.life
		}
	case resetAll:
		after.used = [heldWindows]int64{}
		for i := range after.holds {
			after.holds[i].forgiven = after.holds[i].open
		}
	}
	return after, out
}

var holdsModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{heldState{}} },
	Step: func(state, input, output any) (next []any) {
		s, in, out := state.(heldState), input.(holdCall), output.(holdAnswer)
		if out.unknown {
			next = append(next, s) // the operation had no effect
		}
		for _, s := range s.between(out.at, out.to) {
			after, want := s.made(in, out.at == out.to)
			want.unknown, want.at, want.to = out.unknown, out.at, out.to
			if out.unknown || want == out {
				next = append(next, after)
			}
		}
		return next
	},
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		return partition(history, func(op porcupine.Operation) string { return op.Input.(holdCall).subject })
	},
}).ToModel()

// A heldSubject is a subject shared by several clients, which know each other's holds.
type heldSubject struct {
	name   string
	most   [heldWindows]int64
	opened atomic.Int64
	ids    [mostInHistory]tierlimit.HoldID
}

// draw returns a random operation.
func (h *heldSubject) draw(r *rand.Rand) holdCall {
	in := holdCall{subject: h.name, verb: holdVerb(r.IntN(2)), most: h.most, cost: int64(r.IntN(4)), life: []int64{1000, 1000, 1300, 3_600_000}[r.IntN(4)]}
	switch n := r.IntN(20); {
	case n < 8:
		if next := h.opened.Add(1) - 1; next < mostInHistory {
			in.verb, in.hold, in.cost = takeHeld, int(next), 1+in.cost // a cost of 0 opens no hold
			return in
		}
	case n < 14:
		in.verb, in.cost = settleHold, int64(r.IntN(8)-1)
	case n < 16:
		in.verb = renewHold
	case n < 17 && r.IntN(3) == 0:
		in.verb = resetAll
	}
	if in.verb == settleHold || in.verb == renewHold {
		in.hold = r.IntN(max(1, min(int(h.opened.Load()), mostInHistory)))
	}
	return in
}

// A holdHistory records the operations of clients and the answers.
type holdHistory struct {
	*testing.T
	began time.Time
	lost  atomic.Int64

	mu   sync.Mutex
	list []porcupine.Operation // guarded by mu
}

func (h *holdHistory) ask(client int, s *redisstore.Store, subject *heldSubject, in holdCall, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := time.Now()
	out := holdAnswer{at: call.UnixMilli()}
	id := subject.ids[in.hold]
	var err error
	switch in.verb {
	case takeKept, takeBoth, takeHeld:
		c := charge(in.subject, in.cost, in.verb.limits(in.most)...)
		if in.verb == takeHeld {
			c.Hold = &tierlimit.Hold{ID: id, For: time.Duration(in.life) * time.Millisecond}
		}
		var o tierlimit.Outcome
		if o, err = s.Take(ctx, c); err == nil {
			out.at, out.to, out.allowed = o.At, o.At, o.Allowed
			for i := range min(heldWindows, len(o.Counts)) {
				out.used[i] = o.Counts[i].Used
			}
			if in.verb == takeHeld {
				out.places = o.Counts[heldWindows].Used
			}
		}
	case settleHold:
		var settled tierlimit.Settlement
		settled, err = s.Settle(ctx, tierlimit.Correction{Subject: in.subject, ID: id, Cost: in.cost})
		out.at, out.to, out.allowed = settled.At, settled.At, settled.Found
		for i, l := range settled.Limits {
			out.used[i], out.ended[i] = l.Used, l.Ended
		}
	case renewHold:
		out.allowed, err = s.Renew(ctx, tierlimit.Renewal{Subject: in.subject, ID: id, For: time.Duration(in.life) * time.Millisecond})
		out.to = time.Now().UnixMilli()
	case resetAll:
		err = s.Reset(ctx, in.subject)
		out.to = time.Now().UnixMilli()
	}
	op := porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call.Sub(h.began).Nanoseconds(), Return: time.Since(h.began).Nanoseconds()}
	switch {
	case errors.Is(err, redisstore.ErrNotSent):
		return // had no effect: if it had one, the history is not linearizable
	case isNoAnswer(err):
		op.Output, op.Return = holdAnswer{unknown: true, at: call.UnixMilli(), to: never}, forever
		h.lost.Add(1)
	case err != nil:
		h.Errorf("%+v: %v", in, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, op)
}

// describe formats the operations of a history, one a line, with the times of call and return.
func describe(history []porcupine.Operation) string {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range history {
		returned := fmt.Sprint(time.Duration(op.Return))
		if op.Return == forever {
			returned = "?"
		}
		fmt.Fprintf(&b, "%v to %s: %+v -> %+v\n", time.Duration(op.Call), returned, op.Input, op.Output)
	}
	return b.String()
}

func TestHoldsAreLinearizableWhileRepliesAreLost(t *testing.T) {
	onEachKind(t, func(t *testing.T, k *kind) {
		row := record(t, "replies are lost, late and torn, in seeded histories with holds: "+k.name, "what was answered is explained by charges, holds, expiries, settlements, renewals and resets made one at a time, each at most once")
		const together, clients, each = 50, 4, 12
		const patience, pause = 60 * time.Millisecond, 400 * time.Millisecond
		stores := []*redisstore.Store{k.store(t, testBudget, nil), k.store(t, patience, k.wires), k.store(t, testBudget, nil)}
		lost, operations := int64(0), 0
		for first := 0; first < *histories; first += together {
			h := &holdHistory{T: t, began: time.Now()}
			over, done := make(chan struct{}), make(chan struct{})
			seed := *faultSeed<<32 + uint64(first)
			go func() {
				defer close(done)
				loseNowAndThen(k.wires, rand.New(rand.NewPCG(seed, 0)), over)
			}()
			var asking sync.WaitGroup
			for n := range min(together, *histories-first) {
				subject := &heldSubject{name: newSubject(t), most: [heldWindows]int64{1000, 30}}
				if n%3 == 0 {
					subject.most[kept] = 25
				}
				for i := range subject.ids {
					_, _ = crand.Read(subject.ids[i][:])
				}
				for client := range clients {
					r := rand.New(rand.NewPCG(seed+uint64(n), uint64(client+1)))
					asking.Go(func() {
						for range each {
							time.Sleep(time.Duration(r.Int64N(int64(pause))))
							h.ask(client, stores[client%len(stores)], subject, subject.draw(r), patience)
						}
					})
				}
			}
			asking.Wait()
			close(over)
			<-done
			if t.Failed() {
				return
			}
			lost, operations = lost+h.lost.Load(), operations+len(h.list)
			for _, one := range holdsModel.Partition(h.list) {
				if result := porcupine.CheckOperationsTimeout(holdsModel, one, busyMachine); result != porcupine.Ok {
					t.Fatalf("a history (seed %d) is %v:\n%s", seed, result, describe(one))
				}
			}
		}
		if lost < int64(*histories)/2 {
			t.Errorf("only %d replies were lost: the test shows little", lost)
		}
		row.tell("%d histories, %d operations in all, %d of them without a reply", *histories, operations, lost)
	})
}
