// Package tierstest is the one suite that every catalogue passes. It is for
// tests only.
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
	"github.com/tierlimit/tierlimit/tiers"
)

// Run holds a catalogue to the contract of tiers.Catalogue. start returns a
// fresh one that holds tiers.Builtin and no subject.
func Run(t *testing.T, start func(t *testing.T) tiers.Catalogue) {
	for name, test := range map[string]func(*testing.T, tiers.Catalogue){
		"begins with the built-in tiers":             builtin,
		"a tier comes back as it was written":        roundTrip,
		"a wrong tier names every wrong field":       invalidTier,
		"a tier's life":                              tierLife,
		"a replaced limit is gone":                   replacedLimit,
		"there is always exactly one default":        oneDefault,
		"a tier in use cannot be deleted":            tierInUse,
		"a subject's life":                           subjectLife,
		"subjects are listed in order, page by page": subjectPages,
		"of writers who saw the same, one wins":      oneWriterWins,
		"a version is never given twice":             versionsRise,
		"what cannot be a name is not found":         notNames,
		"a subject comes back as it was written":     subjectRoundTrip,
		"a wrong subject names every wrong field":    invalidSubject,
		"a tier that is tried or comes is in use":    tierToComeInUse,
		"what is over holds no tier":                 tierOverIsFree,
		"an override's life":                         overrideLife,
		"each change has its event, and no other":    auditTellsTheStory,
	} {
		t.Run(name, func(t *testing.T) { test(t, start(t)) })
	}
}

func gold() tiers.Tier {
	return tiers.Tier{
		Key: "gold", Name: "Gold <&> ünïcode", Priority: 25, OnStoreError: tierlimit.Closed,
		Load: &tiers.Curve{Start: 0.5, Full: 0.75, Floor: 0.25},
		Limits: map[string]tiers.Limit{
			"burst":     {Max: 3, Window: tierlimit.Window{Length: 250 * time.Millisecond}, Adaptive: true},
			"exports":   {Scope: "exports", Max: 0, Window: tierlimit.Window{Period: tierlimit.Week}},
			"per_day":   {Max: tierlimit.MaxCount, Window: tierlimit.Window{Period: tierlimit.Day}, Lease: true},
			"per_month": {Max: tierlimit.Unlimited, Window: tierlimit.Window{Period: tierlimit.Month}, Anchored: true, Shadow: true},
			"smooth":    {Max: 7, Window: tierlimit.Window{Length: time.Minute}, Algorithm: tierlimit.Sliding},
		},
	}
}

