package tiers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// A Memory is a catalogue in memory that is a resolver too. Its contents are lost when the
// process ends, unless they are kept in a file: see [OpenMemory]. It is safe for concurrent
// use.
type Memory struct {
	mu          sync.RWMutex
	set         *set                   // guarded by mu
	subjects    map[string]*resident   // guarded by mu
	credentials map[string]*credential // guarded by mu
	control     LoadControl            // guarded by mu
	version     int64                  // guarded by mu: the last one given out
	events      []Event                // guarded by mu: the last of them
	file        string                 // where all that is kept; "" nowhere
}

var (
	_ Catalogue          = (*Memory)(nil)
	_ tierlimit.Resolver = (*Memory)(nil)
)

// NewMemory returns a catalogue with the tiers in list. An error is a *tierlimit.FieldError
// or names the invalid tier.
func NewMemory(list []Tier) (*Memory, error) {
	m := newMemory()
	list = slices.Clone(list)
	for i := range list {
		m.version++
		list[i] = list[i].clone()
		list[i].Version = m.version
	}
	var err error
	m.set, err = newSet(list)
	return m, err
}

func newMemory() *Memory {
	return &Memory{subjects: make(map[string]*resident), credentials: make(map[string]*credential)}
}

// Resolve implements tierlimit.Resolver.
func (m *Memory) Resolve(_ context.Context, subject string, _ time.Time) (*tierlimit.Plan, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.subjects[subject]; r != nil {
		return r.plan(m.set)
	}
	return m.set.plan(""), nil
}

// Do implements Writer.
func (m *Memory) Do(_ context.Context, c Command) (Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempted(c.Attempt) {
		return Result{}, ErrRepeated
	}
	r, err := Decide(memoryView{m}, &c, time.Now())
	if err != nil || c.DryRun {
		return r, err
	}
	d, err := m.deltaOf(&r)
	if err != nil {
		return Result{}, err
	}
	events, err := EventsOf(&c, &r)
	if err != nil {
		return Result{}, err
	}
	return r, m.commit(d, events)
}

// A delta is a set of changes to a Memory.
type delta struct {
	set         *set                   // nil: as it is
	control     *LoadControl           // nil: as it is
	subjects    map[string]*resident   // nil under an id: gone
	credentials map[string]*credential // nil under an id: gone
	version     int64
}

// deltaOf returns the changes of r.Edits and stamps the edits with versions. mu must be held.
func (m *Memory) deltaOf(r *Result) (delta, error) {
	d := delta{version: m.version, subjects: make(map[string]*resident), credentials: make(map[string]*credential)}
	list, changed := make(map[string]Tier), false
	for _, t := range m.set.tiers {
		list[t.Key] = t
	}
	for i := range r.Edits {
		d.version++
		e := &r.Edits[i]
		e.Stamp(d.version)
		changed = changed || e.Kind == KindTier
		switch after := e.After.(type) {
		case Tier:
			list[e.Object] = after.clone()
		case Subject:
			after.Overrides = nil // the overrides of the draft have no versions yet
			if r, changed := d.subjects[e.Object]; changed && r != nil {
				after.Overrides = r.subject().Overrides
			} else if r := m.subjects[e.Object]; !changed && r != nil {
				after.Overrides = r.subject().Overrides
			}
			d.subjects[e.Object] = newResident(after.clone())
		case Override:
			m.override(&d, e.Ref, &after)
		case access.Credential:
			d.credentials[e.Object] = &credential{after}
		case LoadControl:
			control := after.clone()
			d.control = &control
		default:
			switch e.Kind {
			case KindTier:
				delete(list, e.Object)
			case KindSubject:
				d.subjects[e.Object] = nil
			case KindOverride:
				m.override(&d, e.Ref, nil)
			default:
				d.credentials[e.Object] = nil
			}
		}
	}
	if !changed {
		return d, nil
	}
	var err error
	d.set, err = newSet(slices.Collect(maps.Values(list)))
	return d, err
}

// override sets an override of a subject in d, or deletes it if o is nil. mu must be held.
func (m *Memory) override(d *delta, ref Ref, o *Override) {
	r, changed := d.subjects[ref.Object]
	if !changed {
		r = m.subjects[ref.Object]
	}
	s := r.subject().clone()
	s.Version = d.version
	delete(s.Overrides, ref.Limit)
	if o != nil {
		if s.Overrides == nil {
			s.Overrides = make(Overrides)
		}
		s.Overrides[ref.Limit] = *o
	}
	d.subjects[ref.Object] = newResident(s)
}

// commit applies d and logs events. On an error nothing changes. mu must be held.
func (m *Memory) commit(d delta, events []Event) error {
	before := m.events
	was := m.put(d)
	m.log(events)
	if err := m.save(); err != nil {
		m.put(was)
		m.events = before
		return err
	}
	return nil
}

