package tierlimit

import (
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit/window"
)

// A Period is a calendar period in UTC.
type Period string

// The calendar periods. A week starts on Monday, as in ISO 8601.
const (
	Day   Period = "day"
	Week  Period = "week"
	Month Period = "month"
)

// Bounds of a fixed window's length.
const (
	MinLength = time.Millisecond
	MaxLength = 3660 * 24 * time.Hour
)

// MaxAnchor is the last millisecond of the year 9999.
const MaxAnchor int64 = 253402300799999

// A Window is the stretch of time a limit counts over: either a fixed Length that
// starts with the first charge, or a Period. Exactly one of the two is set. Windows
// are comparable.
type Window struct {
	Length time.Duration // whole milliseconds, MinLength to MaxLength
	Period Period
	// Anchor is an instant at which a period begins, such as that of a subscription:
	// milliseconds since the epoch, up to MaxAnchor. A month that lacks the anchor's
	// day begins on its last day. 0 is the calendar.
	Anchor int64
}

// ParseWindow reads what [Window.String] prints: a duration such as "60s" or "250ms",
// or a period's name.
func ParseWindow(s string) (Window, error) {
	switch p := Period(s); p {
	case Day, Week, Month:
		return Window{Period: p}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		w := Window{Length: d}
		if err := w.Validate(); err == nil {
			return w, nil
		}
	}
	return Window{}, windowError(s)
}

// Validate reports a window that no store can count over.
func (w Window) Validate() error {
	if w.Period != "" {
		known := w.Period == Day || w.Period == Week || w.Period == Month
		if !known || w.Length != 0 {
			return windowError(string(w.Period))
		}
		if w.Anchor < 0 || w.Anchor > MaxAnchor {
			return anchorError(w.Anchor, "0 to 253402300799999")
		}
		return nil
	}
	if w.Length < MinLength || w.Length > MaxLength || w.Length%time.Millisecond != 0 {
		return windowError(w.Length.String())
	}
	if w.Anchor != 0 {
		return anchorError(w.Anchor, "0: a window of fixed length begins with its first charge")
	}
	return nil
}

func anchorError(anchor int64, want string) error {
	return &FieldError{Field: "anchor", Value: strconv.FormatInt(anchor, 10), Want: want}
}

func windowError(value string) error {
	return &FieldError{
		Field: "window", Value: value,
		Want: "a duration of whole milliseconds from 1ms to 87840h such as 60s, or day, week or month",
	}
}

// spec returns how w counts over time.
func (w Window) spec(sliding bool) window.Spec {
	switch w.Period {
	case Day:
		return window.Spec{Kind: window.Day, Anchor: w.Anchor}
	case Week:
		return window.Spec{Kind: window.Week, Anchor: w.Anchor}
	case Month:
		return window.Spec{Kind: window.Month, Anchor: w.Anchor}
	}
	spec := window.Spec{Length: w.Length.Milliseconds()}
	if sliding {
		spec.Kind = window.Sliding
	}
	return spec
}

// End returns when a window that is charged first at now ends, to the millisecond.
// For a period that is the first instant of the next one; an instant on the boundary
// belongs to the new period.
func (w Window) End(now time.Time) time.Time {
	return time.UnixMilli(w.spec(false).End(now.UnixMilli())).UTC()
}

// String gives the window as JSON and people see it: "60s", "250ms", "24h", "month".
func (w Window) String() string {
	if w.Period != "" {
		return string(w.Period)
	}
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Second, "s"}} {
		if w.Length >= u.size && w.Length%u.size == 0 {
			return strconv.FormatInt(int64(w.Length/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(w.Length.Milliseconds(), 10) + "ms"
}
