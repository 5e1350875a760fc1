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

func fullSubjectNamed(id string) tiers.Subject {
	s := fullSubject()
	s.ID = id
	return s
}

func subjectRoundTrip(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	created := must(c.CreateSubject(ctx, fullSubject()))(t)
	want := fullSubject()
	want.Version = created.Version
	list := must(c.Subjects(ctx, tiers.SubjectFilter{Most: 10}))(t)
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

func invalidSubject(t *testing.T, c tiers.Editor) {
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

func subjectLife(t *testing.T, c tiers.Editor) {
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

func subjectPages(t *testing.T, c tiers.Editor) {
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("acct_%02d", i))
	}
	for _, id := range slices.Backward(want) {
		must(c.CreateSubject(t.Context(), tiers.Subject{ID: id, Tier: "pro"}))(t)
	}
	var got []string
	for after := ""; ; {
		page := must(c.Subjects(t.Context(), tiers.SubjectFilter{After: after, Most: 10}))(t)
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

func oneWriterWins(t *testing.T, c tiers.Editor) {
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

func overrideLife(t *testing.T, c tiers.Editor) {
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

func subjectFilters(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	past, ahead := instant("2026-01-01T00:00:00Z"), instant("2926-01-01T00:00:00Z")
	for _, s := range []tiers.Subject{
		{ID: "a_free", Tier: "free"},
		{ID: "a_pro", Tier: "pro", Status: tiers.Suspended},
		{ID: "b_comes", Tier: "free", Next: &tiers.Change{Tier: "pro", At: ahead}},
		{ID: "b_left", Tier: "pro", Next: &tiers.Change{Tier: "free", At: past}},
		{ID: "b_tried", Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: past}},
		{ID: "b_tries", Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: ahead}},
		{ID: "c_100%_x", Tier: "enterprise"},
	} {
		must(c.CreateSubject(ctx, s))(t)
	}
	for _, test := range []struct {
		f    tiers.SubjectFilter
		want []string
	}{
		{tiers.SubjectFilter{Tier: "pro"}, []string{"a_pro", "b_comes", "b_tries"}},
		{tiers.SubjectFilter{Tier: "pro", Status: tiers.Active}, []string{"b_comes", "b_tries"}},
		{tiers.SubjectFilter{Tier: "pro", After: "b_comes"}, []string{"b_tries"}},
		{tiers.SubjectFilter{Prefix: "a_"}, []string{"a_free", "a_pro"}},
		{tiers.SubjectFilter{Prefix: "c_100%_"}, []string{"c_100%_x"}},
		{tiers.SubjectFilter{Prefix: "%"}, nil},
		{tiers.SubjectFilter{Tier: "nowhere"}, nil},
	} {
		var got []string
		f := test.f
		f.Most = 10
		for _, s := range must(c.Subjects(ctx, f))(t) {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v chooses %v, want %v", test.f, got, test.want)
		}
		if n := must(c.CountSubjects(ctx, test.f))(t); test.f.After == "" && n != len(test.want) {
			t.Errorf("%+v counts %d, want %d", test.f, n, len(test.want))
		}
	}
	var inUse *tiers.InUseError
	pro := must(c.Tier(ctx, "pro"))(t)
	if err := c.DeleteTier(ctx, "pro", pro.Version); !errors.As(err, &inUse) || inUse.Count != 3 || !slices.Equal(inUse.Subjects, []string{"a_pro", "b_comes", "b_tries"}) {
		t.Errorf("what is in the way: %v", err)
	}
}
