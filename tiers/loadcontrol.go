package tiers

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// A LoadControl is what an administrator says of load, to all replicas. Its zero
// value leaves each as it was configured.
type LoadControl struct {
	Mode    string `json:"mode"`    // off, observe or enforce; "" as configured
	Pins    Pins   `json:"pins"`    // multipliers in place of what the CPU tells
	Version int64  `json:"version"` // set by the catalogue; greater with each change
}

// Pins are by tier.
type Pins map[string]Pin

// UnmarshalJSON reports everything that is wrong in the pins, each under its tier.
func (p *Pins) UnmarshalJSON(data []byte) (err error) {
	*p, err = strictjson.Named[Pin]("pins", data)
	return err
}

// A Pin is a tier's multiplier in place of what the CPU tells.
type Pin struct {
	Multiplier float64    // 0.05 to 1
	ExpiresAt  *time.Time // nil: until it is taken away
}

// Holds reports whether p is in force at now.
func (p Pin) Holds(now time.Time) bool { return p.ExpiresAt == nil || now.Before(*p.ExpiresAt) }

// Normalize makes no pins an empty object, and rounds the instants.
func (l *LoadControl) Normalize() {
	pins := make(map[string]Pin, len(l.Pins))
	for tier, p := range l.Pins {
		timestamp.RoundAll(&p.ExpiresAt)
		pins[tier] = p
	}
	l.Pins = pins
}

// Validate reports everything that is wrong with l, each as a
// *tierlimit.FieldError, joined.
func (l *LoadControl) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(slices.Contains([]string{"", "off", "observe", "enforce"}, l.Mode), "mode", l.Mode, "off, observe or enforce, or empty to leave it as configured")
	for _, tier := range slices.Sorted(maps.Keys(l.Pins)) {
		p := l.Pins[tier]
		check(tierlimit.ValidName(tier), "pins."+tier, "", "under the key of a tier")
		check(p.Multiplier >= 0.05 && p.Multiplier <= 1, "pins."+tier+".multiplier", strconv.FormatFloat(p.Multiplier, 'g', -1, 64), "from 0.05 to 1")
		if p.ExpiresAt != nil {
			check(timestamp.Valid(*p.ExpiresAt), "pins."+tier+".expires_at", p.ExpiresAt.Format(time.RFC3339), timestamp.Rule)
		}
	}
	return errors.Join(errs...)
}

// KnownTo reports each pin of a tier that is not there. A tier that was deleted may
// have left one behind.
func (l *LoadControl) KnownTo(has func(key string) bool) error {
	var errs []error
	for _, tier := range slices.Sorted(maps.Keys(l.Pins)) {
		if !has(tier) {
			errs = append(errs, UnknownTierError("pins."+tier, tier))
		}
	}
	return errors.Join(errs...)
}

// Clone returns a copy that shares nothing with l.
func (l LoadControl) Clone() LoadControl {
	l.Normalize() // which makes new pins
	return l
}

type pinJSON struct {
	Multiplier float64 `json:"multiplier"`
	ExpiresAt  *string `json:"expires_at,omitempty"`
}

// MarshalJSON leaves out an instant that is not there.
func (p Pin) MarshalJSON() ([]byte, error) {
	return json.Marshal(pinJSON{p.Multiplier, timestamp.Text(p.ExpiresAt)})
}

// UnmarshalJSON reads what MarshalJSON writes and refuses fields it does not know.
func (p *Pin) UnmarshalJSON(data []byte) error {
	var j pinJSON
	parser := timestamp.Parser{Errs: []error{strictjson.Strict(data, &j)}}
	*p = Pin{j.Multiplier, parser.Optional("expires_at", j.ExpiresAt)}
	return errors.Join(parser.Errs...)
}
