// Package memtiers keeps tiers, subjects and credentials in one process, and in a file if
// asked. It is for development, tests and programs that do without Postgres.
package memtiers

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
	"github.com/tierlimit/tierlimit/tiers"
)

// A Catalogue is a tiers.Catalogue in memory, and a resolver and a keyring too. Its contents
// are lost when the process ends, unless they are kept in a file: see [Open]. It is safe for
// concurrent use.
type Catalogue struct {
	mu          sync.RWMutex
	set         *tiers.Set                    // guarded by mu
	subjects    map[string]*tiers.Resident    // guarded by mu
	credentials map[string]*access.Credential // guarded by mu
	control     tiers.LoadControl             // guarded by mu
	webhooks    map[string]*tiers.Webhook     // guarded by mu
	outbox      outbox                        // guarded by mu
	version     int64                         // guarded by mu: the last one given out
	events      []tiers.Event                 // guarded by mu: the last of them
	file        string                        // where all that is kept; "" nowhere
}

var (
	_ tiers.Catalogue    = (*Catalogue)(nil)
	_ tiers.Keyring      = (*Catalogue)(nil)
	_ tierlimit.Resolver = (*Catalogue)(nil)
)

// New returns a catalogue with the tiers in list. An error is a *tierlimit.FieldError
// or names the invalid tier.
func New(list []tiers.Tier) (*Catalogue, error) {
	m := empty()
	list = slices.Clone(list)
	for i := range list {
		m.version++
		list[i] = list[i].Clone()
		list[i].Version = m.version
	}
	var err error
	m.set, err = tiers.NewSet(list)
	return m, err
}

func empty() *Catalogue {
	return &Catalogue{
		subjects: make(map[string]*tiers.Resident), credentials: make(map[string]*access.Credential),
		webhooks: make(map[string]*tiers.Webhook), outbox: outbox{alerts: make(map[window]*alert), began: time.Now()},
	}
}

// Resolve implements tierlimit.Resolver.
func (m *Catalogue) Resolve(_ context.Context, subject string, _ time.Time) (*tierlimit.Plan, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.subjects[subject]; r != nil {
		return r.Plan(m.set)
	}
	return m.set.Plan("", subject), nil
}

// Do implements Writer.
func (m *Catalogue) Do(_ context.Context, c tiers.Command) (tiers.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempted(c.Attempt) {
		return tiers.Result{}, tiers.ErrRepeated
	}
	r, err := tiers.Decide(view{m}, &c, time.Now())
	if err != nil || c.DryRun {
		return r, err
	}
	d, err := m.deltaOf(&r)
	if err != nil {
		return tiers.Result{}, err
	}
	events, err := tiers.EventsOf(&c, &r)
	if err != nil {
		return tiers.Result{}, err
	}
	return r, m.commit(d, events)
}

// A delta is a set of changes to a Catalogue.
type delta struct {
	set         *tiers.Set                    // nil: as it is
	control     *tiers.LoadControl            // nil: as it is
	subjects    map[string]*tiers.Resident    // nil under an id: gone
	credentials map[string]*access.Credential // nil under an id: gone
	webhooks    map[string]*tiers.Webhook     // nil under an id: gone
	version     int64
}

// deltaOf returns the changes of r.Edits and stamps the edits with versions. mu must be held.
func (m *Catalogue) deltaOf(r *tiers.Result) (delta, error) {
	d := delta{
		version: m.version, subjects: make(map[string]*tiers.Resident), credentials: make(map[string]*access.Credential),
		webhooks: make(map[string]*tiers.Webhook),
	}
	list, changed := make(map[string]tiers.Tier), false
	for _, t := range m.set.List() {
		list[t.Key] = t
	}
	for i := range r.Edits {
		d.version++
		e := &r.Edits[i]
		e.Stamp(d.version)
		changed = changed || e.Kind == tiers.KindTier
		switch after := e.After.(type) {
		case tiers.Tier:
			list[e.Object] = after.Clone()
		case tiers.Subject:
			after.Overrides = nil // the overrides of the draft have no versions yet
			if r, changed := d.subjects[e.Object]; changed && r != nil {
				after.Overrides = r.Subject().Overrides
			} else if r := m.subjects[e.Object]; !changed && r != nil {
				after.Overrides = r.Subject().Overrides
			}
			d.subjects[e.Object] = tiers.NewResident(after.Clone())
		case tiers.Override:
			m.override(&d, e.Ref, &after)
		case access.Credential:
			d.credentials[e.Object] = &after
		case tiers.LoadControl:
			control := after.Clone()
			d.control = &control
		case tiers.Webhook:
			d.webhooks[e.Object] = &after
		default:
			switch e.Kind {
			case tiers.KindTier:
				delete(list, e.Object)
			case tiers.KindSubject:
				d.subjects[e.Object] = nil
			case tiers.KindOverride:
				m.override(&d, e.Ref, nil)
			case tiers.KindWebhook:
				d.webhooks[e.Object] = nil
			default:
				d.credentials[e.Object] = nil
			}
		}
	}
	if !changed {
		return d, nil
	}
	var err error
	d.set, err = tiers.NewSet(slices.Collect(maps.Values(list)))
	return d, err
}

