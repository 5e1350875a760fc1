package tiers

import (
	"context"
	"encoding/json"
	"time"
)

// An Event is what an administrator did: one change, written with it.
type Event struct {
	ID     int64           `json:"id"` // greater with each event
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Action string          `json:"action"`           // "tier.create", "subject.replace", "override.delete", "usage.reset"
	Kind   string          `json:"kind"`             // what it was done to: KindTier and so on
	Object string          `json:"object"`           // a tier's key, or a subject's id
	Detail string          `json:"detail,omitempty"` // of an override: its limit; of usage: the limits, or none for all
	Before json.RawMessage `json:"before"`           // null if it was not there
	After  json.RawMessage `json:"after"`            // null if it is gone
}

// The kinds of things that are changed.
const (
	KindTier     = "tier"
	KindSubject  = "subject"
	KindOverride = "override"
	KindUsage    = "usage"
)

// An EventFilter chooses events, the newest first. Its zero value chooses all.
type EventFilter struct {
	Kind   string
	Object string
	Actor  string
	Before int64 // only events with a smaller ID; 0: all
	Most   int   // of so many events
}

func (f *EventFilter) chooses(e *Event) bool {
	return (f.Kind == "" || f.Kind == e.Kind) && (f.Object == "" || f.Object == e.Object) &&
		(f.Actor == "" || f.Actor == e.Actor) && (f.Before == 0 || e.ID < f.Before)
}

type actorKey struct{}

// WithActor returns ctx for changes that the audit log ascribes to actor.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// ActorOf is who acts in ctx, "unknown" if nobody said.
func ActorOf(ctx context.Context) string {
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		return actor
	}
	return "unknown"
}

// NewEvent makes the event of one change: created if before is nil, deleted if
// after is.
func NewEvent(ctx context.Context, kind, object, detail string, before, after any) (Event, error) {
	verb := "replace"
	switch {
	case before == nil:
		verb = "create"
	case after == nil:
		verb = "delete"
	}
	e := Event{Actor: ActorOf(ctx), Action: kind + "." + verb, Kind: kind, Object: object, Detail: detail}
	var err error
	if e.Before, err = textOf(before); err != nil {
		return e, err
	}
	e.After, err = textOf(after)
	return e, err
}

func textOf(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}
