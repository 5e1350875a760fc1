package tierlimit

import (
	"strconv"
	"time"
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

// A Window is the stretch of time a limit counts over: either a fixed Length
// that starts with the first charge, or a Period. Exactly one of the two is set.
// Windows are comparable.
type Window struct {
	Length time.Duration // whole milliseconds, MinLength to MaxLength
	Period Period
	// Anchor is an instant at which a period begins, such as that of a
	// subscription: milliseconds since the epoch, up to MaxAnchor. A month that
	// lacks the anchor's day begins on its last. 0 is the calendar.
	Anchor int64
}

// ParseWindow reads what [Window.String] prints: a duration such as "60s" or
// "250ms", or a period's name.
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

// End returns when a window that is charged first at now ends, to the
// millisecond. For a period that is the first instant of the next one; an
// instant on the boundary belongs to the new period.
func (w Window) End(now time.Time) time.Time {
	now = now.UTC().Truncate(time.Millisecond)
	switch w.Period {
	case Day:
		return w.turn(now, 24*time.Hour)
	case Week:
		return w.turn(now, 7*24*time.Hour)
	case Month:
		if end := w.monthly(now.Year(), now.Month()); end.After(now) {
			return end
		}
		return w.monthly(now.Year(), now.Month()+1)
	default:
		return now.Add(w.Length)
	}
}

// monday began a week of the calendar.
const monday = 4 * 24 * time.Hour

// turn returns the first instant after now that is a whole number of lengths
// from the anchor.
func (w Window) turn(now time.Time, length time.Duration) time.Time {
	anchor := w.Anchor
	if anchor == 0 && w.Period == Week {
		anchor = monday.Milliseconds()
	}
	since, step := now.UnixMilli()-anchor, length.Milliseconds()
	past := ((since % step) + step) % step
	return now.Add(time.Duration(step-past) * time.Millisecond)
}

// monthly returns when the period of a month begins.
func (w Window) monthly(year int, month time.Month) time.Time {
	anchor := time.UnixMilli(w.Anchor).UTC()
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC)
	return time.Date(last.Year(), last.Month(), min(anchor.Day(), last.Day()),
		anchor.Hour(), anchor.Minute(), anchor.Second(), anchor.Nanosecond(), time.UTC)
}

// String gives the window as JSON and people see it: "60s", "250ms", "24h",
// "month".
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
