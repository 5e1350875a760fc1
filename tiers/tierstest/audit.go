package tierstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// Regression test: a client that hung up during a reset, and a reset whose reply was lost, left
// no event.
func whatMayHaveTakenPlaceHasItsEvent(t *testing.T, c tiers.Editor) {
	reset := tiers.Event{Actor: "bob", ActorID: "b", Action: "usage.reset", Kind: tiers.KindUsage, Object: "acct_1"}
	last := func() tiers.Event {
		t.Helper()
		list := must(c.Events(t.Context(), tiers.EventFilter{Most: 1}))(t)
		if len(list) == 0 {
			t.Fatal("no event")
		}
		return list[0]
	}
	ctx, hangUp := context.WithCancel(t.Context())
	err := c.Record(ctx, reset, func(ctx context.Context) error { hangUp(); return ctx.Err() })
	first := last()
	if err != nil || first.Action != "usage.reset" || first.After != nil {
		t.Errorf("a client hung up: %v, %+v", err, first)
	}
	lost := fmt.Errorf("the reply was lost: %w", tierlimit.ErrStoreUnavailable)
	wantErr(t, c.Record(t.Context(), reset, func(context.Context) error { return lost }), lost)
	var after struct{ Outcome string }
	if e := last(); e.ID == first.ID || json.Unmarshal(e.After, &after) != nil || after.Outcome != "unknown" {
		t.Errorf("a reply was lost: %+v", e)
	}
	if list := must(c.Events(t.Context(), tiers.EventFilter{Kind: tiers.KindUsage, Most: 9}))(t); len(list) != 2 {
		t.Errorf("%d events", len(list))
	}
}

