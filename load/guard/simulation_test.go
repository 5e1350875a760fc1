package guard_test

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit/load/guard"
)

// A customer asks at random instants.
type customer struct {
	subject   string
	tier      string
	priority  int
	perSecond float64
}

// customers returns n customers that share perSecond.
func customers(tier string, priority, n int, perSecond float64) []customer {
	list := make([]customer, n)
	for i := range list {
		list[i] = customer{tier + "_" + strconv.Itoa(i), tier, priority, perSecond / float64(n)}
	}
	return list
}

// A service is a simulated service with a guard, on a clock of its own. Requests wait in one line
// and are served by workers. Whether the guard is asked before a request enters the line, as in a
// proxy, or when the request leaves the line, as in a Go process that is short of CPU, is the
// difference between the two kinds of saturation.
type service struct {
	guard   *guard.Guard
	proxy   bool
	workers int
	latency time.Duration // of an answer, beside the time with a worker
	turns   int           // with a worker that a request takes, each with a place in the line; default 1
	pause   time.Duration // between two turns
	cost    func(subject string) time.Duration

	now    time.Duration
	random *rand.Rand
	events events
	line   []request
	busy   int
	waited time.Duration // for a worker: the request that left the line last
	seen   []outcome
}

type request struct {
	customer
	at     time.Duration
	line   time.Duration // when the request entered the line
	turns  int           // that it has had
	permit *guard.Permit
}

// An outcome is what became of a request that was sent at an instant.
type outcome struct {
	request
	served  bool
	latency time.Duration
}

type event struct {
	at time.Duration
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newService(seed uint64, workers int, cost time.Duration, proxy bool) *service {
	s := &service{workers: workers, proxy: proxy, cost: func(string) time.Duration { return cost }, random: rand.New(rand.NewPCG(seed, 1))}
	s.guard = guard.New(guard.Config{Now: func() time.Time { return noon.Add(s.now) }, Wait: s.wait})
	return s
}

// wait returns how long requests wait for a worker now; a proxy's own processors are never short.
func (s *service) wait() (time.Duration, bool) {
	switch {
	case s.proxy:
		return 0, true
	case len(s.line) > 0:
		return max(s.waited, s.now-s.line[0].line), true
	}
	return s.waited, true
}

func (s *service) at(t time.Duration, do func()) { heap.Push(&s.events, event{t, do}) }

// run lets the customers ask for a while, and returns what became of the requests sent then.
func (s *service) run(list []customer, length time.Duration) []outcome {
	end := s.now + length
	for _, c := range list {
		s.ask(c, s.now, end)
	}
	first := len(s.seen)
	for len(s.events) > 0 && s.events[0].at <= end {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
	}
	s.now = end
	return s.seen[first:]
}

func (s *service) ask(c customer, after, end time.Duration) {
	at := after + time.Duration(s.random.ExpFloat64()/c.perSecond*float64(time.Second))
	if at > end {
		return
	}
	s.at(at, func() {
		s.arrive(request{customer: c, at: at})
		s.ask(c, at, end)
	})
}

func (s *service) arrive(r request) {
	if s.proxy && !s.admitted(&r) {
		return
	}
	s.enter(r)
}

func (s *service) enter(r request) {
	r.line = s.now
	s.line = append(s.line, r)
	s.work()
}

func (s *service) admitted(r *request) bool {
	r.permit = s.guard.Acquire(r.tier, r.priority, r.subject)
	if r.permit == nil {
		s.seen = append(s.seen, outcome{request: *r, latency: s.now - r.at})
	}
	return r.permit != nil
}

func (s *service) work() {
	for s.busy < s.workers && len(s.line) > 0 {
		r := s.line[0]
		s.line = s.line[1:]
		s.waited = s.now - r.line
		if r.permit == nil && !s.admitted(&r) {
			continue
		}
		s.busy++
		s.at(s.now+s.cost(r.subject)/time.Duration(max(s.turns, 1)), func() {
			s.busy--
			if r.turns++; r.turns < s.turns {
				s.at(s.now+s.pause, func() { s.enter(r) })
			} else {
				s.at(s.now+s.latency, func() {
					r.permit.Answered()
					s.seen = append(s.seen, outcome{r, true, s.now - r.at})
				})
			}
			s.work()
		})
	}
}

// A share is what was served of what a tier asked for.
type share struct {
	asked, served int
}

func (s share) ratio() float64 { return float64(s.served) / float64(max(s.asked, 1)) }

func shares(list []outcome, of func(*outcome) string) map[string]share {
	m := make(map[string]share)
	for i := range list {
		s := m[of(&list[i])]
		s.asked++
		if list[i].served {
			s.served++
		}
		m[of(&list[i])] = s
	}
	return m
}

func byTier(o *outcome) string    { return o.tier }
func bySubject(o *outcome) string { return o.subject }

func refused(list []outcome) (n int) {
	for i := range list {
		if !list[i].served {
			n++
		}
	}
	return n
}

// p99 returns the latency that one of a hundred served requests exceeds.
func p99(list []outcome) time.Duration {
	served := slices.DeleteFunc(slices.Clone(list), func(o outcome) bool { return !o.served })
	if len(served) == 0 {
		return 0
	}
	slices.SortFunc(served, func(a, b outcome) int { return cmp.Compare(a.latency, b.latency) })
	return served[len(served)*99/100].latency
}
