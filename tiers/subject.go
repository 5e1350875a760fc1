package tiers

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Subject is somebody known to be on a tier. A subject that is not known is
// on the default tier. Instants are kept to the millisecond, in UTC, and act by
// themselves when they come.
type Subject struct {
	ID            string
	Tier          string
	Trial         *Trial     // a tier it tries
	Next          *Change    // a tier it will be on
	BillingAnchor *time.Time // when its billing periods begin; nil: with the calendar's
	Status        Status     // default active
	GraceUntil    *time.Time // of one past due: when it is suspended
	BlockedUntil  *time.Time // denied until then, whatever it has used
	Overrides     Overrides  // not part of its JSON: they have versions of their own
	Version       int64      // set by the catalogue; greater with each change
}

// A Trial puts a subject on another tier until it ends.
type Trial struct {
	Tier   string
	EndsAt time.Time
}

// A Change puts a subject on another tier from an instant on.
type Change struct {
	Tier string
	At   time.Time
}

// A Status says how a subject's account stands.
type Status string

// The statuses.
const (
	Active    Status = "active"
	PastDue   Status = "past_due"  // served until GraceUntil, suspended from then on
	Suspended Status = "suspended" // every request is denied
)

// Normalize fills in what a subject may leave out, and rounds its instants.
func (s *Subject) Normalize() {
	if s.Status == "" {
		s.Status = Active
	}
	if s.Trial != nil {
		s.Trial = &Trial{s.Trial.Tier, roundTime(s.Trial.EndsAt)}
	}
	if s.Next != nil {
		s.Next = &Change{s.Next.Tier, roundTime(s.Next.At)}
	}
	for _, t := range []**time.Time{&s.BillingAnchor, &s.GraceUntil, &s.BlockedUntil} {
		if *t != nil {
			rounded := roundTime(**t)
			*t = &rounded
		}
	}
}

func roundTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// Validate reports everything that is wrong with s, each as a
// *tierlimit.FieldError, joined.
func (s *Subject) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	checkTime := func(t *time.Time, field string) {
		if t != nil {
			check(validTime(*t), field, t.Format(time.RFC3339), timeRule)
		}
	}
	check(tierlimit.ValidSubject(s.ID), "id", s.ID, tierlimit.SubjectRule)
	check(tierlimit.ValidName(s.Tier), "tier", s.Tier, "the key of a tier")
	if s.Trial != nil {
		check(tierlimit.ValidName(s.Trial.Tier), "trial.tier", s.Trial.Tier, "the key of a tier")
		checkTime(&s.Trial.EndsAt, "trial.ends_at")
	}
	if s.Next != nil {
		check(tierlimit.ValidName(s.Next.Tier), "next.tier", s.Next.Tier, "the key of a tier")
		checkTime(&s.Next.At, "next.at")
	}
	checkTime(s.BillingAnchor, "billing_anchor")
	checkTime(s.BlockedUntil, "blocked_until")
	checkTime(s.GraceUntil, "grace_until")
	check(s.Status == Active || s.Status == PastDue || s.Status == Suspended, "status", string(s.Status), "active, past_due or suspended")
	check(s.Status != PastDue || s.GraceUntil != nil, "grace_until", "", "given for a subject that is past due")
	check(s.Status == PastDue || s.GraceUntil == nil, "grace_until", "", "left out unless the status is past_due")
	return errors.Join(errs...)
}

const timeRule = "an instant from 1970 to 9999 such as 2026-11-25T12:00:00Z"

func validTime(t time.Time) bool {
	ms := t.UnixMilli()
	return ms > 0 && ms <= tierlimit.MaxAnchor
}

// Tiers are the keys of those that s names, by the field that does.
func (s *Subject) Tiers() map[string]string {
	named := map[string]string{"tier": s.Tier}
	if s.Trial != nil {
		named["trial.tier"] = s.Trial.Tier
	}
	if s.Next != nil {
		named["next.tier"] = s.Next.Tier
	}
	return named
}