func builtin(t *testing.T, c tiers.Catalogue) {
	got := must(c.Tiers(t.Context()))(t)
	want := tiers.Builtin()
	for i := range got {
		if got[i].Version <= 0 {
			t.Errorf("tier %q has version %d", got[i].Key, got[i].Version)
		}
		got[i].Version = 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func roundTrip(t *testing.T, c tiers.Catalogue) {
	created := must(c.CreateTier(t.Context(), gold()))(t)
	read := must(c.Tier(t.Context(), "gold"))(t)
	if !reflect.DeepEqual(created, read) {
		t.Fatalf("created %+v\nread    %+v", created, read)
	}
	read.Version = 0
	if !reflect.DeepEqual(read, gold()) {
		t.Fatalf("read  %+v\nwrote %+v", read, gold())
	}
}

func invalidTier(t *testing.T, c tiers.Catalogue) {
	bad := gold()
	bad.Name = "a\x00b"
	bad.Key, bad.Priority, bad.OnStoreError, bad.Load.Floor = "Gold!", -1, "maybe", 0
	bad.Limits["burst"] = tiers.Limit{Max: -2, Window: tierlimit.Window{Length: time.Second}}
	bad.Limits["per_day"] = tiers.Limit{Max: 1, Window: tierlimit.Window{Period: tierlimit.Day}, Adaptive: true}
	_, err := c.CreateTier(t.Context(), bad)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"key", "name", "priority", "on_store_error", "load.floor", "limits.burst.max", "limits.per_day.adaptive"} {
		if !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
}

func tierLife(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	_, err := c.Tier(ctx, "gold")
	wantErr(t, err, tiers.ErrNotFound)
	_, err = c.ReplaceTier(ctx, gold(), 1)
	wantErr(t, err, tiers.ErrNotFound)
	wantErr(t, c.DeleteTier(ctx, "gold", 1), tiers.ErrNotFound)

	first := must(c.CreateTier(ctx, gold()))(t)
	_, err = c.CreateTier(ctx, gold())
	wantErr(t, err, tiers.ErrExists)

	changed := gold()
	changed.Name = "Golden"
	second := must(c.ReplaceTier(ctx, changed, first.Version))(t)
	if second.Version <= first.Version || second.Name != "Golden" {
		t.Fatalf("replaced %+v by %+v", first, second)
	}
	_, err = c.ReplaceTier(ctx, gold(), first.Version)
	wantErr(t, err, tiers.ErrStale)
	wantErr(t, c.DeleteTier(ctx, "gold", first.Version), tiers.ErrStale)
	if err := c.DeleteTier(ctx, "gold", second.Version); err != nil {
		t.Fatal(err)
	}
	_, err = c.Tier(ctx, "gold")
	wantErr(t, err, tiers.ErrNotFound)
}

func replacedLimit(t *testing.T, c tiers.Catalogue) {
	first := must(c.CreateTier(t.Context(), gold()))(t)
	changed := gold()
	delete(changed.Limits, "burst")
	changed.Load = nil
	must(c.ReplaceTier(t.Context(), changed, first.Version))(t)
	got := must(c.Tier(t.Context(), "gold"))(t)
	got.Version = 0
	if !reflect.DeepEqual(got, changed) {
		t.Fatalf("got %+v\nwant %+v", got, changed)
	}
}

func oneDefault(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	free := must(c.Tier(ctx, "free"))(t)
	wantErr(t, c.DeleteTier(ctx, "free", free.Version), tiers.ErrInUse)
	demoted := free
	demoted.Default = false
	_, err := c.ReplaceTier(ctx, demoted, free.Version)
	wantErr(t, err, tiers.ErrInUse)

	g := gold()
	g.Default = true
	must(c.CreateTier(ctx, g))(t)
	var defaults []string
	for _, tier := range must(c.Tiers(ctx))(t) {
		if tier.Default {
			defaults = append(defaults, tier.Key)
		}
	}
	if !slices.Equal(defaults, []string{"gold"}) {
		t.Fatalf("the default tiers are %v, want gold alone", defaults)
	}
	_, err = c.ReplaceTier(ctx, free, free.Version)
	wantErr(t, err, tiers.ErrStale)
}

func tierInUse(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	g := must(c.CreateTier(ctx, gold()))(t)
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "gold"}))(t)
	wantErr(t, c.DeleteTier(ctx, "gold", g.Version), tiers.ErrInUse)
	if err := c.DeleteSubject(ctx, s.ID, s.Version); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteTier(ctx, "gold", g.Version); err != nil {
		t.Fatal(err)
	}
}

