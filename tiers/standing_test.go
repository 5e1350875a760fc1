package tiers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

// A resolution is what holds for acct_42 at an instant.
type resolution struct {
	tier     string
	max      int64 // of per_minute
	from     string
	refusal  tierlimit.Reason
	anchored bool
}

func planOf(t *testing.T, m *memtiers.Catalogue) *tierlimit.Plan {
	t.Helper()
	plan, err := m.Resolve(t.Context(), "acct_42", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func resolutionOf(t *testing.T, m *memtiers.Catalogue) resolution {
	t.Helper()
	plan := planOf(t, m)
	cfg := plan.Config()
	r := resolution{tier: plan.Tier(), refusal: cfg.Refusal}
	for _, l := range cfg.Limits {
		if l.Name == "per_minute" {
			r.max, r.from = l.Max, l.From
		}
		r.anchored = r.anchored || l.Window.Anchor != 0
	}
	return r
}

func withSubject(t *testing.T, s tiers.Subject, overrides ...tiers.Override) *memtiers.Catalogue {
	t.Helper()
	list := tiers.Builtin()
	monthly := list[1].Limits["per_month"]
	monthly.Anchor = tiers.AnchorBilling
	list[1].Limits["per_month"] = monthly
	m, err := memtiers.New(list)
	if err != nil {
		t.Fatal(err)
	}
	s.ID = "acct_42"
	if _, err := editor(m).CreateSubject(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, o := range overrides {
		o.Reason = "a test"
		if _, err := editor(m).CreateOverride(t.Context(), "acct_42", o); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// What is due comes by itself, at its instant and not a millisecond before.
func TestTimePassesByItself(t *testing.T) {
	free := resolution{tier: "free", max: 5, from: "tier"}
	pro := resolution{tier: "pro", max: 100, from: "tier"}
	trial := resolution{tier: "pro", max: 100, from: "trial"}
	suspended, blocked := free, free
	suspended.refusal, blocked.refusal = tierlimit.Suspended, tierlimit.Blocked
	override := func(most int64) resolution { return resolution{tier: "free", max: most, from: "override"} }
	after := func(d time.Duration) *time.Time { at := time.Now().Add(d); return &at }
	for name, c := range map[string]struct {
		subject   func() tiers.Subject
		overrides func() []tiers.Override
		before    resolution
		after     resolution // an hour from now
	}{
		"a trial ends": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: *after(time.Hour)}}
			}, nil, trial, free,
		},
		"a change is due": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "pro", Next: &tiers.Change{Tier: "free", At: *after(time.Hour)}}
			}, nil, pro, free,
		},
		"a trial outlasts a change": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Next: &tiers.Change{Tier: "enterprise", At: *after(time.Minute)}, Trial: &tiers.Trial{Tier: "pro", EndsAt: *after(time.Hour)}}
			}, nil, trial, resolution{tier: "enterprise", max: 1000, from: "tier"},
		},
		"grace ends": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Status: tiers.PastDue, GraceUntil: after(time.Hour)}
			},
			nil, free, suspended,
		},
		"a block ends": {
			func() tiers.Subject { return tiers.Subject{Tier: "free", BlockedUntil: after(time.Hour)} },
			nil, blocked, free,
		},
		"suspension stays, block or not": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Status: tiers.Suspended, BlockedUntil: after(time.Hour)}
			},
			nil, suspended, suspended,
		},
		"an override begins": {
			func() tiers.Subject { return tiers.Subject{Tier: "free"} },
			func() []tiers.Override {
				return []tiers.Override{{Limit: "per_minute", Max: 500, StartsAt: *after(time.Hour), ExpiresAt: *after(2 * time.Hour)}}
			}, free, override(500),
		},
		"an override expires": {
			func() tiers.Subject { return tiers.Subject{Tier: "free"} },
			func() []tiers.Override {
				return []tiers.Override{{Limit: "per_minute", Max: tierlimit.Unlimited, StartsAt: *after(-time.Hour), ExpiresAt: *after(time.Hour)}}
			}, override(tierlimit.Unlimited), free,
		},
		"an override of a limit that is not there does nothing": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Next: &tiers.Change{Tier: "pro", At: *after(3 * time.Hour)}}
			},
			func() []tiers.Override {
				return []tiers.Override{{Limit: "per_month", Max: 500, StartsAt: *after(-time.Hour), ExpiresAt: *after(time.Hour)}}
			}, free, free,
		},
		"an override stands above a trial": {
			func() tiers.Subject {
				return tiers.Subject{Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: *after(2 * time.Hour)}}
			},
			func() []tiers.Override {
				return []tiers.Override{{Limit: "per_minute", Max: 7, StartsAt: *after(-time.Hour), ExpiresAt: *after(time.Hour)}}
			},
			resolution{tier: "pro", max: 7, from: "override"},
			trial,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var overrides []tiers.Override
				if c.overrides != nil {
					overrides = c.overrides()
				}
				m := withSubject(t, c.subject(), overrides...)
				for _, step := range []struct {
					pass time.Duration
					want resolution
				}{{0, c.before}, {time.Hour - time.Millisecond, c.before}, {time.Millisecond, c.after}} {
					time.Sleep(step.pass)
					if got := resolutionOf(t, m); got != step.want {
						t.Errorf("after another %v: %+v, want %+v", step.pass, got, step.want)
					}
				}
			})
		})
	}
}

