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

func commandsAreWhole(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	operations := []tiers.Operation{
		{Ref: tiers.TierRef("gold"), Put: gold()},
		{Ref: tiers.SubjectRef("acct_1"), Put: tiers.Subject{Tier: "gold"}},
		{Ref: tiers.OverrideRef("acct_1", "burst"), Put: tiers.Override{
			Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
		}},
		{Ref: tiers.SubjectRef("acct_2"), Put: tiers.Subject{Tier: "nowhere"}},
	}
	_, err := c.Do(ctx, tiers.Command{Operations: operations})
	var refused *tiers.OperationError
	if !errors.As(err, &refused) || refused.Index != 3 || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("refused with %v", err)
	}
	wantErr(t, second(c.Tier(ctx, "gold")), tiers.ErrNotFound)
	wantErr(t, second(c.Subject(ctx, "acct_1")), tiers.ErrNotFound)
	if n := len(must(c.Events(ctx, tiers.EventFilter{Most: 10}))(t)); n != 0 {
		t.Errorf("%d events of what was refused", n)
	}

	// Each operation sees the changes of those before it.
	r := must(c.Do(ctx, tiers.Command{Operations: operations[:3]}))(t)
	if s := must(c.Subject(ctx, "acct_1"))(t); s.Tier != "gold" || s.Overrides["burst"].Max != 9 {
		t.Errorf("made %+v", s)
	}
	e, _ := r.Made(0)
	if made, _ := e.After.(tiers.Tier); made.Version != must(c.Tier(ctx, "gold"))(t).Version {
		t.Errorf("the result has version %d", made.Version)
	}
	_, err = c.Do(ctx, tiers.Command{Operations: []tiers.Operation{
		{Ref: tiers.SubjectRef("acct_1"), Put: tiers.Subject{Tier: "free"}, Expect: tiers.Present},
		{Ref: tiers.TierRef("gold"), Expect: tiers.Present},
	}})
	if err != nil {
		t.Errorf("a tier that the same command empties: %v", err)
	}
	// The order of the writes matters to the constraints of the database.
	pro := must(c.Tier(ctx, "pro"))(t)
	pro.Default = true
	must(c.Do(ctx, tiers.Command{Operations: []tiers.Operation{
		{Ref: tiers.SubjectRef("acct_1"), Put: tiers.Subject{Tier: "pro"}, Expect: tiers.Present},
		{Ref: tiers.TierRef("pro"), Put: pro, Expect: tiers.Present},
		{Ref: tiers.TierRef("free"), Expect: tiers.Present},
	}}))(t)
	ci := must(c.CreateCredential(ctx, token("ci", access.Viewer)))(t)
	other := token("ci", access.Owner)
	must(c.Do(ctx, tiers.Command{Operations: []tiers.Operation{
		{Ref: tiers.CredentialRef(access.Token, ci.ID), Expect: tiers.Present},
		{Ref: tiers.CredentialRef(access.Token, other.ID), Put: other},
	}}))(t)
	k := must(c.CreateCredential(ctx, key("acct_1")))(t)
	taken := token("cd", access.Owner)
	taken.ID = k.ID
	_, err = c.Do(ctx, tiers.Command{Operations: []tiers.Operation{{Ref: tiers.CredentialRef(access.Token, k.ID), Put: taken, Expect: tiers.Anything}}})
	wantErr(t, err, tiers.ErrExists)
	wantErr(t, second(c.Credential(ctx, access.Key, k.ID)), nil)
	odd := token("a\ufffd", access.Viewer)
	must(c.CreateCredential(ctx, odd))(t)
	wantErr(t, second(c.CreateCredential(ctx, token("a\ufffd", access.Viewer))), tiers.ErrExists)

	// A later change of the subject in the same command does not change the override's version.
	r = must(c.Do(ctx, tiers.Command{Operations: []tiers.Operation{
		{Ref: tiers.OverrideRef("acct_1", "per_minute"), Put: tiers.Override{Max: 3, ExpiresAt: instant("2926-12-02T00:00:00Z"), Reason: "y"}},
		{Ref: tiers.SubjectRef("acct_1"), Put: tiers.Subject{Tier: "pro", Next: &tiers.Change{Tier: "enterprise", At: instant("2926-12-02T00:00:00Z")}}, Expect: tiers.Present},
	}}))(t)
	made, _ := r.Made(0)
	if o := must(c.Override(ctx, "acct_1", "per_minute"))(t); o.Version == 0 || o.Version != made.After.(tiers.Override).Version { //nolint:forcetypeassert // a test
		t.Errorf("the override has version %d, and the result %+v", o.Version, made.After)
	}
	if _, err := c.Do(ctx, tiers.Command{}); err == nil {
		t.Error("a command without operations")
	}
}

