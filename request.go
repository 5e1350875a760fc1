package tierlimit

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxSubject is the longest subject, in bytes.
const MaxSubject = 256

// A Request asks whether a subject may do something now.
type Request struct {
	Subject string // who is limited; ValidSubject
	Scope   string // the part of the API asked for; "" charges only the limits that guard everything
	Cost    int64  // 1 to MaxCount; 0 means 1 (to ask without charging, use Peek)
	// Costs maps limits to costs, 0 to MaxCount; all other limits are charged Cost. Limits
	// that are not in the subject's plan are ignored.
	Costs map[string]int64
	// Hold is how long the charge can be corrected, 1 s to 1 h: the decision then has an
	// ID for Settle. If Hold is 0, the charge is final and concurrent limits do not apply.
	Hold time.Duration
	// HoldIfCounted ignores Hold unless a concurrent limit of the subject's plan applies to
	// the request: a charge without a hold is cheaper.
	HoldIfCounted bool
}

func (r *Request) normalize() error {
	if r.Cost == 0 {
		r.Cost = 1
	}
	if err := checkSubject(r.Subject); err != nil {
		return err
	}
	if r.Scope != "" && !ValidName(r.Scope) {
		return &FieldError{Field: "scope", Value: r.Scope, Want: "empty, or " + NameRule}
	}
	if r.Hold != 0 {
		if err := checkHold(r.Hold); err != nil {
			return err
		}
	}
	if len(r.Costs) > 0 {
		if err := checkCosts(r.Costs); err != nil {
			return err
		}
	}
	return checkCost(r.Cost)
}

func checkSubject(s string) error {
	if !ValidSubject(s) {
		return &FieldError{Field: "subject", Value: s, Want: SubjectRule}
	}
	return nil
}

func checkCost(n int64) error {
	if n < 0 || n > MaxCount {
		return &FieldError{Field: "cost", Value: strconv.FormatInt(n, 10), Want: CostRule}
	}
	return nil
}

// What is allowed, as a FieldError says it.
const (
	SubjectRule = "1 to 256 bytes of UTF-8 without control characters"
	CostRule    = "a whole number from 0 to 1000000000000000"
)

// ValidSubject reports whether s can name a subject. The replacement character
// U+FFFD is refused because decoders write it for every byte they cannot read:
// two different malformed names would share one counter.
func ValidSubject(s string) bool {
	if s == "" || len(s) > MaxSubject {
		return false
	}
	if plainASCII(s) {
		return true
	}
	if !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || unicode.IsControl(r)
	})
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
