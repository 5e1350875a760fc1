package tierstest

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func gold() tiers.Tier {
	return tiers.Tier{
		Key: "gold", Name: "Gold <&> ünïcode", Priority: 25, OnStoreError: tierlimit.Closed, Denials: tierlimit.DenialsPlain,
		Load: &tiers.Curve{Start: 0.5, Full: 0.75, Floor: 0.25},
		Limits: map[string]tiers.Limit{
			"burst":     {Max: 3, Window: tierlimit.Window{Length: 250 * time.Millisecond}, Adaptive: true},
			"exports":   {Scope: "exports", Max: 0, Window: tierlimit.Window{Period: tierlimit.Week}, Anchor: tiers.AnchorSpread},
			"per_day":   {Max: tierlimit.MaxCount, Window: tierlimit.Window{Period: tierlimit.Day}},
			"per_month": {Max: tierlimit.Unlimited, Window: tierlimit.Window{Period: tierlimit.Month}, Anchor: tiers.AnchorBilling, Shadow: true},
			"smooth":    {Max: 7, Window: tierlimit.Window{Length: time.Minute}, Algorithm: tierlimit.Sliding},
			"at_once":   {Max: 10, Algorithm: tierlimit.Concurrent},
			"tokens":    {Max: 1000, Window: tierlimit.Window{Length: time.Minute}, OnExpiry: tierlimit.ReleaseOnExpiry},
		},
	}
}

func builtin(t *testing.T, c tiers.Editor) {
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

func roundTrip(t *testing.T, c tiers.Editor) {
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

func invalidTier(t *testing.T, c tiers.Editor) {
	bad := gold()
	bad.Name = "a\x00b"
	bad.Key, bad.Priority, bad.OnStoreError, bad.Denials, bad.Load.Floor = "Gold!", -1, "maybe", "some", 0
	bad.Limits["burst"] = tiers.Limit{Max: -2, Window: tierlimit.Window{Length: time.Second}}
	bad.Limits["per_day"] = tiers.Limit{Max: 1, Window: tierlimit.Window{Period: tierlimit.Day}, Adaptive: true}
	_, err := c.CreateTier(t.Context(), bad)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"key", "name", "priority", "on_store_error", "denials", "load.floor", "limits.burst.max", "limits.per_day.adaptive"} {
		if !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
}

func tierLife(t *testing.T, c tiers.Editor) {
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

func replacedLimit(t *testing.T, c tiers.Editor) {
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

func oneDefault(t *testing.T, c tiers.Editor) {
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

func tierInUse(t *testing.T, c tiers.Editor) {
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

func tierToComeInUse(t *testing.T, c tiers.Editor) {
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

func tierOverIsFree(t *testing.T, c tiers.Editor) {
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
