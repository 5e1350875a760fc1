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
	Object string          `json:"object"`           // a tier's key, or a subject's or credential's id
	Detail string          `json:"detail,omitempty"` // of an override: its limit; of usage: the limits, or none for all
	Before json.RawMessage `json:"before"`           // null if it was not there
	After  json.RawMessage `json:"after"`            // null if it is gone

	Attempt Attempt `json:"attempt,omitzero"`
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
	Object  string
	Actor   string
	Attempt string // its Key
	Before  int64  // only events with a smaller ID; 0: all
	Most    int    // of so many events
}

func (f *EventFilter) chooses(e *Event) bool {
	return (f.Kind == "" || f.Kind == e.Kind) && (f.Object == "" || f.Object == e.Object) &&
		(f.Actor == "" || f.Actor == e.Actor) && (f.Attempt == "" || f.Attempt == e.Attempt.Key) && (f.Before == 0 || e.ID < f.Before)
}

// An Attempt marks a change whose answer may be lost and which may be asked for
// again: there is one change with one Key. A Memory remembers the last thousand
// changes.
type Attempt struct {
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"` // of what was asked for
}

// An act is how a change is made.
type act struct {
	actor   string
	attempt Attempt
	dryRun  *Event
}

type actKey struct{}

func actOf(ctx context.Context) act {
	a, _ := ctx.Value(actKey{}).(act)
	return a
}

// WithActor returns ctx for changes that the audit log ascribes to actor.
func WithActor(ctx context.Context, actor string) context.Context {
	a := actOf(ctx)
	a.actor = actor
	return context.WithValue(ctx, actKey{}, a)
}

// WithAttempt returns ctx for a change that is made once however often it is asked
// for: again it is ErrRepeated, and the event of the first is in the audit log.
func WithAttempt(ctx context.Context, attempt Attempt) context.Context {
	a := actOf(ctx)
	a.attempt = attempt
	return context.WithValue(ctx, actKey{}, a)
}

// WithDryRun returns ctx for a change that is checked and prepared as any other,
// and then not made. The event it would have been is put into e.
func WithDryRun(ctx context.Context, e *Event) context.Context {
	a := actOf(ctx)
	a.dryRun = e
	return context.WithValue(ctx, actKey{}, a)
}

// ActorOf is who acts in ctx, "unknown" if nobody said.
func ActorOf(ctx context.Context) string {
	if actor := actOf(ctx).actor; actor != "" {
		return actor
	}
	return "unknown"
}

// AttemptOf is the attempt of a change made in ctx.
func AttemptOf(ctx context.Context) Attempt { return actOf(ctx).attempt }

// DryRunOf is where the event of a change goes that is not to be made in ctx, nil
// if it is.
func DryRunOf(ctx context.Context) *Event { return actOf(ctx).dryRun }

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
	e := Event{
		Actor: ActorOf(ctx), Action: kind + "." + verb, Kind: kind, Object: object, Detail: detail,
		Attempt: AttemptOf(ctx),
	}
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
