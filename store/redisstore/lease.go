package redisstore

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A lease is a share of what a subject has left, charged in Redis in one go and
// served by this process alone. As it is charged before any of it is served, all
// processes together never serve more than the limit. What is not served by the
// time the lease expires is given back.
type lease struct {
	subject string
	next    *lease // in the chain
	hash    uint64
	shard   *leaseShard

	// Guarded by the shard's mu. Times are on the clock of leases.
	ceilings []tierlimit.Ceiling // those it was granted against
	granted  int64               // when, by Redis' clock: milliseconds since the epoch
	left     int64               // charged in Redis, and not served
	expires  time.Duration
	served   int64 // since it was last asked for, charges made in Redis included
	windows  []leasedWindow
	room     [2]leasedWindow // for windows: beside the rest it costs no look elsewhere
	since    time.Duration   // when it was last asked for
	asking   bool            // a call is out that may fill it
	gone     bool            // it is not among those that are swept: it must not be filled
	seen     bool
}

type leasedWindow struct {
	used int64         // without what is left of the share
	stop time.Duration // when it ends, or a little sooner
	end  int64         // the same as Redis has it: milliseconds since the epoch
}

const (
	// maxLease bounds how long a share lies unused.
	maxLease = 10 * time.Second
	// partOfWindow is how much of a window it may lie unused in.
	partOfWindow = 6
	// growth is by how much a share may grow at once: demand is known only for
	// as long as it was watched.
	growth = 16
	// maxShare keeps sums exact where a limit is unlimited.
	maxShare = 1 << 40
	// maxLeases bounds the memory for leases. Subjects past it are charged one by
	// one until others are idle.
	maxLeases = 1 << 17

	leaseShards = 256
	sweepEvery  = time.Second
)

// leases are those this process holds.
type leases struct {
	began  time.Time
	shards [leaseShards]leaseShard
	count  atomic.Int64
	closed atomic.Bool

	giveBack func(context.Context, []*lease) error
	mu       sync.Mutex
	sweeping bool // guarded by mu
}

type leaseShard struct {
	mu     sync.Mutex
	chains []*lease // guarded by mu: by hash; made for the first lease
}

// now is the clock of leases. It is monotonic, which the wall's is not.
func (ls *leases) now() time.Duration { return time.Since(ls.began) }

// leasable reports whether a charge may be served from a lease. One limit that is
// not leased takes every charge to Redis anyway.
func leasable(c *tierlimit.Charge) bool {
	for i := range c.Ceilings {
		if !c.Ceilings[i].Lease {
			return false
		}
	}
	return c.Cost > 0
}

