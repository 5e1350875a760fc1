package tierlimit

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxSubject is the longest subject, in bytes.
const MaxSubject = 256

// A Request is one question: may this subject do this now?
type Request struct {
	Subject string // who is limited; ValidSubject
	Scope   string // the part of the API asked for; "" charges only the limits that guard everything
	Cost    int64  // 1 to MaxCount; 0 means 1 (to ask without charging, use Peek)
}

func (r *Request) normalize() error {
	if r.Cost == 0 {
		r.Cost = 1
	}
	switch {
	case !ValidSubject(r.Subject):
		return &FieldError{Field: "subject", Value: r.Subject, Want: "1 to 256 bytes of UTF-8 without control characters"}
	case r.Scope != "" && !ValidName(r.Scope):
		return &FieldError{Field: "scope", Value: r.Scope, Want: "empty, or " + nameRule}
	case r.Cost < 0 || r.Cost > MaxCount:
		return &FieldError{Field: "cost", Value: strconv.FormatInt(r.Cost, 10), Want: "a whole number from 0 to 1000000000000000"}
	}
	return nil
}

// ValidSubject reports whether s can name a subject. The replacement character
// U+FFFD is refused because decoders write it for every byte they cannot read:
// two different malformed names would share one counter.
func ValidSubject(s string) bool {
	if s == "" || len(s) > MaxSubject || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || unicode.IsControl(r)
	})
}