// Regression test: implied changes were not logged. They are the loss of the default, the
// deletion of a subject's keys and overrides, and subjects rewritten when a tier is deleted.
func whatGoesAlong(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	g := gold()
	g.Default = true
	must(c.CreateTier(ctx, g))(t)
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "gold"}))(t)
	must(c.CreateOverride(ctx, "acct_1", tiers.Override{
		Limit: "burst", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
	}))(t)
	k := must(c.CreateCredential(ctx, key("acct_1")))(t)
	s := must(c.Subject(ctx, "acct_1"))(t)
	must(0, c.DeleteSubject(ctx, "acct_1", s.Version))(t)
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_2", Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: instant("2026-01-01T00:00:00Z")}}))(t)
	must(0, c.DeleteTier(ctx, "pro", must(c.Tier(ctx, "pro"))(t).Version))(t)

	var story []string
	for _, e := range must(c.Events(ctx, tiers.EventFilter{Most: 100}))(t) {
		story = append(story, e.Action+" "+e.Object)
	}
	slices.Reverse(story)
	want := []string{
		"tier.replace free", "tier.create gold", "subject.create acct_1", "override.create acct_1", "key.create " + k.ID,
		"override.delete acct_1", "key.delete " + k.ID, "subject.delete acct_1", "subject.create acct_2",
		"subject.replace acct_2", "tier.delete pro",
	}
	if !slices.Equal(story, want) {
		t.Errorf("the log tells %q\nwant %q", story, want)
	}
}

func patches(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	patch := func(ref tiers.Ref, text string) error {
		_, err := c.Do(ctx, tiers.Command{Operations: []tiers.Operation{{Ref: ref, Patch: json.RawMessage(text), Expect: tiers.Present}}})
		return err
	}
	g := gold()
	g.Limits["max"] = tiers.Limit{Max: 4, Window: tierlimit.Window{Length: time.Minute}}
	must(c.CreateTier(ctx, g))(t)
	must(0, patch(tiers.TierRef("gold"), `{"name":"Golden","limits":{"burst":{"max":null},"exports":null,"max":null}}`))(t)
	got := must(c.Tier(ctx, "gold"))(t)
	if _, there := got.Limits["exports"]; there || got.Name != "Golden" || got.Limits["burst"].Max != tierlimit.Unlimited || got.Limits["burst"].Window != g.Limits["burst"].Window {
		t.Errorf("patched %+v", got)
	}
	if _, there := got.Limits["max"]; there {
		t.Error("a limit that is called max cannot be taken away")
	}

	must(c.CreateSubject(ctx, fullSubject()))(t)
	must(0, patch(tiers.SubjectRef("acct_1"), `{"tier":"gold","next":null}`))(t)
	if s := must(c.Subject(ctx, "acct_1"))(t); s.Tier != "gold" || s.Next != nil || s.Trial == nil {
		t.Errorf("patched %+v", s)
	}
	must(c.CreateOverride(ctx, "acct_1", tiers.Override{
		Limit: "burst", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x",
	}))(t)
	must(0, patch(tiers.OverrideRef("acct_1", "burst"), `{"max":null}`))(t)
	if o := must(c.Override(ctx, "acct_1", "burst"))(t); o.Max != tierlimit.Unlimited || o.Reason != "x" {
		t.Errorf("patched %+v", o)
	}
	ci := must(c.CreateCredential(ctx, token("ci", access.Viewer)))(t)
	must(0, patch(tiers.CredentialRef(access.Token, ci.ID), `{"role":"owner"}`))(t)
	if got := must(c.Credential(ctx, access.Token, ci.ID))(t); got.Role != access.Owner || got.Name != "ci" {
		t.Errorf("patched %+v", got)
	}

	must(c.CreateCredential(ctx, token("cd", access.Viewer)))(t)
	wantErr(t, patch(tiers.CredentialRef(access.Token, ci.ID), `{"name":"cd"}`), tiers.ErrExists)
	k := must(c.CreateCredential(ctx, key("acct_1")))(t)
	must(0, patch(tiers.CredentialRef(access.Key, k.ID), `{"name":"staging"}`))(t)
	if got := must(c.Credential(ctx, access.Key, k.ID))(t); got.Name != "staging" || got.Subject != "acct_1" || got.Hash != k.Hash || !got.CreatedAt.Equal(k.CreatedAt) {
		t.Errorf("patched %+v", got)
	}

	// The error names all invalid fields.
	err := patch(tiers.TierRef("gold"), `{"priority":-1,"limits":{"burst":{"max":-5}}}`)
	for _, field := range []string{"priority ", "limits.burst.max "} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
	wantErr(t, patch(tiers.SubjectRef("nobody"), `{"tier":"pro"}`), tiers.ErrNotFound)
	if err := patch(tiers.SubjectRef("acct_1"), `{"id":"acct_2"}`); err == nil {
		t.Error("a subject got another id")
	}
}

