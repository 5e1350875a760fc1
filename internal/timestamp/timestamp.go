// Package timestamp reads and writes the instants that administrators give: kept to
// the millisecond, in UTC, and bounded so that every server can hold them.
package timestamp

import (
	"time"

	"github.com/tierlimit/tierlimit"
)

// Rule is what an instant may be, as an error says it.
const Rule = "an instant from 1970 to 9999 such as 2026-11-25T12:00:00Z"

// Round brings t to what is kept.
func Round(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// RoundAll rounds each instant that is there, in a place of its own.
func RoundAll(instants ...**time.Time) {
	for _, t := range instants {
		if *t != nil {
			rounded := Round(**t)
			*t = &rounded
		}
	}
}

// Valid reports whether t keeps the Rule.
func Valid(t time.Time) bool {
	ms := t.UnixMilli()
	return ms > 0 && ms <= tierlimit.MaxAnchor
}

// Text writes t as JSON has it, nil for none.
func Text(t *time.Time) *string {
	if t == nil {
		return nil
	}
	text := t.UTC().Format(time.RFC3339Nano)
	return &text
}

// A Parser reads instants and gathers what is wrong with them.
type Parser struct{ Errs []error }

// Parse reads the instant in a field.
func (p *Parser) Parse(field, text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		p.Errs = append(p.Errs, &tierlimit.FieldError{Field: field, Value: text, Want: Rule})
	}
	return t
}

// Optional reads an instant that may not be there.
func (p *Parser) Optional(field string, text *string) *time.Time {
	if text == nil {
		return nil
	}
	t := p.Parse(field, *text)
	return &t
}