func subjectLife(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	const id = "acct_42 {ü}"
	_, err := c.Subject(ctx, id)
	wantErr(t, err, tiers.ErrNotFound)
	_, err = c.ReplaceSubject(ctx, tiers.Subject{ID: id, Tier: "pro"}, 1)
	wantErr(t, err, tiers.ErrNotFound)
	wantErr(t, c.DeleteSubject(ctx, id, 1), tiers.ErrNotFound)
	for _, bad := range []tiers.Subject{{ID: id, Tier: "nosuch"}, {ID: "", Tier: "pro"}, {ID: "a\nb", Tier: "pro"}, {ID: id}} {
		var field *tierlimit.FieldError
		if _, err := c.CreateSubject(ctx, bad); !errors.As(err, &field) {
			t.Errorf("%+v: %v, want a field error", bad, err)
		}
	}

	first := must(c.CreateSubject(ctx, tiers.Subject{ID: id, Tier: "free"}))(t)
	_, err = c.CreateSubject(ctx, tiers.Subject{ID: id, Tier: "pro"})
	wantErr(t, err, tiers.ErrExists)
	second := must(c.ReplaceSubject(ctx, tiers.Subject{ID: id, Tier: "pro"}, first.Version))(t)
	if got := must(c.Subject(ctx, id))(t); !reflect.DeepEqual(got, second) || got.Tier != "pro" || got.Version <= first.Version {
		t.Fatalf("read %+v after %+v", got, second)
	}
	_, err = c.ReplaceSubject(ctx, tiers.Subject{ID: id, Tier: "nosuch"}, second.Version)
	if err == nil {
		t.Error("moved to a tier that is not there")
	}
	_, err = c.ReplaceSubject(ctx, tiers.Subject{ID: id, Tier: "free"}, first.Version)
	wantErr(t, err, tiers.ErrStale)
	wantErr(t, c.DeleteSubject(ctx, id, first.Version), tiers.ErrStale)
	if err := c.DeleteSubject(ctx, id, second.Version); err != nil {
		t.Fatal(err)
	}
	_, err = c.Subject(ctx, id)
	wantErr(t, err, tiers.ErrNotFound)
}

func instant(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return t
}

func fullSubject() tiers.Subject {
	anchor, grace, blocked := instant("2026-01-31T10:20:30.123Z"), instant("2026-12-01T00:00:00Z"), instant("2026-11-30T00:00:00Z")
	return tiers.Subject{
		ID: "acct_1", Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: instant("2027-01-01T00:00:00.5Z")},
		Next: &tiers.Change{Tier: "enterprise", At: instant("2027-02-01T00:00:00Z")}, BillingAnchor: &anchor,
		Status: tiers.PastDue, GraceUntil: &grace, BlockedUntil: &blocked,
	}
}

func subjectRoundTrip(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	created := must(c.CreateSubject(ctx, fullSubject()))(t)
	want := fullSubject()
	want.Version = created.Version
	list := must(c.Subjects(ctx, "", 10))(t)
	if got := must(c.Subject(ctx, "acct_1"))(t); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(created, want) || !reflect.DeepEqual(list, []tiers.Subject{want}) {
		t.Fatalf("created %+v\nread    %+v\nwant    %+v", created, got, want)
	}
	plain := must(c.ReplaceSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "pro"}, created.Version))(t)
	if want := (tiers.Subject{ID: "acct_1", Tier: "pro", Status: tiers.Active, Version: plain.Version}); !reflect.DeepEqual(plain, want) {
		t.Fatalf("replaced by %+v, want %+v", plain, want)
	}
	text := must(json.Marshal(created))(t)
	var read tiers.Subject
	if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, created) {
		t.Fatalf("%s is read as %+v, %v", text, read, err)
	}
}

func invalidSubject(t *testing.T, c tiers.Catalogue) {
	wrong := fullSubject()
	wrong.ID, wrong.Trial.Tier, wrong.Status = "", "No", "late"
	wrong.Next.At = time.Time{}
	_, err := c.CreateSubject(t.Context(), wrong)
	for _, field := range []string{"id", "trial.tier", "next.at", "status", "grace_until"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
	wrong = fullSubject()
	wrong.Trial.Tier, wrong.Next.Tier = "nosuch", "neither"
	_, err = c.CreateSubject(t.Context(), wrong)
	for _, field := range []string{`trial.tier "nosuch"`, `next.tier "neither"`} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
	wrong = fullSubject()
	wrong.GraceUntil = nil
	if _, err = c.CreateSubject(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "grace_until") {
		t.Errorf("past due without grace: %v", err)
	}
}

func tierToComeInUse(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	g := must(c.CreateTier(ctx, gold()))(t)
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free", Trial: &tiers.Trial{Tier: "gold", EndsAt: instant("2027-01-01T00:00:00Z")}}))(t)
	wantErr(t, c.DeleteTier(ctx, "gold", g.Version), tiers.ErrInUse)
	s = must(c.ReplaceSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free", Next: &tiers.Change{Tier: "gold", At: instant("2027-01-01T00:00:00Z")}}, s.Version))(t)
	wantErr(t, c.DeleteTier(ctx, "gold", g.Version), tiers.ErrInUse)
	must(c.ReplaceSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}, s.Version))(t)
	if err := c.DeleteTier(ctx, "gold", g.Version); err != nil {
		t.Fatal(err)
	}
}