// AsOf returns s with what has come by now carried out: a change that was due is
// made, and a trial that has ended is gone. It stands as before.
func (s Subject) AsOf(now time.Time) Subject {
	if s.Next != nil && !s.Next.At.After(now) {
		s.Tier, s.Next = s.Next.Tier, nil
	}
	if s.Trial != nil && !s.Trial.EndsAt.After(now) {
		s.Trial = nil
	}
	return s
}

// clone lets a catalogue hand out subjects that its callers may change.
func (s Subject) clone() Subject {
	s.Normalize() // which makes new instants
	s.Overrides = s.Overrides.clone()
	return s
}

type subjectJSON struct {
	ID            string      `json:"id"`
	Tier          string      `json:"tier"`
	Trial         *trialJSON  `json:"trial,omitempty"`
	Next          *changeJSON `json:"next,omitempty"`
	BillingAnchor *string     `json:"billing_anchor,omitempty"`
	Status        Status      `json:"status"`
	GraceUntil    *string     `json:"grace_until,omitempty"`
	BlockedUntil  *string     `json:"blocked_until,omitempty"`
	Version       int64       `json:"version"`
}

type trialJSON struct {
	Tier   string `json:"tier"`
	EndsAt string `json:"ends_at"`
}

type changeJSON struct {
	Tier string `json:"tier"`
	At   string `json:"at"`
}

// MarshalJSON leaves out what is not there, and the overrides.
func (s Subject) MarshalJSON() ([]byte, error) {
	j := subjectJSON{
		ID: s.ID, Tier: s.Tier, Status: s.Status, Version: s.Version,
		BillingAnchor: timeText(s.BillingAnchor), GraceUntil: timeText(s.GraceUntil), BlockedUntil: timeText(s.BlockedUntil),
	}
	if s.Status == "" {
		j.Status = Active
	}
	if s.Trial != nil {
		j.Trial = &trialJSON{s.Trial.Tier, *timeText(&s.Trial.EndsAt)}
	}
	if s.Next != nil {
		j.Next = &changeJSON{s.Next.Tier, *timeText(&s.Next.At)}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes, refuses fields it does not know,
// and reports every instant that is none.
func (s *Subject) UnmarshalJSON(data []byte) error {
	var j subjectJSON
	if err := strict(data, &j); err != nil {
		return err
	}
	var p timeParser
	*s = Subject{
		ID: j.ID, Tier: j.Tier, Status: j.Status, Version: j.Version,
		BillingAnchor: p.optional("billing_anchor", j.BillingAnchor),
		GraceUntil:    p.optional("grace_until", j.GraceUntil),
		BlockedUntil:  p.optional("blocked_until", j.BlockedUntil),
	}
	if j.Trial != nil {
		s.Trial = &Trial{j.Trial.Tier, p.parse("trial.ends_at", j.Trial.EndsAt)}
	}
	if j.Next != nil {
		s.Next = &Change{j.Next.Tier, p.parse("next.at", j.Next.At)}
	}
	return errors.Join(p.errs...)
}

// NoSuchField is what is wanted of a field that is not known, as an error says it.
const NoSuchField = "left out: there is no such field"

// strict decodes one JSON value without fields that are not known.
func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var wrongType *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &wrongType) && strings.HasPrefix(err.Error(), "json: unknown field ") {
		name := strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`)
		return &tierlimit.FieldError{Field: name[:min(len(name), 64)], Want: NoSuchField}
	}
	return err
}

// A timeParser reads instants and gathers what is wrong with them.
type timeParser struct{ errs []error }

func (p *timeParser) parse(field, text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		p.errs = append(p.errs, &tierlimit.FieldError{Field: field, Value: text, Want: timeRule})
	}
	return t
}

func (p *timeParser) optional(field string, text *string) *time.Time {
	if text == nil {
		return nil
	}
	t := p.parse(field, *text)
	return &t
}

func timeText(t *time.Time) *string {
	if t == nil {
		return nil
	}
	text := t.UTC().Format(time.RFC3339Nano)
	return &text
}
