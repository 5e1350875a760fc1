package tiers

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
)

// An Event is what an administrator did: one change, written with it.
type Event struct {
	ID      int64           `json:"id"` // greater with each event
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`              // the actor's name at that time
	ActorID string          `json:"actor_id,omitempty"` // the actor's id, which never changes
	Action  string          `json:"action"`             // "tier.create", "subject.replace", "override.delete", "usage.reset"
	Kind    string          `json:"kind"`               // the kind of the object: KindTier and so on
	Object  string          `json:"object"`             // a tier's key, or a subject's or credential's id
	Detail  string          `json:"detail,omitempty"`   // of an override: its limit; of usage: the limits, or none for all
	Before  json.RawMessage `json:"before"`             // null if the object was created
	After   json.RawMessage `json:"after"`              // null if the object was deleted

	Attempt Attempt `json:"attempt,omitzero"`
}

// MarkUnknown reports whether a change that failed with err may have taken place all the same,
// and then sets the outcome in e.After to "unknown".
func (e *Event) MarkUnknown(err error) bool {
	if !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		return false
	}
	e.After = json.RawMessage(`{"outcome":"unknown"}`)
	return true
}

// The kinds of things that are changed. Those of credentials are access.Key and
// access.Token.
const (
	KindTier     = "tier"
	KindSubject  = "subject"
	KindOverride = "override"
	KindUsage    = "usage"
	KindLoad     = "load"
)

// An EventFilter chooses events, the newest first. Its zero value chooses all.
type EventFilter struct {
	Kind    string
	Object  string // also the keys of a subject
	Actor   string
	Attempt string // its Key
	Before  int64  // only events with a smaller ID; 0: all
	Most    int    // of so many events

	Since, Until time.Time // only events at or after Since and before Until; zero: no bound
}

// Chooses reports whether f chooses e. It ignores Most.
func (f *EventFilter) Chooses(e *Event) bool {
	object := f.Object == "" || f.Object == e.Object || e.Kind == string(access.Key) && f.Object == e.Detail
	at := !e.At.Before(f.Since) && (f.Until.IsZero() || e.At.Before(f.Until))
	return (f.Kind == "" || f.Kind == e.Kind) && object && at &&
		(f.Actor == "" || f.Actor == e.Actor) && (f.Attempt == "" || f.Attempt == e.Attempt.Key) && (f.Before == 0 || e.ID < f.Before)
}

// EventsOf returns an event for each edit of a command. The event of the first operation has
// the command's attempt.
func EventsOf(c *Command, r *Result) ([]Event, error) {
	events := make([]Event, len(r.Edits))
	for i := range r.Edits {
		var err error
		if events[i], err = EventOf(c, &r.Edits[i]); err != nil {
			return nil, err
		}
	}
	if first := r.of[0]; first >= 0 {
		events[first].Attempt = c.Attempt
	}
	return events, nil
}

// EventOf returns the event of one edit of a command.
func EventOf(c *Command, e *Edit) (Event, error) {
	verb := "replace"
	switch {
	case e.Before == nil:
		verb = "create"
	case e.After == nil:
		verb = "delete"
	}
	event := Event{
		Actor: c.Actor.named(), ActorID: c.Actor.ID, Action: e.Kind + "." + verb, Kind: e.Kind, Object: e.Object, Detail: e.detail(),
	}
	var err error
	if event.Before, err = textOf(e.Before); err != nil {
		return event, err
	}
	event.After, err = textOf(e.After)
	return event, err
}

// detail returns Event.Detail: the limit of an override, or the subject of a key.
func (e *Edit) detail() string {
	for _, one := range []Object{e.Before, e.After} {
		if c, ok := one.(access.Credential); ok {
			return c.Subject
		}
	}
	return e.Limit
}

func (a Actor) named() string {
	if a.Name == "" {
		return "unknown"
	}
	return a.Name
}

func textOf(v Object) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}
