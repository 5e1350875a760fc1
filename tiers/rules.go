package tiers

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// A View is the part of a catalogue that Decide may read for a command.
type View interface {
	Tiers() []Tier
	Subject(id string) (Subject, bool)
	Credential(id string) (access.Credential, bool)
	KeysOf(subject string) []access.Credential
	TokenNamed(name string) (access.Credential, bool)
	// On returns how many subjects at present are on a tier, have a trial of it or will
	// change to it, and the first few of their ids.
	On(tier string) (count int, first []string)
	// Naming returns the subjects that name a tier only in the past: as the tier of a trial
	// that has ended, or as the tier before a change that has taken effect.
	Naming(tier string) []Subject
	LoadControl() LoadControl
	Webhooks() []Webhook // all of them
}

// Decide returns the edits of a command, or an error if the command is refused. It implements
// all rules and changes nothing itself. The edited objects have their old versions: the
// catalogue must stamp them.
func Decide(v View, c *Command, now time.Time) (Result, error) {
	if len(c.Operations) == 0 {
		return Result{}, errNoOperation
	}
	d := &draft{View: v, now: now}
	var r Result
	for i := range c.Operations {
		edit, err := d.decide(&c.Operations[i])
		if err != nil && len(c.Operations) > 1 {
			err = &OperationError{Index: i, Err: err}
		}
		if err != nil {
			return Result{}, err
		}
		if reflect.DeepEqual(edit.Before, edit.After) {
			r.Kept = append(r.Kept, edit)
			r.of = append(r.of, -len(r.Kept))
			continue
		}
		d.edits = append(d.edits, edit)
		r.of = append(r.of, len(d.edits)-1)
	}
	r.Edits = d.edits
	return r, nil
}

// A draft is a View with the changes made so far.
type draft struct {
	View
	now   time.Time
	edits []Edit

	// Changed objects by name; nil if deleted.
	tiers       map[string]*Tier
	subjects    map[string]*Subject
	credentials map[string]*access.Credential
	load        *LoadControl
	webhooks    map[string]*Webhook
}

// decide returns the edit of one operation and applies it to the draft. An invalid object is
// reported before a failed precondition.
func (d *draft) decide(o *Operation) (Edit, error) {
	before, version, err := d.find(o.Ref)
	if err != nil {
		return Edit{}, err
	}
	after := o.Put
	if after != nil {
		if after, err = d.valid(o.Ref, before, after); err != nil {
			return Edit{}, err
		}
	}
	if err := o.Expect.check(before != nil, version); err != nil {
		return Edit{}, refError(o.Ref, err)
	}
	if o.Patch != nil {
		if after, err = merge(o.Ref, before, o.Patch, d.now); err != nil {
			return Edit{}, err
		}
		if after, err = d.valid(o.Ref, before, after); err != nil {
			return Edit{}, err
		}
	}
	edit := Edit{Ref: o.Ref, Before: before}
	if after == nil {
		if before == nil {
			return Edit{}, refError(o.Ref, ErrNotFound)
		}
		return edit, d.remove(o.Ref, before)
	}
	edit.After = after
	if reflect.DeepEqual(before, after) { // an unchanged object needs no check
		return edit, nil
	}
	return edit, d.put(o, before, after)
}

// find returns the object that ref identifies and its version, or nil if it does not exist.
func (d *draft) find(ref Ref) (Object, int64, error) {
	switch ref.Kind {
	case KindTier:
		if t, ok := d.tier(ref.Object); ok {
			return t, t.Version, nil
		}
	case KindSubject:
		if s, ok := d.Subject(ref.Object); ok {
			return s, s.Version, nil
		}
	case KindOverride:
		s, ok := d.Subject(ref.Object)
		if !ok {
			return nil, 0, SubjectError(ref.Object, ErrNotFound)
		}
		if o, ok := s.Overrides[ref.Limit]; ok {
			return o, o.Version, nil
		}
	case string(access.Key), string(access.Token):
		if c, ok := d.Credential(ref.Object); ok && string(c.Kind) == ref.Kind {
			return c, c.Version, nil
		}
	case KindLoad:
		l := d.LoadControl()
		return l, l.Version, nil
	case KindWebhook:
		if w, ok := d.Webhook(ref.Object); ok {
			return w, w.Version, nil
		}
	}
	return nil, 0, nil
}

