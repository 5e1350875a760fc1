package tierstest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// customerLog writes two subjects with a key each, an override and a token, by alice, and
// deletes one of the subjects. It returns the token.
func customerLog(t *testing.T, c tiers.Editor) access.Credential {
	t.Helper()
	ctx := t.Context()
	for _, id := range []string{"anna@example.com", "bert@example.com"} {
		must(c.CreateSubject(ctx, tiers.Subject{ID: id, Tier: "pro"}))(t)
		must(c.CreateCredential(ctx, key(id)))(t)
	}
	must(c.CreateOverride(ctx, "anna@example.com", tiers.Override{
		Limit: "per_minute", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "anna asked",
	}))(t)
	alices := must(c.CreateCredential(ctx, token("alice", access.Owner)))(t)
	time.Sleep(2 * time.Millisecond) // instants are whole milliseconds
	s := must(c.Subject(ctx, "anna@example.com"))(t)
	if err := c.DeleteSubject(ctx, s.ID, s.Version); err != nil {
		t.Fatal(err)
	}
	return alices
}

func logText(t *testing.T, c tiers.Editor) (list []tiers.Event, text string) {
	t.Helper()
	list = must(c.Events(t.Context(), tiers.EventFilter{Most: 100}))(t)
	return list, string(must(json.Marshal(list))(t))
}

func aSubjectIsErased(t *testing.T, c tiers.Editor) {
	c.Actor = tiers.Actor{ID: "tok_1", Name: "token:alice"}
	customerLog(t, c)
	before, _ := logText(t, c)
	erasure := tiers.Erasure{Subject: "anna@example.com"}
	const hers = 6 // subject, key, override created; override, key, subject deleted
	n, err := c.Erase(t.Context(), c.Actor, erasure, true)
	if same, text := logText(t, c); err != nil || n != hers || len(same) != len(before) || !strings.Contains(text, "anna") {
		t.Errorf("a dry run: %d, %v; the log has %s", n, err, text)
	}
	if n, err := c.Erase(t.Context(), c.Actor, erasure, false); err != nil || n != hers {
		t.Errorf("erased %d, %v, want %d", n, err, hers)
	}
	after, text := logText(t, c)
	if strings.Contains(text, "anna") || !strings.Contains(text, "bert@example.com") || len(after) != len(before)+1 {
		t.Errorf("the log has %s", text)
	}
	if e := after[0]; e.Action != "audit.erase" || e.Kind != tiers.KindAudit || e.Object != "subject" || e.Actor != "token:alice" || e.ActorID != "tok_1" || !strings.Contains(string(e.After), "6") {
		t.Errorf("the erasure's event is %+v", e)
	}
	for i, e := range after[1:] {
		if old := before[i]; e.ID != old.ID || e.Action != old.Action || e.Actor != old.Actor || !e.At.Equal(old.At) {
			t.Errorf("%+v became %+v", old, e)
		}
	}
	if list := must(c.Events(t.Context(), tiers.EventFilter{Kind: tiers.KindOverride, Object: tiers.Erased, Most: 9}))(t); len(list) != 2 || list[0].Detail != "per_minute" {
		t.Errorf("overrides: %+v", list)
	}
	// The key of an attempt may have the id too.
	anew := tiers.Command{
		Actor: c.Actor, Attempt: tiers.Attempt{Key: "tok_1 signup-anna", Fingerprint: "f"},
		Operations: []tiers.Operation{{Ref: tiers.SubjectRef("anna@example.com"), Put: tiers.Subject{Tier: "pro"}}},
	}
	must(c.Do(t.Context(), anew))(t)
	if n, err := c.Erase(t.Context(), c.Actor, erasure, false); err != nil || n != 1 {
		t.Errorf("erased %d, %v, want the creation", n, err)
	}
	if list, text := logText(t, c); strings.Contains(text, "anna") {
		t.Errorf("the log has %+v", list[0])
	}
	after, _ = logText(t, c)
	if n, err := c.Erase(t.Context(), c.Actor, erasure, false); err != nil || n != 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if again, _ := logText(t, c); len(again) != len(after) {
		t.Errorf("an erasure of nothing has an event: %+v", again[0])
	}
}

func anActorIsErased(t *testing.T, c tiers.Editor) {
	c.Actor = tiers.Actor{ID: "owner", Name: "owner"}
	alices := customerLog(t, c)
	alice := c
	alice.Actor = tiers.Actor{ID: alices.ID, Name: "token:alice"}
	must(alice.CreateSubject(t.Context(), tiers.Subject{ID: "carl", Tier: "pro"}))(t)
	if n, err := c.Erase(t.Context(), c.Actor, tiers.Erasure{ActorID: alices.ID}, false); err != nil || n != 2 {
		t.Errorf("erased %d, %v, want the token and what alice did", n, err)
	}
	list, text := logText(t, c)
	if strings.Contains(text, "alice") {
		t.Errorf("the log has %s", text)
	}
	carl := list[slices.IndexFunc(list, func(e tiers.Event) bool { return e.Object == "carl" })]
	if carl.Actor != tiers.Erased || carl.ActorID != alices.ID || carl.After == nil {
		t.Errorf("what alice did: %+v", carl)
	}
	// An owner's own name does not come back with the event of the erasure.
	must(alice.CreateSubject(t.Context(), tiers.Subject{ID: "dora", Tier: "pro"}))(t)
	for i, want := range []int{1, 0} {
		if n, err := c.Erase(t.Context(), alice.Actor, tiers.Erasure{ActorID: alices.ID}, false); err != nil || n != want {
			t.Errorf("alice erases alice, %d: %d, %v, want %d", i, n, err, want)
		}
	}
	if _, text := logText(t, c); strings.Contains(text, "alice") {
		t.Errorf("the log has %s", text)
	}
}

func oldEventsAreDeleted(t *testing.T, c tiers.Editor) {
	customerLog(t, c)
	list, _ := logText(t, c)
	const kept = 3
	erasure := tiers.Erasure{Before: list[kept-1].At}
	old := 0
	for _, e := range list {
		if e.At.Before(erasure.Before) {
			old++
		}
	}
	if n, err := c.Erase(t.Context(), c.Actor, erasure, false); err != nil || n != old || old == 0 {
		t.Errorf("deleted %d, %v, want %d", n, err, old)
	}
	left, _ := logText(t, c)
	if len(left) != len(list)-old+1 || left[0].Action != "audit.erase" || left[0].Object != "events" || left[0].ID <= list[0].ID {
		t.Errorf("left: %+v", left)
	}
	// Everything but the event of this erasure goes; numbers go on.
	if _, err := c.Erase(t.Context(), c.Actor, tiers.Erasure{Before: time.Now()}, false); err != nil {
		t.Error(err)
	}
	if all, _ := logText(t, c); all[0].ID <= left[0].ID {
		t.Errorf("event %d after %d", all[0].ID, left[0].ID)
	}
	for name, e := range map[string]tiers.Erasure{
		"subject":  {},
		"before":   {Before: time.Now().Add(time.Hour)},
		"actor_id": {ActorID: "a\x00b"},
	} {
		var wrong *tierlimit.FieldError
		if _, err := c.Erase(t.Context(), c.Actor, e, false); !errors.As(err, &wrong) || wrong.Field != name {
			t.Errorf("%+v: %v, want an error that names %s", e, err, name)
		}
	}
	for _, e := range []tiers.Erasure{{Subject: "a", ActorID: "b"}, {Subject: tiers.Erased}} {
		if _, err := c.Erase(t.Context(), c.Actor, e, false); err == nil {
			t.Errorf("%+v is accepted", e)
		}
	}
}