func aSubjectHasABoundedNumberOfOverrides(t *testing.T, c tiers.Editor) {
	o := tiers.Override{Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x"}
	must(c.CreateSubject(t.Context(), tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	add := func(first, count int) error {
		command := tiers.Command{Actor: c.Actor}
		for i := range count {
			o.Limit = fmt.Sprint("limit_", first+i)
			command.Operations = append(command.Operations, tiers.Operation{Ref: tiers.OverrideRef("acct_1", o.Limit), Expect: tiers.Anything, Put: o, AnyLimit: true})
		}
		_, err := c.Do(t.Context(), command)
		return err
	}
	if err := add(0, tiers.MaxOverrides); err != nil {
		t.Fatal(err)
	}
	if err := add(0, 2); err != nil {
		t.Errorf("those that are there: %v", err)
	}
	var wrong *tierlimit.FieldError
	if err := add(tiers.MaxOverrides, 1); !errors.As(err, &wrong) || wrong.Field != "overrides" {
		t.Errorf("one more: %v", err)
	}
	if s := must(c.Subject(t.Context(), "acct_1"))(t); len(s.Overrides) != tiers.MaxOverrides {
		t.Errorf("%d overrides", len(s.Overrides))
	}
}

func auditTellsTheStory(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	alice, bob := c, c
	alice.Actor, bob.Actor = tiers.Actor{ID: "a", Name: "alice"}, tiers.Actor{ID: "b", Name: "bob"}
	g := must(alice.CreateTier(ctx, gold()))(t)
	g.Name = "Golden"
	g = must(alice.ReplaceTier(ctx, g, g.Version))(t)
	_, err := alice.ReplaceTier(ctx, g, g.Version-1)
	wantErr(t, err, tiers.ErrStale) // what is refused leaves no event
	s := must(alice.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	must(bob.ReplaceSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "gold"}, s.Version))(t)
	o := must(bob.CreateOverride(ctx, "acct_1", tiers.Override{
		Limit: "burst", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
	}))(t)
	if err := bob.DeleteOverride(ctx, "acct_1", "burst", o.Version); err != nil {
		t.Fatal(err)
	}
	reset := tiers.Event{Actor: "bob", ActorID: "b", Action: "usage.reset", Kind: tiers.KindUsage, Object: "acct_1", Detail: "burst"}
	done := 0
	if err := c.Record(ctx, reset, func(context.Context) error { done++; return nil }); err != nil || done != 1 {
		t.Fatal(err, done)
	}
	failed := errors.New("it cannot be done")
	wantErr(t, c.Record(ctx, reset, func(context.Context) error { return failed }), failed) // a failed do leaves no event
	s = must(c.Subject(ctx, "acct_1"))(t)
	if err := c.DeleteSubject(ctx, "acct_1", s.Version); err != nil {
		t.Fatal(err)
	}

	told := func(f tiers.EventFilter) (story []string) {
		f.Most = 100
		var last tiers.Event
		for _, e := range must(c.Events(ctx, f))(t) {
			if last.ID != 0 && e.ID >= last.ID || e.At.Before(time.Now().Add(-time.Minute)) || (e.Before == nil) && (e.After == nil) != (e.Kind == tiers.KindUsage) {
				t.Errorf("%+v after %+v", e, last)
			}
			last = e
			story = append([]string{e.Actor + " " + e.Action + " " + e.Object + " " + e.Detail}, story...)
		}
		return story
	}
	all := []string{
		"alice tier.create gold ", "alice tier.replace gold ", "alice subject.create acct_1 ", "bob subject.replace acct_1 ",
		"bob override.create acct_1 burst", "bob override.delete acct_1 burst", "bob usage.reset acct_1 burst", "unknown subject.delete acct_1 ",
	}
	if got := told(tiers.EventFilter{}); !slices.Equal(got, all) {
		t.Errorf("the log tells %q, want %q", got, all)
	}
	if e := must(c.Events(ctx, tiers.EventFilter{Actor: "bob", Most: 1}))(t); len(e) != 1 || e[0].ActorID != "b" {
		t.Errorf("bob's last event is %+v", e)
	}
	if got := told(tiers.EventFilter{Object: "acct_1", Actor: "bob", Kind: tiers.KindOverride}); !slices.Equal(got, all[4:6]) {
		t.Errorf("filtered: %q", got)
	}
	newest := must(c.Events(ctx, tiers.EventFilter{Most: 2}))(t)
	older := must(c.Events(ctx, tiers.EventFilter{Most: 2, Before: newest[1].ID}))(t)
	if len(newest) != 2 || len(older) != 2 || older[0].Action != "override.delete" {
		t.Errorf("pages: %+v, %+v", newest, older)
	}
	var before, after struct{ Name string }
	e := must(c.Events(ctx, tiers.EventFilter{Object: "gold", Most: 1}))(t)[0]
	if json.Unmarshal(e.Before, &before) != nil || json.Unmarshal(e.After, &after) != nil || before.Name != gold().Name || after.Name != "Golden" {
		t.Errorf("from %s to %s", e.Before, e.After)
	}
}

// dryRun changes nothing, and says what it would have changed.
func dryRun(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	free := must(c.Tier(ctx, "free"))(t)
	free.Priority = 99
	launch := tiers.Override{
		Limit: "per_day", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
	}
	ci := token("ci", access.Viewer)
	for name, change := range map[string]tiers.Operation{
		"tier.create":     {Ref: tiers.TierRef("gold"), Put: gold()},
		"tier.replace":    {Ref: tiers.TierRef("free"), Put: free, Expect: tiers.Version(free.Version)},
		"subject.create":  {Ref: tiers.SubjectRef("acct_2"), Put: fullSubjectNamed("acct_2")},
		"subject.delete":  {Ref: tiers.SubjectRef("acct_1"), Expect: tiers.Version(s.Version)},
		"override.create": {Ref: tiers.OverrideRef("acct_1", "per_day"), Put: launch},
		"token.create":    {Ref: tiers.CredentialRef(access.Token, ci.ID), Put: ci},
		"load.replace":    {Ref: tiers.LoadRef(), Put: tiers.LoadControl{Mode: "off"}, Expect: tiers.Version(0)},
	} {
		command := tiers.Command{DryRun: true, Operations: []tiers.Operation{change}}
		r, err := c.Do(ctx, command)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e := must(tiers.EventsOf(&command, &r))(t); len(e) != 1 || e[0].Action != name {
			t.Errorf("%s: %+v", name, e)
		}
	}
	_, err := c.Do(ctx, tiers.Command{DryRun: true, Operations: []tiers.Operation{{
		Ref: tiers.SubjectRef("acct_1"), Put: tiers.Subject{Tier: "nowhere"}, Expect: tiers.Version(s.Version),
	}}})
	if err == nil {
		t.Error("a change that is not valid is tried as if it were")
	}
	if got := must(c.Subject(ctx, "acct_1"))(t); !reflect.DeepEqual(got, s) {
		t.Errorf("the subject is %+v, was %+v", got, s)
	}
	if n := len(must(c.Tiers(ctx))(t)); n != 3 {
		t.Errorf("there are %d tiers", n)
	}
	if n := len(must(c.Events(ctx, tiers.EventFilter{Most: 10}))(t)); n != 1 {
		t.Errorf("there are %d events", n)
	}
	if l := must(c.LoadControl(ctx))(t); l.Mode != "" || l.Version != 0 {
		t.Errorf("load control is %+v", l)
	}
}

// attempts are made once, however many ask at a time.
func attempts(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	create := func(actor, name string, attempt tiers.Attempt) error {
		one := token(name, access.Viewer)
		_, err := c.Do(ctx, tiers.Command{
			Actor: tiers.Actor{Name: actor}, Attempt: attempt,
			Operations: []tiers.Operation{{Ref: tiers.CredentialRef(access.Token, one.ID), Put: one}},
		})
		return err
	}
	const callers = 8
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { errs[i] = create("alice", fmt.Sprint("ci ", i), tiers.Attempt{Key: "k1", Fingerprint: "f1"}) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			wantErr(t, err, tiers.ErrRepeated)
		}
	}
	if made != 1 {
		t.Errorf("%d were made", made)
	}
	e := must(c.Events(ctx, tiers.EventFilter{Actor: "alice", Attempt: "k1", Most: 10}))(t)
	if len(e) != 1 || e[0].Action != "token.create" || e[0].Attempt.Fingerprint != "f1" {
		t.Errorf("the log has %+v", e)
	}
	wantErr(t, create("bob", "bob's", tiers.Attempt{Key: "k1"}), tiers.ErrRepeated) // whatever the actor is called by then
}

func loadControl(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	if l := must(c.LoadControl(ctx))(t); !reflect.DeepEqual(l, tiers.LoadControl{Pins: map[string]tiers.Pin{}}) {
		t.Errorf("begins with %+v", l)
	}
	_, err := c.SetLoadControl(ctx, tiers.LoadControl{Mode: "loud", Pins: map[string]tiers.Pin{"free": {Multiplier: 2, ExpiresAt: new(time.Time)}}}, 0)
	for _, field := range []string{"mode", "pins.free.multiplier", "pins.free.expires_at"} {
		if err == nil || !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
	if _, err := c.SetLoadControl(ctx, tiers.LoadControl{Pins: map[string]tiers.Pin{"nowhere": {Multiplier: 0.5}}}, 0); err == nil || !strings.Contains(err.Error(), "pins.nowhere") {
		t.Errorf("a pin of no tier: %v", err)
	}
	until := instant("2027-01-01T00:00:00Z")
	set := must(c.SetLoadControl(ctx, tiers.LoadControl{Mode: "observe", Pins: map[string]tiers.Pin{"free": {Multiplier: 0.25, ExpiresAt: &until}}}, 0))(t)
	if got := must(c.LoadControl(ctx))(t); !reflect.DeepEqual(got, set) || set.Version <= 0 || set.Mode != "observe" || set.Pins["free"].Multiplier != 0.25 {
		t.Errorf("set %+v, read %+v", set, got)
	}
	_, err = c.SetLoadControl(ctx, tiers.LoadControl{}, 0)
	wantErr(t, err, tiers.ErrStale)

	// The pin of a tier that was deleted is in nobody's way.
	g := must(c.CreateTier(ctx, gold()))(t)
	set.Pins["gold"] = tiers.Pin{Multiplier: 0.5}
	set = must(c.SetLoadControl(ctx, set, set.Version))(t)
	if err := c.DeleteTier(ctx, "gold", g.Version); err != nil {
		t.Fatal(err)
	}
	set.Mode = "off"
	must(c.SetLoadControl(ctx, set, set.Version))(t)
}
