package tierlimit

import (
	"math"
	"strconv"
	"time"
)

// Unlimited as a max never denies; the charges are counted all the same.
const Unlimited int64 = -1

// MaxCount is the largest max, and the largest cost of one request. It keeps
// every sum a script forms exact: Lua's numbers are doubles, whole up to 2^53.
const MaxCount int64 = 1e15

// MaxAdaptiveLength bounds the windows that load may scale: a quota somebody
// paid for by the day or the month never shrinks because a CPU is busy.
const MaxAdaptiveLength = time.Hour

// MaxLimits is how many limits one plan may have.
const MaxLimits = 16

// A Limit is a named ceiling: at most Max charged in each Window. A Max of 0
// denies every request.
type Limit struct {
	Name     string // ValidName; usage follows the name when a subject changes its tier
	Scope    string // the part of an API it guards; "" guards everything
	Max      int64  // 0 to MaxCount, or Unlimited
	Window   Window
	Adaptive bool // scaled by load; windows of at most MaxAdaptiveLength only
	Shadow   bool // counted and reported, and never denies

	Algorithm Algorithm
	OnExpiry  OnExpiry // whether an expiring hold keeps its charge
	From      string   // what set it: FromTier and so on
	Alerts    []int    // thresholds in percent of Max, ascending: see Config.Crossed; of a limit with a window only
}

// An OnExpiry says whether the charge stays when its hold expires unsettled. The zero
// OnExpiry is ChargeOnExpiry.
type OnExpiry string

// The values of OnExpiry.
const (
	ChargeOnExpiry  OnExpiry = "charge"  // it stays
	ReleaseOnExpiry OnExpiry = "release" // the charge is given back
)

// An Algorithm says how charges are counted over a window. The zero Algorithm is
// Fixed.
type Algorithm string

// The algorithms.
const (
	// Fixed counts from a window's first charge to its end. At most twice the max
	// is admitted in a stretch as long as a window: before its end and after it.
	Fixed Algorithm = "fixed"
	// Sliding adds to a window the charges of the one before, weighted by how much
	// of it lies in the stretch that ends now. There is no such burst.
	Sliding Algorithm = "sliding"
	// Concurrent counts the open holds, each as 1 whatever its cost. Such a limit has no
	// window, and does not apply to requests without a hold.
	Concurrent Algorithm = "concurrent"
)

// Where a limit in force came from.
const (
	FromOverride = "override" // an exception for the subject
	FromTrial    = "trial"    // the tier the subject tries
	FromTier     = "tier"     // the subject's own tier
	FromDefault  = "default"  // the default tier: the subject is not known
	FromFallback = "fallback" // the default tier: it could not be learned in time whether the subject is known
)

// Validate reports the first field of l that is out of bounds.
func (l Limit) Validate() error {
	switch {
	case !ValidName(l.Name):
		return &FieldError{Field: "name", Value: l.Name, Want: NameRule}
	case l.Scope != "" && !ValidName(l.Scope):
		return &FieldError{Field: "scope", Value: l.Scope, Want: "empty, or " + NameRule}
	case l.Max != Unlimited && (l.Max < 0 || l.Max > MaxCount):
		return &FieldError{
			Field: "max", Value: strconv.FormatInt(l.Max, 10),
			Want: "a whole number from 0 to 1000000000000000, or null for unlimited",
		}
	}
	if l.OnExpiry != "" && l.OnExpiry != ChargeOnExpiry && l.OnExpiry != ReleaseOnExpiry {
		return &FieldError{Field: "on_expiry", Value: string(l.OnExpiry), Want: "charge or release"}
	}
	if err := CheckAlerts(l.Alerts); err != nil {
		return err
	}
	if l.Algorithm == Concurrent {
		return l.validateConcurrent()
	}
	if err := l.Window.Validate(); err != nil {
		return err
	}
	switch {
	case l.Algorithm != "" && l.Algorithm != Fixed && l.Algorithm != Sliding:
		return &FieldError{Field: "algorithm", Value: string(l.Algorithm), Want: "fixed, sliding or concurrent"}
	case l.Algorithm == Sliding && l.Window.Period != "":
		return &FieldError{Field: "algorithm", Value: "sliding", Want: "fixed for a calendar period, here " + l.Window.String()}
	}
	if l.Adaptive && (l.Window.Period != "" || l.Window.Length > MaxAdaptiveLength) {
		return &FieldError{Field: "adaptive", Value: "true", Want: "false for windows longer than 1h, here " + l.Window.String()}
	}
	return nil
}

func (l *Limit) validateConcurrent() error {
	switch {
	case l.Window != Window{}:
		return &FieldError{Field: "window", Value: l.Window.String(), Want: "none: a concurrent limit counts the holds that are open now"}
	case l.OnExpiry != "":
		return &FieldError{Field: "on_expiry", Value: string(l.OnExpiry), Want: "none: a place under a concurrent limit is free when its hold expires"}
	case len(l.Alerts) > 0:
		return &FieldError{Field: "alerts", Value: alertsText(l.Alerts), Want: "none: a concurrent limit has no window"}
	}
	return nil
}

// scaled returns the max in force under a load multiplier. A limit that admits
// anything at all admits at least 1 under any load.
func (l Limit) scaled(multiplier float64) int64 {
	if !l.Adaptive || l.Max <= 0 || multiplier >= 1 {
		return l.Max
	}
	// The small addend keeps 100 * 0.29 from falling to 28.
	return max(1, int64(math.Floor(float64(l.Max)*multiplier+1e-6)))
}

// NameRule is what ValidName allows, as a FieldError says it.
const NameRule = "1 to 64 characters of a-z, 0-9, _ and -, the first a letter or digit"

// ValidName reports whether s can name a tier, a limit or a scope. The alphabet
// is what a RateLimit header can carry without escapes.
func ValidName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '_' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
