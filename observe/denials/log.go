// Package denials remembers who was denied and why, in bounded memory: the last denials of each
// subject, and an estimate of who is denied most. The replicas of a fleet share what they
// remember through a Board.
package denials

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Denial is one denied decision.
type Denial struct {
	At      time.Time        `json:"at"`
	Replica string           `json:"replica"`
	Reason  tierlimit.Reason `json:"reason"`
	Limit   string           `json:"limit"` // the binding limit; "" if no limit denied
	Scope   string           `json:"scope"`
	Cost    int64            `json:"cost"`
	Used    int64            `json:"used"` // of the binding limit
	Max     int64            `json:"max"`  // of the binding limit, as load left it
	Source  tierlimit.Source `json:"source"`
}

// A Tally estimates how often a subject was denied.
type Tally struct {
	Subject string `json:"subject"`
	Tier    string `json:"tier"`
	Denied  int64  `json:"denied"` // may be too high by Error, never too low
	Error   int64  `json:"error"`
	Last    Denial `json:"last"`
}

// A Report says who was denied most.
type Report struct {
	Since    time.Time `json:"since"`    // denials before are not counted
	Replicas int       `json:"replicas"` // whose denials are counted
	Items    []Tally   `json:"items"`    // who was denied most stands first
}

// Bounds of a Log.
const (
	tallied  = 256              // subjects that are tallied; the others are estimated
	subjects = 4096             // subjects whose last denials are kept
	last     = 5                // denials that are kept of a subject
	turn     = 30 * time.Minute // a Report covers the last turn and the current one
)

// A Log remembers the denials of one process. It is safe for concurrent use.
type Log struct {
	replica string
	now     func() time.Time

	mu             sync.Mutex
	current, older *sketch
	recent         map[string]*list.Element // by subject
	order          *list.List               // of *subject, denied last at the front
	changed        []string                 // customers whose denials were not shared yet
}

type subject struct {
	name    string
	denials []Denial // the last at the end
	changed bool
}

// NewLog returns an empty Log of the replica with this name.
func NewLog(replica string) *Log {
	l := &Log{replica: replica, now: time.Now, recent: make(map[string]*list.Element), order: list.New()}
	l.current = newSketch(l.now())
	l.older = newSketch(l.current.since)
	return l
}

// Denied records a denied decision; it fits observe.Config.Denied.
func (l *Log) Denied(tier string, o *tierlimit.Observation) {
	d := Denial{
		At: o.Began.UTC().Truncate(time.Millisecond), Replica: l.replica, Reason: o.Reason, Limit: o.Limit,
		Scope: o.Scope, Cost: o.Cost, Source: o.Source,
	}
	for i := range o.Windows {
		if w := &o.Windows[i]; w.Limit == o.Limit {
			d.Used, d.Max = w.Used, w.EffectiveMax
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.current.since) >= turn {
		l.older, l.current = l.current, newSketch(now)
	}
	l.current.add(tier, o, &d)
	l.remember(o, &d)
}

// remember keeps d among the last denials of its subject. l.mu is locked.
func (l *Log) remember(o *tierlimit.Observation, d *Denial) {
	e := l.recent[o.Subject]
	if e == nil {
		if l.order.Len() >= subjects {
			oldest := l.order.Back()
			delete(l.recent, l.order.Remove(oldest).(*subject).name) //nolint:forcetypeassert // nothing else goes in
		}
		e = l.order.PushFront(&subject{name: o.Subject})
		l.recent[o.Subject] = e
	}
	l.order.MoveToFront(e)
	s := e.Value.(*subject) //nolint:forcetypeassert // nothing else goes in
	if len(s.denials) == last {
		s.denials = slices.Delete(s.denials, 0, 1)
	}
	s.denials = append(s.denials, *d)
	if !o.Unknown && !s.changed {
		s.changed = true
		l.changed = append(l.changed, s.name)
	}
}

// Last returns the last denials of a subject in this process, the last one first.
func (l *Log) Last(name string) []Denial {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.recent[name]
	if e == nil {
		return nil
	}
	kept := slices.Clone(e.Value.(*subject).denials) //nolint:forcetypeassert // nothing else goes in
	slices.Reverse(kept)
	return kept
}

// Report returns who was denied most in this process.
func (l *Log) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Merge(Report{Since: l.older.since, Items: l.older.tallies()}, Report{Replicas: 1, Since: l.older.since, Items: l.current.tallies()})
}

// takeChanged returns at most n customers with new denials since the last call, and their last
// denials.
func (l *Log) takeChanged(n int) map[string][]Denial {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.changed))
	taken := make(map[string][]Denial, n)
	for _, name := range l.changed[:n] {
		if e := l.recent[name]; e != nil {
			s := e.Value.(*subject) //nolint:forcetypeassert // nothing else goes in
			s.changed = false
			taken[name] = slices.Clone(s.denials)
		}
	}
	l.changed = slices.Delete(l.changed, 0, n)
	return taken
}

// Merge adds reports up.
func Merge(reports ...Report) (sum Report) {
	index := make(map[string]int)
	for _, r := range reports {
		sum.Replicas += r.Replicas
		if sum.Since.IsZero() || r.Since.Before(sum.Since) {
			sum.Since = r.Since
		}
		for _, t := range r.Items {
			i, known := index[t.Subject]
			if !known {
				index[t.Subject] = len(sum.Items)
				sum.Items = append(sum.Items, t)
				continue
			}
			one := &sum.Items[i]
			one.Denied += t.Denied
			one.Error += t.Error
			if t.Last.At.After(one.Last.At) {
				one.Last, one.Tier = t.Last, t.Tier
			}
		}
	}
	slices.SortStableFunc(sum.Items, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(b.Denied, a.Denied), cmp.Compare(a.Subject, b.Subject))
	})
	return sum
}

// Top returns the first n tallies of r, only those of tier if tier is not "".
func (r Report) Top(tier string, n int) Report {
	kept := make([]Tally, 0, n)
	for _, t := range r.Items {
		if len(kept) < n && (tier == "" || t.Tier == tier) {
			kept = append(kept, t)
		}
	}
	r.Items = kept
	return r
}

// A sketch tallies the subjects that are denied most, by the space-saving algorithm (Metwally,
// Agrawal and El Abbadi, 2005): a new subject takes the place of the one with the lowest tally,
// and inherits that tally as its error.
type sketch struct {
	since time.Time
	by    map[string]*Tally
}

func newSketch(since time.Time) *sketch {
	return &sketch{since: since, by: make(map[string]*Tally)}
}

func (s *sketch) add(tier string, o *tierlimit.Observation, d *Denial) {
	weight := max(o.Weight, 1)
	t := s.by[o.Subject]
	if t == nil {
		t = &Tally{Subject: o.Subject}
		if len(s.by) >= tallied {
			lowest := s.lowest()
			delete(s.by, lowest.Subject)
			t.Denied, t.Error = lowest.Denied, lowest.Denied
		}
		s.by[o.Subject] = t
	}
	t.Tier, t.Last = tier, *d
	t.Denied += weight
}

func (s *sketch) lowest() (lowest *Tally) {
	for _, t := range s.by {
		if lowest == nil || t.Denied < lowest.Denied {
			lowest = t
		}
	}
	return lowest
}

func (s *sketch) tallies() []Tally {
	all := make([]Tally, 0, len(s.by))
	for _, t := range s.by {
		all = append(all, *t)
	}
	return all
}
