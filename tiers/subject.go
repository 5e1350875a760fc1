package tiers

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/timestamp"
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

const statuses = "active, past_due or suspended"

// Normalize fills in what a subject may leave out, and rounds its instants.
func (s *Subject) Normalize() {
	if s.Status == "" {
		s.Status = Active
	}
	if s.Trial != nil {
		s.Trial = &Trial{s.Trial.Tier, timestamp.Round(s.Trial.EndsAt)}
	}
	if s.Next != nil {
		s.Next = &Change{s.Next.Tier, timestamp.Round(s.Next.At)}
	}
	timestamp.RoundAll(&s.BillingAnchor, &s.GraceUntil, &s.BlockedUntil)
}

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
			check(timestamp.Valid(*t), field, t.Format(time.RFC3339), timestamp.Rule)
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
	check(s.Status == Active || s.Status == PastDue || s.Status == Suspended, "status", string(s.Status), statuses)
	check(s.Status != PastDue || s.GraceUntil != nil, "grace_until", "", "given for a subject that is past due")
	check(s.Status == PastDue || s.GraceUntil == nil, "grace_until", "", "left out unless the status is past_due")
	return errors.Join(errs...)
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

// Clone returns a copy that shares nothing with s.
func (s Subject) Clone() Subject {
	s.Normalize() // which makes new instants
	s.Overrides = s.Overrides.Clone()
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
		BillingAnchor: timestamp.Text(s.BillingAnchor), GraceUntil: timestamp.Text(s.GraceUntil), BlockedUntil: timestamp.Text(s.BlockedUntil),
	}
	if s.Status == "" {
		j.Status = Active
	}
	if s.Trial != nil {
		j.Trial = &trialJSON{s.Trial.Tier, *timestamp.Text(&s.Trial.EndsAt)}
	}
	if s.Next != nil {
		j.Next = &changeJSON{s.Next.Tier, *timestamp.Text(&s.Next.At)}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes, refuses fields it does not know,
// and reports every instant that is none.
func (s *Subject) UnmarshalJSON(data []byte) error {
	var j subjectJSON
	p := timestamp.Parser{Errs: []error{strictjson.Strict(data, &j)}}
	*s = Subject{
		ID: j.ID, Tier: j.Tier, Status: j.Status, Version: j.Version,
		BillingAnchor: p.Optional("billing_anchor", j.BillingAnchor),
		GraceUntil:    p.Optional("grace_until", j.GraceUntil),
		BlockedUntil:  p.Optional("blocked_until", j.BlockedUntil),
	}
	if j.Trial != nil {
		s.Trial = &Trial{j.Trial.Tier, p.Parse("trial.ends_at", j.Trial.EndsAt)}
	}
	if j.Next != nil {
		s.Next = &Change{j.Next.Tier, p.Parse("next.at", j.Next.At)}
	}
	return errors.Join(p.Errs...)
}
