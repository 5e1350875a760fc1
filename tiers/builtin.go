package tiers

import (
	"time"

	"github.com/tierlimit/tierlimit"
)

// Builtin returns the tiers a new catalogue starts with: free (the default),
// pro and enterprise. The first migration inserts the same.
func Builtin() []Tier {
	perMinute := func(most int64, adaptive bool) Limit {
		return Limit{Max: most, Window: tierlimit.Window{Length: time.Minute}, Adaptive: adaptive}
	}
	per := func(period tierlimit.Period, most int64) Limit {
		return Limit{Max: most, Window: tierlimit.Window{Period: period}}
	}
	return []Tier{
		{
			Key: "free", Name: "Free", Default: true, Priority: 10, OnStoreError: tierlimit.Local, Denials: tierlimit.DenialsFull,
			Load:   &Curve{Start: 0.70, Full: 0.90, Floor: 0.10},
			Limits: map[string]Limit{"per_minute": perMinute(5, true), "per_day": per(tierlimit.Day, 1_000)},
		},
		{
			Key: "pro", Name: "Pro", Priority: 20, OnStoreError: tierlimit.Local, Denials: tierlimit.DenialsFull,
			Load:   &Curve{Start: 0.85, Full: 0.97, Floor: 0.50},
			Limits: map[string]Limit{"per_minute": perMinute(100, true), "per_month": per(tierlimit.Month, 100_000)},
		},
		{
			Key: "enterprise", Name: "Enterprise", Priority: 30, OnStoreError: tierlimit.Local, Denials: tierlimit.DenialsFull,
			Limits: map[string]Limit{"per_minute": perMinute(1_000, false), "per_month": per(tierlimit.Month, tierlimit.Unlimited)},
		},
	}
}