func TestAPlanIsTheSameUntilSomethingChanges(t *testing.T) {
	anchor := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	m := withSubject(t, tiers.Subject{Tier: "pro", BillingAnchor: &anchor})
	first := planOf(t, m)
	if planOf(t, m) != first {
		t.Error("a plan of the subject's own is made anew with each decision")
	}
	if !resolutionOf(t, m).anchored {
		t.Error("the subject's billing anchor is not in its plan")
	}
	s, err := m.Subject(t.Context(), "acct_42")
	if err != nil {
		t.Fatal(err)
	}
	s.BillingAnchor = nil
	if _, err := editor(m).ReplaceSubject(t.Context(), s, s.Version); err != nil {
		t.Fatal(err)
	}
	if resolutionOf(t, m).anchored {
		t.Error("a subject without an anchor has one in its plan")
	}
}

func TestAChangedTierReachesSubjectsWithPlansOfTheirOwn(t *testing.T) {
	m := withSubject(t, tiers.Subject{Tier: "free", Trial: &tiers.Trial{Tier: "pro", EndsAt: time.Now().Add(time.Hour)}})
	resolutionOf(t, m)
	pro, err := m.Tier(t.Context(), "pro")
	if err != nil {
		t.Fatal(err)
	}
	limit := pro.Limits["per_minute"]
	limit.Max = 321
	pro.Limits["per_minute"] = limit
	if _, err := editor(m).ReplaceTier(t.Context(), pro, pro.Version); err != nil {
		t.Fatal(err)
	}
	if got := resolutionOf(t, m); got.max != 321 || got.from != "trial" {
		t.Errorf("%+v", got)
	}
}

func TestASubjectAsOfALaterInstant(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	s := tiers.Subject{ID: "x", Tier: "pro", Next: &tiers.Change{Tier: "free", At: at}, Trial: &tiers.Trial{Tier: "enterprise", EndsAt: at}}
	if before := s.AsOf(at.Add(-1)); before.Tier != "pro" || before.Next == nil || before.Trial == nil {
		t.Errorf("before: %+v", before)
	}
	if after := s.AsOf(at); after.Tier != "free" || after.Next != nil || after.Trial != nil {
		t.Errorf("after: %+v", after)
	}
}

func TestWrongInstantsInJSONAreNamedAllAtOnce(t *testing.T) {
	var s tiers.Subject
	err := json.Unmarshal([]byte(`{"id":"x","tier":"free","trial":{"tier":"pro","ends_at":"tomorrow"},"billing_anchor":"31","blocked_until":""}`), &s)
	for _, field := range []string{`trial.ends_at "tomorrow"`, `billing_anchor "31"`, "blocked_until"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
	var wrong *tierlimit.FieldError
	if err := json.Unmarshal([]byte(`{"id":"x","tier":"free","trail":null}`), &s); !errors.As(err, &wrong) || wrong.Field != "trail" {
		t.Errorf("an unknown field: %v", err)
	}
}

// The periods of a spread limit begin at many instants, and those of one subject always at the
// same, whatever the process and whatever is known of the subject.
func TestSpreadPeriodsBeginAtManyInstants(t *testing.T) {
	list := []tiers.Tier{{Key: "free", Default: true, Limits: tiers.Limits{
		"per_day":    {Max: 5, Window: tierlimit.Window{Period: tierlimit.Day}, Anchor: tiers.AnchorSpread},
		"per_month":  {Max: 5, Window: tierlimit.Window{Period: tierlimit.Month}, Anchor: tiers.AnchorSpread},
		"per_week":   {Max: 5, Window: tierlimit.Window{Period: tierlimit.Week}},
		"per_minute": {Max: 5, Window: tierlimit.Window{Length: time.Minute}},
	}}}
	list[0].Normalize()
	resolver, err := tiers.Static(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	ends := make(map[string]map[time.Time]int) // how many subjects' windows end at an instant, by limit
	for i := range 6400 {
		id := fmt.Sprint("acct_", i)
		p, err := resolver.Resolve(t.Context(), id, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		blocked := now.Add(time.Hour)
		for _, subject := range []*tiers.Subject{{ID: id, Tier: "free"}, {ID: id, Tier: "free", BlockedUntil: &blocked}} {
			other, err := tiers.PlanOf(list, subject, now)
			if err != nil {
				t.Fatal(err)
			}
			for j, l := range other.Config().Limits {
				if l.Window != p.Config().Limits[j].Window {
					t.Fatalf("%s of %s: %+v, and for a stranger %+v", l.Name, id, l.Window, p.Config().Limits[j].Window)
				}
			}
		}
		for _, l := range p.Config().Limits {
			if ends[l.Name] == nil {
				ends[l.Name] = make(map[time.Time]int)
			}
			ends[l.Name][l.Window.End(now)]++
		}
	}
	if len(ends["per_week"]) != 1 || len(ends["per_day"]) != 64 || len(ends["per_month"]) != 64 {
		t.Fatalf("%d, %d and %d instants", len(ends["per_week"]), len(ends["per_day"]), len(ends["per_month"]))
	}
	for _, name := range []string{"per_day", "per_month"} {
		instants := slices.SortedFunc(maps.Keys(ends[name]), time.Time.Compare)
		if apart := instants[63].Sub(instants[0]); apart < 23*time.Hour {
			t.Errorf("%s: all windows end within %v", name, apart)
		}
		for at, n := range ends[name] {
			if n < 50 || n > 150 || at.After(now.AddDate(0, 1, 0)) { // 100 on average
				t.Errorf("%s: %d windows end at %v", name, n, at)
			}
		}
	}
}