// A trial that had ended, or a change that was due, kept its tier from being
// deleted although nobody was shown to be on it.
func tierOverIsFree(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	g := must(c.CreateTier(ctx, gold()))(t)
	past := instant("2026-01-01T00:00:00Z")
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free", Trial: &tiers.Trial{Tier: "gold", EndsAt: past}}))(t)
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_2", Tier: "gold", Next: &tiers.Change{Tier: "pro", At: past}}))(t)
	if err := c.DeleteTier(ctx, "gold", g.Version); err != nil {
		t.Fatal(err)
	}
	if s := must(c.Subject(ctx, "acct_1"))(t); s.Trial != nil || s.Tier != "free" {
		t.Errorf("%+v", s)
	}
	if s := must(c.Subject(ctx, "acct_2"))(t); s.Next != nil || s.Tier != "pro" {
		t.Errorf("%+v", s)
	}
}

func overrideLife(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	launch := tiers.Override{
		Limit: "per_minute", Max: 500, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "launch day",
	}
	_, err := c.CreateOverride(ctx, "acct_1", launch)
	wantErr(t, err, tiers.ErrNotFound) // no such subject
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	_, err = c.Override(ctx, "acct_1", "per_minute")
	wantErr(t, err, tiers.ErrNotFound)
	_, err = c.ReplaceOverride(ctx, "acct_1", launch, 1)
	wantErr(t, err, tiers.ErrNotFound)
	wrong := launch
	wrong.ExpiresAt, wrong.Reason, wrong.Max = wrong.StartsAt, "", -2
	_, err = c.CreateOverride(ctx, "acct_1", wrong)
	for _, field := range []string{"expires_at", "reason", "max"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}

	created := must(c.CreateOverride(ctx, "acct_1", launch))(t)
	launch.Version = created.Version
	if got := must(c.Override(ctx, "acct_1", "per_minute"))(t); got != launch || created != launch {
		t.Fatalf("created %+v, read %+v, want %+v", created, got, launch)
	}
	if after := must(c.Subject(ctx, "acct_1"))(t); after.Version <= s.Version || after.Overrides["per_minute"] != launch {
		t.Fatalf("the subject is %+v, was %+v", after, s)
	}
	_, err = c.CreateOverride(ctx, "acct_1", launch)
	wantErr(t, err, tiers.ErrExists)
	unlimited := launch
	unlimited.Max = tierlimit.Unlimited
	_, err = c.ReplaceOverride(ctx, "acct_1", unlimited, launch.Version-1)
	wantErr(t, err, tiers.ErrStale)
	replaced := must(c.ReplaceOverride(ctx, "acct_1", unlimited, launch.Version))(t)
	if list := must(c.Overrides(ctx, "acct_1"))(t); len(list) != 1 || list[0] != replaced || replaced.Max != tierlimit.Unlimited {
		t.Fatalf("replaced by %+v, listed %+v", replaced, list)
	}
	text := must(json.Marshal(replaced))(t)
	var read tiers.Override
	if err := json.Unmarshal(text, &read); err != nil || read != replaced {
		t.Fatalf("%s is read as %+v, %v", text, read, err)
	}

	// A subject that is replaced keeps its overrides.
	s = must(c.Subject(ctx, "acct_1"))(t)
	if s = must(c.ReplaceSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "pro"}, s.Version))(t); s.Overrides["per_minute"] != replaced {
		t.Fatalf("a replaced subject has the overrides %+v", s.Overrides)
	}
	wantErr(t, c.DeleteOverride(ctx, "acct_1", "per_minute", launch.Version), tiers.ErrStale)
	if err := c.DeleteOverride(ctx, "acct_1", "per_minute", replaced.Version); err != nil {
		t.Fatal(err)
	}
	wantErr(t, c.DeleteOverride(ctx, "acct_1", "per_minute", replaced.Version), tiers.ErrNotFound)
	after := must(c.Subject(ctx, "acct_1"))(t)
	if len(after.Overrides) != 0 || after.Version <= s.Version {
		t.Fatalf("afterwards the subject is %+v, was %+v", after, s)
	}
}