// refError adds the object's kind and name to err.
func refError(ref Ref, err error) error {
	switch ref.Kind {
	case KindTier:
		return TierError(ref.Object, err)
	case KindSubject:
		return SubjectError(ref.Object, err)
	case KindOverride:
		return OverrideError(ref.Object, ref.Limit, err)
	case KindLoad:
		return LoadControlError(err)
	case KindWebhook:
		return WebhookError(ref.Object, err)
	}
	return CredentialError(access.Kind(ref.Kind), ref.Object, err)
}

// valid fills in fields of after from ref and before, and validates it. The error lists all
// invalid fields.
func (d *draft) valid(ref Ref, before, after Object) (_ Object, err error) {
	switch after := after.(type) {
	case Tier:
		was, _ := before.(Tier)
		after = after.Clone()
		after.Version = was.Version
		if after.Key, err = named("key", ref.Object, after.Key); err != nil {
			return nil, err
		}
		after.Normalize()
		return after, after.Validate()
	case Subject:
		was, _ := before.(Subject)
		if after.ID, err = named("id", ref.Object, after.ID); err != nil {
			return nil, err
		}
		after.Overrides, after.Version = was.Overrides, was.Version
		after = after.Clone()
		return after, after.Validate()
	case Override:
		was, _ := before.(Override)
		if after.Limit, err = named("limit", ref.Limit, after.Limit); err != nil {
			return nil, err
		}
		after.Version = was.Version
		if after.StartsAt.IsZero() {
			after.StartsAt = was.StartsAt
		}
		if after.StartsAt.IsZero() {
			after.StartsAt = d.now
		}
		after.Normalize()
		return after, after.Validate()
	case access.Credential:
		return d.validCredential(ref, before, after)
	case LoadControl:
		was, _ := before.(LoadControl)
		after = after.Clone()
		after.Version = was.Version
		return after, after.Validate()
	case Webhook:
		return d.validWebhook(ref, before, after)
	}
	return nil, errors.New("what no catalogue holds")
}

func (d *draft) validCredential(ref Ref, before Object, c access.Credential) (_ Object, err error) {
	if c.ID, err = named("id", ref.Object, c.ID); err != nil {
		return nil, err
	}
	c.Kind, c.Secret = access.Kind(ref.Kind), ""
	if was, there := before.(access.Credential); there {
		if c.Subject == "" {
			c.Subject = was.Subject
		}
		c.CreatedAt, c.LastUsedAt, c.Hash, c.Version = was.CreatedAt, was.LastUsedAt, was.Hash, was.Version
	} else {
		c.CreatedAt, c.LastUsedAt, c.Version = timestamp.Round(d.now), nil, 0
	}
	c.Normalize()
	return c, c.Validate()
}

// named returns the name of an object, which is the one in its ref. It returns an error if the
// object has another name.
func named(field, inRef, said string) (string, error) {
	if said != "" && said != inRef {
		return "", &tierlimit.FieldError{Field: field, Value: said, Want: "left out, or " + strconv.Quote(inRef)}
	}
	return inRef, nil
}

// put applies a valid object to the draft, or returns an error if it conflicts with others.
func (d *draft) put(o *Operation, before, after Object) error {
	switch after := after.(type) {
	case Tier:
		was, _ := before.(Tier)
		return d.putTier(was, after)
	case Subject:
		return d.putSubject(after)
	case Override:
		return d.putOverride(o, after)
	case access.Credential:
		was, there := before.(access.Credential)
		return d.putCredential(was, there, after)
	case LoadControl:
		return d.putLoad(after)
	case Webhook:
		return d.putWebhook(after)
	}
	return errors.New("what no catalogue holds")
}

func (d *draft) putTier(was, t Tier) error {
	if was.Default && !t.Default {
		return StillDefaultError(t.Key)
	}
	if t.Default {
		for _, other := range d.Tiers() {
			if other.Default && other.Key != t.Key {
				next := other
				next.Default = false
				d.setTier(other.Key, &next)
				d.edits = append(d.edits, Edit{Ref: TierRef(other.Key), Before: other, After: next})
			}
		}
	}
	d.setTier(t.Key, &t)
	return nil
}