func (m *Memory) put(d delta) (was delta) {
	was.version, m.version = m.version, d.version
	if d.set != nil {
		was.set, m.set = m.set, d.set
	}
	if d.control != nil {
		control := m.control
		was.control, m.control = &control, *d.control
	}
	was.subjects = swap(m.subjects, d.subjects)
	was.credentials = swap(m.credentials, d.credentials)
	return was
}

// swap sets the entries of comes in all, deletes those that are nil, and returns the
// previous entries.
func swap[T any](all, comes map[string]*T) (old map[string]*T) {
	old = make(map[string]*T, len(comes))
	for id, one := range comes {
		old[id] = all[id]
		if one == nil {
			delete(all, id)
		} else {
			all[id] = one
		}
	}
	return old
}

// maxEvents is how many events a Memory keeps.
const maxEvents = 1000

func (m *Memory) log(events []Event) {
	next, now := int64(1), timestamp.Round(time.Now())
	if n := len(m.events); n > 0 {
		next = m.events[n-1].ID + 1
	}
	list := slices.Clone(m.events)
	for _, e := range events {
		e.ID, e.At = next, now
		next++
		list = append(list, e)
	}
	m.events = list[max(0, len(list)-maxEvents):]
}

func (m *Memory) attempted(a Attempt) bool {
	return a.Key != "" && slices.ContainsFunc(m.events, func(old Event) bool { return old.Attempt.Key == a.Key })
}

// Record implements Catalogue.
func (m *Memory) Record(ctx context.Context, e Event, do func(context.Context) error) error {
	err := do(context.WithoutCancel(ctx)) // mu is not held: do may block
	if err != nil && !e.MarkUnknown(err) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(err, m.commit(delta{version: m.version}, []Event{e}))
}

// A memoryView is the View of a Memory. mu must be held.
type memoryView struct{ *Memory }

// Tiers implements View.
func (v memoryView) Tiers() []Tier { return v.set.tiers }

// Subject implements View.
func (v memoryView) Subject(id string) (Subject, bool) {
	r := v.subjects[id]
	if r == nil {
		return Subject{}, false
	}
	return r.subject().clone(), true
}

// Credential implements View.
func (v memoryView) Credential(id string) (access.Credential, bool) {
	c := v.credentials[id]
	if c == nil {
		return access.Credential{}, false
	}
	return c.Credential, true
}

// KeysOf implements View.
func (v memoryView) KeysOf(subject string) []access.Credential {
	return v.chooseCredentials(CredentialFilter{Kind: access.Key, Subject: subject})
}

// TokenNamed implements View.
func (v memoryView) TokenNamed(name string) (access.Credential, bool) {
	for _, c := range v.credentials {
		if c.Kind == access.Token && c.Name == name {
			return c.Credential, true
		}
	}
	return access.Credential{}, false
}

// On implements View.
func (v memoryView) On(tier string) (count int, first []string) {
	list := v.choose(SubjectFilter{Tier: tier})
	for _, r := range list[:min(InTheWay, len(list))] {
		first = append(first, r.id)
	}
	return len(list), first
}

// Naming implements View.
func (v memoryView) Naming(tier string) (list []Subject) {
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(v.subjects)) {
		if s := v.subjects[id].subject(); s.names(tier) && !s.on(tier, now) {
			list = append(list, s.clone())
		}
	}
	return list
}

// LoadControl implements View.
func (v memoryView) LoadControl() LoadControl { return v.control.clone() }

// chooses reports whether s matches f at present.
func (f *SubjectFilter) chooses(s *Subject) bool {
	return (f.Tier == "" || s.on(f.Tier, time.Now())) && (f.Status == "" || f.Status == s.Status) && strings.HasPrefix(s.ID, f.Prefix)
}

// choose returns the subjects that match f, by id. It ignores After and Most. mu must be held.
func (m *Memory) choose(f SubjectFilter) []*resident {
	var list []*resident
	for _, r := range m.subjects {
		if s := r.subject(); f.chooses(&s) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *resident) int { return strings.Compare(a.id, b.id) })
	return list
}

// chooseCredentials returns the credentials that match f, by id. It ignores Most. mu must be
// held.
func (m *Memory) chooseCredentials(f CredentialFilter) []access.Credential {
	var list []access.Credential
	for id, c := range m.credentials {
		if c.Kind == f.Kind && (f.Subject == "" || f.Subject == c.Subject) && id > f.After {
			list = append(list, c.Credential)
		}
	}
	slices.SortFunc(list, func(a, b access.Credential) int { return strings.Compare(a.ID, b.ID) })
	return list
}