// take serves c if there is a share to serve it from. If not, the charge goes to
// Redis and the lease with it, to ask for another share; nil if there is none.
func (ls *leases) take(c *tierlimit.Charge, hash uint64, o *tierlimit.Outcome) *lease {
	if ls.closed.Load() {
		return nil
	}
	now := ls.now()
	shard := &ls.shards[hash>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	l := shard.find(c, hash)
	if l == nil || l.left < c.Cost || now >= l.expires || !sameCeilings(l.ceilings, c.Ceilings) {
		return l
	}
	l.left -= c.Cost
	l.served += c.Cost
	o.Allowed, o.Counts, o.Source, o.At = true, c.Room(), tierlimit.SourceLease, l.granted
	for i := range o.Counts {
		w := &l.windows[i]
		w.used = plus(w.used, c.Cost)
		o.Counts[i] = tierlimit.Count{Used: w.used, Reset: max((w.stop - now).Round(time.Millisecond), time.Millisecond), End: w.end}
	}
	return l
}

// chain is where the leases of a hash begin. mu is held.
func (s *leaseShard) chain(hash uint64) **lease {
	if s.chains == nil {
		s.chains = make([]*lease, 2*maxLeases/leaseShards)
	}
	return &s.chains[hash%uint64(len(s.chains))]
}

func (s *leaseShard) find(c *tierlimit.Charge, hash uint64) *lease {
	for l := *s.chain(hash); l != nil; l = l.next {
		if l.hash == hash && l.subject == c.Subject && sameNames(l.ceilings, c.Ceilings) {
			return l
		}
	}
	return nil
}

func sameNames(a, b []tierlimit.Ceiling) bool {
	return len(a) == len(b) && (&a[0] == &b[0] || slices.EqualFunc(a, b, func(x, y tierlimit.Ceiling) bool { return x.Name == y.Name }))
}

// add begins to watch the demand of a subject. It returns nil if there is no room.
func (ls *leases) add(c *tierlimit.Charge, hash uint64) *lease {
	if ls.closed.Load() {
		return nil
	}
	if ls.count.Add(1) > maxLeases {
		ls.count.Add(-1)
		return nil
	}
	shard := &ls.shards[hash>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if l := shard.find(c, hash); l != nil {
		ls.count.Add(-1)
		return l
	}
	chain := shard.chain(hash)
	l := &lease{shard: shard, subject: c.Subject, hash: hash, next: *chain, ceilings: c.Ceilings, since: ls.now()}
	l.windows = l.room[:]
	if n := len(c.Ceilings); n > len(l.room) {
		l.windows = make([]leasedWindow, n)
	}
	l.windows = l.windows[:len(c.Ceilings)]
	*chain = l
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if !ls.sweeping {
		ls.sweeping = true
		go ls.sweep()
	}
	return l
}

// ask puts into e what is asked for beside its charges: a share as large as the
// demand, and what is left of the last share taken back. Nobody is served from
// the lease until the answer is there.
func (l *lease) ask(e *entry, now time.Duration) {
	charged := int64(0)
	for i := range e.runs {
		charged = plus(charged, times(e.runs[i].cost, e.runs[i].sent()))
	}
	l.shard.mu.Lock()
	defer l.shard.mu.Unlock()
	l.served = plus(l.served, charged)
	if l.asking || l.gone {
		return
	}
	e.back, l.left = l.left, 0
	e.ends = e.ends[:0]
	for i := range l.windows {
		e.ends = append(e.ends, l.windows[i].end)
	}
	if charged > 0 {
		e.share = l.demand(e.ceilings, now)
		l.seen, l.since, l.served = true, now, 0
	}
	e.leased = e.share > 0 || e.back > 0
	l.asking = e.leased
}

// demand is what will be asked for during a lease, if it goes on as it did: a
// power of two, so that many ask for the same. Nothing for who comes once.
func (l *lease) demand(ceilings []tierlimit.Ceiling, now time.Duration) int64 {
	if !l.seen {
		return 0
	}
	watched := max(now-l.since, time.Microsecond)
	want := min(float64(l.served)*float64(lengthOf(ceilings))/float64(watched), growth*float64(l.served), maxShare)
	if want < 1 {
		return 0
	}
	return 1 << (bits.Len64(uint64(want)) - 1)
}

// lengthOf is how long a lease against these ceilings lasts.
func lengthOf(ceilings []tierlimit.Ceiling) time.Duration {
	length := maxLease
	for i := range ceilings {
		if w := ceilings[i].Window.Length; w > 0 {
			length = min(length, w/partOfWindow)
		}
	}
	return length
}

// answered fills l with what was granted to e, which asked at an instant of our
// clock. A share whose answer was lost stays charged until its window ends.
func (l *lease) answered(e *entry, asked time.Duration) {
	l.shard.mu.Lock()
	defer l.shard.mu.Unlock()
	l.asking = false
	if errors.Is(e.err, errMoved) { // nothing was given back
		l.left = e.back
		return
	}
	if e.err != nil || e.granted == 0 {
		return
	}
	charged := int64(0)
	for i := range e.runs {
		charged = plus(charged, times(e.runs[i].cost, e.runs[i].admitted))
	}
	l.ceilings, l.left, l.granted = e.ceilings, e.granted, e.now
	l.expires = asked + lengthOf(e.ceilings)
	for i := range l.windows {
		used, reset := e.counts[2*i], e.counts[2*i+1] // leased limits do not slide
		w := &l.windows[i]
		w.used, w.end = plus(max(used, 0), charged), e.now+reset
		w.stop = asked + time.Duration(reset)*time.Millisecond
		l.expires = min(l.expires, w.stop)
	}
}

// sweep gives back what has expired, as long as there are leases.
func (ls *leases) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for range ticker.C {
		now := ls.now()
		_ = ls.giveBack(context.Background(), ls.collect(func(l *lease) bool { return now >= l.expires }))
		ls.mu.Lock()
		if ls.count.Load() == 0 {
			ls.sweeping = false
			ls.mu.Unlock()
			return
		}
		ls.mu.Unlock()
	}
}

// collect returns the leases with something left that are due, and forgets those
// nobody asks for.
func (ls *leases) collect(due func(*lease) bool) (list []*lease) {
	now := ls.now()
	for i := range ls.shards {
		shard := &ls.shards[i]
		shard.mu.Lock()
		for j := range shard.chains {
			link := &shard.chains[j]
			for l := *link; l != nil; l = *link {
				switch {
				case l.asking:
				case l.left > 0 && due(l):
					list = append(list, l)
				case l.left == 0 && now > l.since+2*maxLease:
					*link, l.gone = l.next, true
					ls.count.Add(-1)
					continue
				}
				link = &l.next
			}
		}
		shard.mu.Unlock()
	}
	return list
}

// of returns the leases of one subject with something left.
func (ls *leases) of(subject string) []*lease {
	hash := hashOf(subject)
	var list []*lease
	shard := &ls.shards[hash>>56]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for l := *shard.chain(hash); l != nil; l = l.next {
		if l.subject == subject && l.left > 0 {
			list = append(list, l)
		}
	}
	return list
}

// givers is how many shares are on their way back at once. They travel together,
// and with the charges of the moment.
const givers = 64

// giveBack gives back what is left of the leases, and ends early with ctx. What
// cannot be given back stays charged until its window ends.
func (s *Store) giveBack(ctx context.Context, list []*lease) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(givers, len(list)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				s.giveBackOne(ctx, list[i])
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (s *Store) giveBackOne(ctx context.Context, l *lease) {
	l.shard.mu.Lock()
	c := tierlimit.Charge{Subject: l.subject, Ceilings: l.ceilings}
	l.shard.mu.Unlock()
	deadline := time.Now().Add(s.timeout)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	line, err := s.server.lineTo(ctx, c.Subject)
	if err != nil {
		return // it stays held, and is given back the next time
	}
	p := line.join(&c, l.hash, l, deadline)
	defer line.leave(p.batch)
	_ = line.await(&p, deadline) // lost, and charged until the window ends
}

// Close gives back what this process holds of leased limits, and takes no more
// of it: charges are made one by one from then on. It returns ctx's error if that
// ends before everything is given back. Call it when no Take is running, and
// before the client is closed. A Store without leased limits needs no Close.
func (s *Store) Close(ctx context.Context) error {
	s.leases.closed.Store(true)
	return s.giveBack(ctx, s.leases.collect(func(*lease) bool { return true }))
}