func (d *draft) putSubject(s Subject) error {
	var errs []error
	for _, field := range slices.Sorted(maps.Keys(s.Tiers())) {
		key := s.Tiers()[field]
		if _, ok := d.tier(key); !ok {
			errs = append(errs, UnknownTierError(field, key))
		}
	}
	d.setSubject(s.ID, &s)
	return errors.Join(errs...)
}

func (d *draft) putOverride(op *Operation, o Override) error {
	s, _ := d.Subject(op.Object) // found before
	if err := d.knows(&s, o.Limit); err != nil && !op.AnyLimit {
		return err
	}
	s = s.Clone()
	if s.Overrides == nil {
		s.Overrides = make(Overrides)
	}
	if _, there := s.Overrides[o.Limit]; !there && len(s.Overrides) >= MaxOverrides {
		return &tierlimit.FieldError{Field: "overrides", Value: strconv.Itoa(len(s.Overrides) + 1), Want: "at most " + strconv.Itoa(MaxOverrides) + " of a subject"}
	}
	s.Overrides[o.Limit] = o
	d.setSubject(s.ID, &s)
	return nil
}

// knows returns an error if no tier of a subject has the limit: an override of the limit
// would have no effect.
func (d *draft) knows(s *Subject, limit string) error {
	names := make(map[string]bool)
	for _, key := range s.Tiers() {
		t, _ := d.tier(key)
		for name := range t.Limits {
			names[name] = true
		}
	}
	if names[limit] {
		return nil
	}
	return &tierlimit.FieldError{Field: "limit", Value: limit, Want: "a limit of the subject's tiers: " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")}
}

func (d *draft) putCredential(was access.Credential, there bool, c access.Credential) error {
	if there && c.Subject != was.Subject {
		return OtherSubjectError(c.Subject)
	}
	if other, ok := d.Credential(c.ID); ok && other.Kind != c.Kind {
		return CredentialError(c.Kind, c.ID, ErrExists)
	}
	if _, ok := d.Subject(c.Subject); c.Kind == access.Key && !ok {
		return UnknownSubjectError(c.Subject)
	}
	if other, ok := d.TokenNamed(c.Name); c.Kind == access.Token && ok && other.ID != c.ID {
		return TokenNameError(c.Name)
	}
	d.setCredential(c.ID, &c)
	return nil
}

func (d *draft) putLoad(l LoadControl) error {
	was := d.LoadControl()
	d.load = &l
	return l.KnownTo(func(key string) bool {
		_, pinned := was.Pins[key]
		_, ok := d.tier(key)
		return pinned || ok
	})
}

// remove deletes an object and those that depend on it.
func (d *draft) remove(ref Ref, before Object) error {
	switch before := before.(type) {
	case Tier:
		return d.removeTier(before)
	case Subject:
		d.removeSubject(before)
	case Override:
		s, _ := d.Subject(ref.Object)
		s = s.Clone()
		delete(s.Overrides, ref.Limit)
		d.setSubject(s.ID, &s)
	case access.Credential:
		d.setCredential(before.ID, nil)
	case Webhook:
		d.setWebhook(before.ID, nil)
	default:
		return errors.New("load control cannot be deleted")
	}
	return nil
}

func (d *draft) removeTier(t Tier) error {
	if t.Default {
		return StillDefaultError(t.Key)
	}
	if count, first := d.On(t.Key); count > 0 {
		return &InUseError{Tier: t.Key, Count: count, Subjects: first}
	}
	for _, s := range d.Naming(t.Key) {
		now := s.AsOf(d.now)
		d.setSubject(s.ID, &now)
		d.edits = append(d.edits, Edit{Ref: SubjectRef(s.ID), Before: s, After: now})
	}
	d.setTier(t.Key, nil)
	return nil
}

func (d *draft) removeSubject(s Subject) {
	for _, limit := range slices.Sorted(maps.Keys(s.Overrides)) {
		d.edits = append(d.edits, Edit{Ref: OverrideRef(s.ID, limit), Before: s.Overrides[limit]})
	}
	for _, key := range d.KeysOf(s.ID) {
		d.edits = append(d.edits, Edit{Ref: CredentialRef(access.Key, key.ID), Before: key})
		d.setCredential(key.ID, nil)
	}
	d.setSubject(s.ID, nil)
}

// Methods that implement View.

// Tiers implements View.
func (d *draft) Tiers() []Tier {
	var list []Tier
	for _, t := range d.View.Tiers() {
		if _, changed := d.tiers[t.Key]; !changed {
			list = append(list, t)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.tiers)) {
		if t := d.tiers[key]; t != nil {
			list = append(list, *t)
		}
	}
	return list
}

func (d *draft) tier(key string) (Tier, bool) {
	for _, t := range d.Tiers() {
		if t.Key == key {
			return t, true
		}
	}
	return Tier{}, false
}

// Subject implements View.
func (d *draft) Subject(id string) (Subject, bool) {
	if s, changed := d.subjects[id]; changed {
		if s == nil {
			return Subject{}, false
		}
		return *s, true
	}
	return d.View.Subject(id)
}

// Credential implements View.
func (d *draft) Credential(id string) (access.Credential, bool) {
	if c, changed := d.credentials[id]; changed {
		if c == nil {
			return access.Credential{}, false
		}
		return *c, true
	}
	return d.View.Credential(id)
}

// KeysOf implements View.
func (d *draft) KeysOf(subject string) []access.Credential {
	list := slices.DeleteFunc(d.View.KeysOf(subject), func(c access.Credential) bool {
		_, changed := d.credentials[c.ID]
		return changed
	})
	for _, id := range slices.Sorted(maps.Keys(d.credentials)) {
		if c := d.credentials[id]; c != nil && c.Kind == access.Key && c.Subject == subject {
			list = append(list, *c)
		}
	}
	return list
}

// TokenNamed implements View.
func (d *draft) TokenNamed(name string) (access.Credential, bool) {
	for _, c := range d.credentials {
		if c != nil && c.Kind == access.Token && c.Name == name {
			return *c, true
		}
	}
	c, ok := d.View.TokenNamed(name)
	if _, changed := d.credentials[c.ID]; changed {
		return access.Credential{}, false
	}
	return c, ok
}

// On implements View. It includes the changes of the draft.
func (d *draft) On(tier string) (count int, first []string) {
	count, first = d.View.On(tier)
	first = slices.DeleteFunc(slices.Clone(first), func(id string) bool { _, changed := d.subjects[id]; return changed })
	for id, s := range d.subjects {
		if was, ok := d.View.Subject(id); ok && was.On(tier, d.now) {
			count--
		}
		if s != nil && s.On(tier, d.now) {
			count++
			first = append(first, id)
		}
	}
	slices.Sort(first)
	return count, first[:min(len(first), InTheWay)]
}

// Naming implements View.
func (d *draft) Naming(tier string) []Subject {
	list := slices.DeleteFunc(d.View.Naming(tier), func(s Subject) bool { _, changed := d.subjects[s.ID]; return changed })
	for _, id := range slices.Sorted(maps.Keys(d.subjects)) {
		if s := d.subjects[id]; s != nil && s.Names(tier) && !s.On(tier, d.now) {
			list = append(list, *s)
		}
	}
	return list
}

// LoadControl implements View.
func (d *draft) LoadControl() LoadControl {
	if d.load != nil {
		return d.load.Clone()
	}
	return d.View.LoadControl()
}

func (d *draft) setTier(key string, t *Tier) {
	if d.tiers == nil {
		d.tiers = make(map[string]*Tier)
	}
	d.tiers[key] = t
}

func (d *draft) setSubject(id string, s *Subject) {
	if d.subjects == nil {
		d.subjects = make(map[string]*Subject)
	}
	d.subjects[id] = s
}

func (d *draft) setCredential(id string, c *access.Credential) {
	if d.credentials == nil {
		d.credentials = make(map[string]*access.Credential)
	}
	d.credentials[id] = c
}

// Names reports whether s names a tier.
func (s *Subject) Names(tier string) bool {
	return slices.Contains(slices.Collect(maps.Values(s.Tiers())), tier)
}

// On reports whether at now s is on a tier, has a trial of it or will change to it.
func (s *Subject) On(tier string, now time.Time) bool {
	standing := s.AsOf(now)
	return standing.Names(tier)
}