// override sets an override of a subject in d, or deletes it if o is nil. mu must be held.
func (m *Catalogue) override(d *delta, ref tiers.Ref, o *tiers.Override) {
	r, changed := d.subjects[ref.Object]
	if !changed {
		r = m.subjects[ref.Object]
	}
	s := r.Subject().Clone()
	s.Version = d.version
	delete(s.Overrides, ref.Limit)
	if o != nil {
		if s.Overrides == nil {
			s.Overrides = make(tiers.Overrides)
		}
		s.Overrides[ref.Limit] = *o
	}
	d.subjects[ref.Object] = tiers.NewResident(s)
}

// commit applies d and logs events. On an error nothing changes. mu must be held.
func (m *Catalogue) commit(d delta, events []tiers.Event) error {
	before := m.events
	was := m.put(d)
	m.log(events)
	if err := m.save(); err != nil {
		m.put(was)
		m.events = before
		return err
	}
	for id, w := range d.webhooks {
		if w == nil {
			m.outbox.deliveries = slices.DeleteFunc(m.outbox.deliveries, func(d *delivery) bool { return d.webhook == id })
		}
	}
	m.tellChanges(events)
	return nil
}

func (m *Catalogue) put(d delta) (was delta) {
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
	was.webhooks = swap(m.webhooks, d.webhooks)
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

// maxEvents is how many events a Catalogue keeps.
const maxEvents = 1000

func (m *Catalogue) log(events []tiers.Event) {
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

func (m *Catalogue) attempted(a tiers.Attempt) bool {
	return a.Key != "" && slices.ContainsFunc(m.events, func(old tiers.Event) bool { return old.Attempt.Key == a.Key })
}

// Record implements Catalogue.
func (m *Catalogue) Record(ctx context.Context, e tiers.Event, do func(context.Context) error) error {
	err := do(context.WithoutCancel(ctx)) // mu is not held: do may block
	if err != nil && !e.MarkUnknown(err) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(err, m.commit(delta{version: m.version}, []tiers.Event{e}))
}

// Erase implements tiers.Eraser.
func (m *Catalogue) Erase(_ context.Context, a tiers.Actor, e tiers.Erasure, dryRun bool) (int, error) {
	if err := e.Validate(time.Now()); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Subject != "" && !dryRun {
		m.forget(e.Subject)
	}
	var kept []tiers.Event
	n := 0
	for _, one := range m.events {
		changed, deleted := e.Apply(&one)
		if changed || deleted {
			n++
		}
		if !deleted {
			kept = append(kept, one)
		}
	}
	if n == 0 || dryRun {
		return n, nil
	}
	event, err := e.Event(a, n)
	if err != nil {
		return 0, err
	}
	before := m.events
	m.log([]tiers.Event{event})
	kept = append(kept, m.events[len(m.events)-1])
	m.events = kept[max(0, len(kept)-maxEvents):]
	if err := m.save(); err != nil {
		m.events = before
		return 0, err
	}
	return n, nil
}

// A view is the View of a Catalogue. mu must be held.
type view struct{ *Catalogue }

// Tiers implements View.
func (v view) Tiers() []tiers.Tier { return v.set.List() }

// Subject implements View.
func (v view) Subject(id string) (tiers.Subject, bool) {
	r := v.subjects[id]
	if r == nil {
		return tiers.Subject{}, false
	}
	return r.Subject().Clone(), true
}

// Credential implements View.
func (v view) Credential(id string) (access.Credential, bool) {
	c := v.credentials[id]
	if c == nil {
		return access.Credential{}, false
	}
	return *c, true
}

// KeysOf implements View.
func (v view) KeysOf(subject string) []access.Credential {
	return v.chooseCredentials(tiers.CredentialFilter{Kind: access.Key, Subject: subject})
}

// TokenNamed implements View.
func (v view) TokenNamed(name string) (access.Credential, bool) {
	for _, c := range v.credentials {
		if c.Kind == access.Token && c.Name == name {
			return *c, true
		}
	}
	return access.Credential{}, false
}

// On implements View.
func (v view) On(tier string) (count int, first []string) {
	list := v.choose(tiers.SubjectFilter{Tier: tier})
	for _, r := range list[:min(tiers.InTheWay, len(list))] {
		first = append(first, r.ID())
	}
	return len(list), first
}

// Naming implements View.
func (v view) Naming(tier string) (list []tiers.Subject) {
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(v.subjects)) {
		if s := v.subjects[id].Subject(); s.Names(tier) && !s.On(tier, now) {
			list = append(list, s.Clone())
		}
	}
	return list
}

// LoadControl implements View.
func (v view) LoadControl() tiers.LoadControl { return v.control.Clone() }

// Webhooks implements View.
func (v view) Webhooks() (list []tiers.Webhook) {
	for _, id := range slices.Sorted(maps.Keys(v.webhooks)) {
		list = append(list, *v.webhooks[id])
	}
	return list
}

// choose returns the subjects that match f, by id. It ignores After and Most. mu must be held.
func (m *Catalogue) choose(f tiers.SubjectFilter) []*tiers.Resident {
	var list []*tiers.Resident
	for _, r := range m.subjects {
		if s := r.Subject(); f.Chooses(&s) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *tiers.Resident) int { return strings.Compare(a.ID(), b.ID()) })
	return list
}

// chooseCredentials returns the credentials that match f, by id. It ignores Most. mu must be
// held.
func (m *Catalogue) chooseCredentials(f tiers.CredentialFilter) []access.Credential {
	var list []access.Credential
	for id, c := range m.credentials {
		if c.Kind == f.Kind && (f.Subject == "" || f.Subject == c.Subject) && id > f.After {
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(a, b access.Credential) int { return strings.Compare(a.ID, b.ID) })
	return list
}
