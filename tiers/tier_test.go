package tiers_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

func editor(c tiers.Catalogue) tiers.Editor { return tiers.Editor{Catalogue: c} }

func TestResolution(t *testing.T) {
	m, err := memtiers.New(tiers.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := editor(m).CreateSubject(t.Context(), tiers.Subject{ID: "acct_42", Tier: "pro"}); err != nil {
		t.Fatal(err)
	}
	static, err := tiers.Static(tiers.Builtin(), func(subject string) string {
		return map[string]string{"acct_42": "pro", "acct_odd": "nosuch"}[subject]
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		resolver            tierlimit.Resolver
		subject, tier, from string
		fallback            bool
	}{
		{m, "acct_42", "pro", tierlimit.FromTier, false},
		{m, "nobody", "free", tierlimit.FromDefault, false},
		{static, "acct_42", "pro", tierlimit.FromTier, false},
		{static, "nobody", "free", tierlimit.FromDefault, false},
		{static, "acct_odd", "free", tierlimit.FromFallback, true},
	} {
		p, err := c.resolver.Resolve(t.Context(), c.subject, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if p.Tier() != c.tier || p.Fallback() != c.fallback || p.Config().Limits[0].From != c.from {
			t.Errorf("%s: %+v, want tier %s from %s, fallback %v", c.subject, p, c.tier, c.from, c.fallback)
		}
	}
}

func TestALimitInJSON(t *testing.T) {
	for _, c := range []struct{ in, field string }{
		{`{"max":5,"window":"60s"}`, ""},
		{`{"max":null,"period":"month","anchor":"calendar"}`, ""},
		{`{"max":5,"period":"week"}`, ""},
		{`{"window":"60s"}`, "max"},
		{`{"max":-1,"window":"60s"}`, "max"},
		{`{"max":1.5,"window":"60s"}`, "max"},
		{`{"max":"5","window":"60s"}`, "max"},
		{`{"max":1e300,"window":"60s"}`, "max"},
		{`{"max":5}`, "window"},
		{`{"max":5,"concurrent":true}`, ""},
		{`{"max":5,"concurrent":true,"window":"60s"}`, "window"},
		{`{"max":5,"concurrent":true,"anchor":"billing"}`, "window"},
		{`{"max":5,"concurrent":true,"algorithm":"sliding"}`, "algorithm"},
		{`{"max":5,"window":"60s","algorithm":"concurrent"}`, "algorithm"},
		{`{"max":5,"window":"60s","on_expiry":"release"}`, ""},
		{`{"max":5,"window":"60s","period":"day"}`, "window"},
		{`{"max":5,"window":"month"}`, "window"},
		{`{"max":5,"window":"0s"}`, "window"},
		{`{"max":5,"window":"1.5ms"}`, "window"},
		{`{"max":5,"period":"60s"}`, "period"},
		{`{"max":5,"period":"year"}`, "period"},
		{`{"max":5,"window":"60s","anchor":"calendar"}`, "anchor"},
		{`{"max":5,"period":"month","anchor":"birthday"}`, "anchor"},
		{`{"max":5,"window":"60s","shade":true}`, "shade"},
	} {
		var l tiers.Limit
		err := json.Unmarshal([]byte(c.in), &l)
		if c.field == "" && err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
		if c.field != "" && (err == nil || !strings.Contains(err.Error(), c.field)) {
			t.Errorf("%s: %v, want an error that names %s", c.in, err, c.field)
		}
	}
}

func TestSetsThatWouldLeaveSomebodyWithoutAPlanAreRefused(t *testing.T) {
	two := tiers.Builtin()
	two[1].Default = true
	none := tiers.Builtin()[1:]
	twice := append(tiers.Builtin(), tiers.Builtin()[2])
	for name, list := range map[string][]tiers.Tier{"empty": nil, "two defaults": two, "no default": none, "one twice": twice} {
		if _, err := memtiers.New(list); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A curve that starts where it is full has no slope: its multiplier is not a number.
func TestACurveIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		curve tiers.Curve
		wrong string // "": none
	}{
		"from the idle machine on":     {tiers.Curve{Start: 0, Full: 1, Floor: 0.05}, ""},
		"flat":                         {tiers.Curve{Start: 0.5, Full: 0.6, Floor: 1}, ""},
		"starts where it is full":      {tiers.Curve{Start: 0.9, Full: 0.9, Floor: 0.1}, "load.full"},
		"is full before it starts":     {tiers.Curve{Start: 0.9, Full: 0.8, Floor: 0.1}, "load.full"},
		"is full past the machine":     {tiers.Curve{Start: 0.9, Full: 1.1, Floor: 0.1}, "load.full"},
		"starts below nothing":         {tiers.Curve{Start: -0.1, Full: 0.9, Floor: 0.1}, "load.start"},
		"leaves less than a twentieth": {tiers.Curve{Start: 0.5, Full: 0.9, Floor: 0.04}, "load.floor"},
		"gives more under load":        {tiers.Curve{Start: 0.5, Full: 0.9, Floor: 1.1}, "load.floor"},
		"starts at what is no number":  {tiers.Curve{Start: math.NaN(), Full: 0.9, Floor: 0.1}, "load.start"},
		"is full at what is no number": {tiers.Curve{Start: 0.5, Full: math.NaN(), Floor: 0.1}, "load.full"},
		"falls to what is no number":   {tiers.Curve{Start: 0.5, Full: 0.9, Floor: math.NaN()}, "load.floor"},
	} {
		tier := tiers.Builtin()[0]
		tier.Load = &c.curve
		err := tier.Validate()
		var wrong *tierlimit.FieldError
		if c.wrong == "" && err != nil || c.wrong != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("a curve that %s: %v, want %q", name, err, c.wrong)
		}
	}
	c := tiers.Curve{Start: 0.5, Full: 0.9, Floor: 0.2}
	for u, want := range map[float64]float64{0: 1, 0.5: 1, 0.7: 0.6, 0.9: 0.2, 1: 0.2} {
		if got := c.Multiplier(u); math.Abs(got-want) > 1e-9 {
			t.Errorf("at %v: %v, want %v", u, got, want)
		}
	}
}