func auditTellsTheStory(t *testing.T, c tiers.Catalogue) {
	ctx := tiers.WithActor(t.Context(), "alice")
	g := must(c.CreateTier(ctx, gold()))(t)
	g.Name = "Golden"
	g = must(c.ReplaceTier(ctx, g, g.Version))(t)
	_, err := c.ReplaceTier(ctx, g, g.Version-1)
	wantErr(t, err, tiers.ErrStale) // what is refused leaves no event
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	bob := tiers.WithActor(t.Context(), "bob")
	must(c.ReplaceSubject(bob, tiers.Subject{ID: "acct_1", Tier: "gold"}, s.Version))(t)
	o := must(c.CreateOverride(bob, "acct_1", tiers.Override{
		Limit: "burst", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
	}))(t)
	if err := c.DeleteOverride(bob, "acct_1", "burst", o.Version); err != nil {
		t.Fatal(err)
	}
	if err := c.Record(bob, tiers.Event{Action: "usage.reset", Kind: tiers.KindUsage, Object: "acct_1", Detail: "burst"}); err != nil {
		t.Fatal(err)
	}
	s = must(c.Subject(ctx, "acct_1"))(t)
	if err := c.DeleteSubject(t.Context(), "acct_1", s.Version); err != nil {
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

func subjectPages(t *testing.T, c tiers.Catalogue) {
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("acct_%02d", i))
	}
	for _, id := range slices.Backward(want) {
		must(c.CreateSubject(t.Context(), tiers.Subject{ID: id, Tier: "pro"}))(t)
	}
	var got []string
	for after := ""; ; {
		page := must(c.Subjects(t.Context(), after, 10))(t)
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			got = append(got, s.ID)
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func oneWriterWins(t *testing.T, c tiers.Catalogue) {
	s := must(c.CreateSubject(t.Context(), tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			_, errs[i] = c.ReplaceSubject(context.Background(), tiers.Subject{ID: "acct_1", Tier: "pro"}, s.Version)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, tiers.ErrStale) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d writers won", won, writers)
	}
}

func versionsRise(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	last := int64(0)
	for range 3 {
		s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
		if s.Version <= last {
			t.Fatalf("version %d after %d: a deleted subject's version came back", s.Version, last)
		}
		last = s.Version
		if err := c.DeleteSubject(ctx, "acct_1", s.Version); err != nil {
			t.Fatal(err)
		}
	}
}

func notNames(t *testing.T, c tiers.Catalogue) {
	ctx := t.Context()
	for _, name := range []string{"", "\x00", "a\x00b", "\xff", strings.Repeat("x", 10_000)} {
		_, err := c.Subject(ctx, name)
		wantErr(t, err, tiers.ErrNotFound)
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%d bytes of error", len(err.Error()))
		}
		wantErr(t, c.DeleteSubject(ctx, name, 1), tiers.ErrNotFound)
		_, err = c.Tier(ctx, name)
		wantErr(t, err, tiers.ErrNotFound)
		wantErr(t, c.DeleteTier(ctx, name, 1), tiers.ErrNotFound)
	}
}

// must returns what a call returned, once the test is told of its error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
