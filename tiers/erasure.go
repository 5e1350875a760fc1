package tiers

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// An Erasure removes data from the audit log: that of a person, or all that is old. Exactly one
// field is set.
type Erasure struct {
	// Subject: events of this subject, its overrides, its usage and its keys stay, without the
	// subject's id, the objects before and after, and the attempt.
	Subject string
	// ActorID: events of this actor stay, without the actor's name. Events of a token with this
	// id stay, without the objects before and after, and without the attempt.
	ActorID string
	// Before: events before this instant are deleted.
	Before time.Time
}

// Erased is written in the place of an erased name.
const Erased = "[erased]"

// KindAudit is the kind of the event of an erasure.
const KindAudit = "audit"

// An Eraser is a catalogue whose audit log can be erased.
type Eraser interface {
	// Erase returns the number of changed or deleted events. An event of the action
	// "audit.erase" is written with them, unless there are none. With dryRun nothing is written.
	// If Erase fails half-way, the number says what was done.
	Erase(ctx context.Context, a Actor, e Erasure, dryRun bool) (int, error)
}

// Validate returns an error unless exactly one field of e is set, and valid at now.
func (e *Erasure) Validate(now time.Time) error {
	set := 0
	for _, is := range []bool{e.Subject != "", e.ActorID != "", !e.Before.IsZero()} {
		if is {
			set++
		}
	}
	if set != 1 {
		return &tierlimit.FieldError{Field: "subject", Value: e.Subject, Want: "given, or actor_id, or before: one of the three"}
	}
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(e.Subject == "" || tierlimit.ValidSubject(e.Subject), "subject", e.Subject, tierlimit.SubjectRule)
	check(e.Subject != Erased, "subject", e.Subject, "another one: this stands in the place of what was erased")
	check(e.ActorID == "" || tierlimit.ValidSubject(e.ActorID), "actor_id", e.ActorID, tierlimit.SubjectRule)
	check(e.Before.IsZero() || timestamp.Valid(e.Before) && !e.Before.After(now), "before", e.Before.Format(time.RFC3339), "an instant that has passed")
	return errors.Join(errs...)
}

// Apply applies e to an event, and reports whether that changed it, or means to delete it.
func (e *Erasure) Apply(event *Event) (changed, deleted bool) {
	switch {
	case !e.Before.IsZero():
		return false, event.At.Before(e.Before)
	case e.ActorID != "":
		if event.ActorID == e.ActorID && event.Actor != Erased {
			event.Actor, changed = Erased, true
		}
		if event.Kind == string(access.Token) && event.Object == e.ActorID && (event.Before != nil || event.After != nil) {
			event.Before, event.After, event.Attempt, changed = nil, nil, Attempt{}, true
		}
		return changed, false
	}
	switch event.Kind {
	case KindSubject, KindOverride, KindUsage:
		if event.Object != e.Subject {
			return false, false
		}
		event.Object = Erased
	case string(access.Key):
		if event.Detail != e.Subject {
			return false, false
		}
	default:
		return false, false
	}
	if event.Kind != KindOverride && event.Detail != "" { // the detail of an override is its limit
		event.Detail = Erased
	}
	event.Before, event.After, event.Attempt = nil, nil, Attempt{}
	return true, false
}

// Event returns the event of an erasure of so many events. It does not name what was erased.
func (e *Erasure) Event(a Actor, events int) (Event, error) {
	after := struct {
		Events int        `json:"events"`
		Before *time.Time `json:"before,omitempty"`
	}{Events: events}
	event := Event{Actor: a.named(), ActorID: a.ID, Action: "audit.erase", Kind: KindAudit}
	switch {
	case e.Subject != "":
		event.Object = "subject"
	case e.ActorID != "":
		event.Object = "actor"
		if a.ID == e.ActorID {
			event.Actor = Erased
		}
	default:
		event.Object, after.Before = "events", &e.Before
	}
	var err error
	event.After, err = json.Marshal(after)
	return event, err
}
