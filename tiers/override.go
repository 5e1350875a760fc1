package tiers

import (
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// An Override is an exception for one subject and one limit, from an instant to
// an instant. Where the subject's tier in force has no such limit it does
// nothing.
type Override struct {
	Limit     string
	Max       int64     // or tierlimit.Unlimited
	StartsAt  time.Time // the zero time: when it is created
	ExpiresAt time.Time
	Reason    string // for people
	Version   int64  // set by the catalogue; greater with each change
}

// MaxOverrides is how many overrides one subject may have.
const MaxOverrides = 64

// Overrides are a subject's, by the limit they are of.
type Overrides map[string]Override

// Clone returns a copy of o, nil if o is empty.
func (o Overrides) Clone() Overrides {
	if len(o) == 0 {
		return nil
	}
	return maps.Clone(o)
}

// Validate returns an error if an override is invalid or stands under another limit.
func (o Overrides) Validate() error {
	for limit, one := range o {
		if one.Limit != limit {
			return &tierlimit.FieldError{Field: "limit", Value: one.Limit, Want: limit}
		}
		if err := one.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Normalize rounds the instants.
func (o *Override) Normalize() {
	o.StartsAt, o.ExpiresAt = timestamp.Round(o.StartsAt), timestamp.Round(o.ExpiresAt)
}

// Validate reports everything that is wrong with o, each as a
// *tierlimit.FieldError, joined.
func (o *Override) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(tierlimit.ValidName(o.Limit), "limit", o.Limit, tierlimit.NameRule)
	check(o.Max >= tierlimit.Unlimited && o.Max <= tierlimit.MaxCount, "max", strconv.FormatInt(o.Max, 10), maxRule)
	check(timestamp.Valid(o.StartsAt) || o.StartsAt.IsZero(), "starts_at", o.StartsAt.Format(time.RFC3339), timestamp.Rule)
	check(timestamp.Valid(o.ExpiresAt) && o.ExpiresAt.After(o.StartsAt), "expires_at", o.ExpiresAt.Format(time.RFC3339), timestamp.Rule+", after starts_at")
	check(o.Reason != "" && len(o.Reason) <= 500 && strictjson.Printable(o.Reason), "reason", o.Reason, "1 to 500 bytes of UTF-8 without control characters")
	return errors.Join(errs...)
}

type overrideJSON struct {
	Limit     string          `json:"limit"`
	Max       json.RawMessage `json:"max,omitempty"`
	StartsAt  *string         `json:"starts_at,omitempty"`
	ExpiresAt string          `json:"expires_at"`
	Reason    string          `json:"reason"`
	Version   int64           `json:"version"`
}

// MarshalJSON writes null for unlimited.
func (o Override) MarshalJSON() ([]byte, error) {
	return json.Marshal(overrideJSON{
		Limit: o.Limit, Max: maxText(o.Max), StartsAt: timestamp.Text(&o.StartsAt), ExpiresAt: *timestamp.Text(&o.ExpiresAt),
		Reason: o.Reason, Version: o.Version,
	})
}

// UnmarshalJSON reads what MarshalJSON writes; without starts_at an override is
// in force from now on. A max must be there: leaving it out by mistake must not
// mean unlimited.
func (o *Override) UnmarshalJSON(data []byte) error {
	var j overrideJSON
	p := timestamp.Parser{Errs: []error{strictjson.Strict(data, &j)}}
	*o = Override{Limit: j.Limit, ExpiresAt: p.Parse("expires_at", j.ExpiresAt), Reason: j.Reason, Version: j.Version}
	if start := p.Optional("starts_at", j.StartsAt); start != nil {
		o.StartsAt = *start
	}
	var err error
	o.Max, err = parseMax(j.Max)
	return errors.Join(append(p.Errs, err)...)
}