func expectations(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	put := func(id, tier string, expect tiers.Expect) (int64, error) {
		r, err := c.Do(ctx, tiers.Command{Operations: []tiers.Operation{{Ref: tiers.SubjectRef(id), Put: tiers.Subject{Tier: tier}, Expect: expect}}})
		if err != nil {
			return 0, err
		}
		e, _ := r.Made(0)
		s, _ := e.After.(tiers.Subject)
		return s.Version, nil
	}
	_, err := put("acct_1", "pro", tiers.Present)
	wantErr(t, err, tiers.ErrNotFound)
	first := must(put("acct_1", "pro", tiers.Anything))(t)
	_, err = put("acct_1", "pro", tiers.Absent)
	wantErr(t, err, tiers.ErrExists)
	second := must(put("acct_1", "free", tiers.Anything))(t)
	_, err = put("acct_1", "pro", tiers.Version(first))
	wantErr(t, err, tiers.ErrStale)
	_, err = put("acct_1", "pro", tiers.Version())
	wantErr(t, err, tiers.ErrStale)
	must(put("acct_1", "pro", tiers.Version(first, second)))(t)
	must(put("acct_1", "free", tiers.Present))(t)
}

// Regression test: repeated billing webhooks filled the audit log.
func whatIsSoAlreadyIsNoChange(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	must(c.CreateSubject(ctx, fullSubject()))(t)
	o := must(c.CreateOverride(ctx, "acct_1", tiers.Override{Limit: "per_minute", Max: 9, ExpiresAt: instant("2926-12-02T00:00:00Z"), Reason: "x"}))(t)
	s := must(c.Subject(ctx, "acct_1"))(t)
	free := must(c.Tier(ctx, "free"))(t)
	l := must(c.SetLoadControl(ctx, tiers.LoadControl{Mode: "observe"}, 0))(t)
	before := must(c.Events(ctx, tiers.EventFilter{Most: 100}))(t)

	again := o
	again.StartsAt = time.Time{} // a caller may omit it
	for _, version := range []int64{
		must(c.ReplaceSubject(ctx, s, s.Version))(t).Version - s.Version,
		must(c.ReplaceTier(ctx, free, free.Version))(t).Version - free.Version,
		must(c.ReplaceOverride(ctx, "acct_1", again, o.Version))(t).Version - o.Version,
		must(c.SetLoadControl(ctx, l, l.Version))(t).Version - l.Version,
	} {
		if version != 0 {
			t.Errorf("what is so already has another version, by %d", version)
		}
	}
	if after := must(c.Events(ctx, tiers.EventFilter{Most: 100}))(t); len(after) != len(before) {
		t.Errorf("%d events more", len(after)-len(before))
	}
	wantErr(t, second(c.ReplaceSubject(ctx, s, s.Version-1)), tiers.ErrStale) // although nothing would change
}

func overrideOfNothing(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free", Next: &tiers.Change{Tier: "pro", At: instant("2927-01-01T00:00:00Z")}}))(t)
	o := tiers.Override{Limit: "per_hour", Max: 9, StartsAt: instant("2026-12-01T00:00:00Z"), ExpiresAt: instant("2026-12-02T00:00:00Z"), Reason: "x"}
	var field *tierlimit.FieldError
	if _, err := c.CreateOverride(ctx, "acct_1", o); !errors.As(err, &field) || field.Field != "limit" || !strings.Contains(err.Error(), "per_day, per_minute, per_month") {
		t.Errorf("an override of a limit that the subject does not have: %v", err)
	}
	o.Limit = "per_month" // a limit of the next tier
	must(c.CreateOverride(ctx, "acct_1", o))(t)
}
