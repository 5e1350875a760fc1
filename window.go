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

// A Window is the stretch of time a limit counts over: either a fixed Length
// that starts with the first charge, or a calendar Period. Exactly one of the
// two is set. Windows are comparable.
type Window struct {
	Length time.Duration // whole milliseconds, MinLength to MaxLength
	Period Period
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
		if known && w.Length == 0 {
			return nil
		}
		return windowError(string(w.Period))
	}
	if w.Length < MinLength || w.Length > MaxLength || w.Length%time.Millisecond != 0 {
		return windowError(w.Length.String())
	}
	return nil
}

func windowError(value string) error {
	return &FieldError{
		Field: "window", Value: value,
		Want: "a duration of whole milliseconds from 1ms to 87840h such as 60s, or day, week or month",
	}
}

// End returns when a window that is charged first at now ends, to the
// millisecond. For a calendar period that is the first instant of the next
// period; an instant on the boundary belongs to the new period.
func (w Window) End(now time.Time) time.Time {
	now = now.UTC().Truncate(time.Millisecond)
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	switch w.Period {
	case Day:
		return midnight.AddDate(0, 0, 1)
	case Week:
		sinceMonday := (int(now.Weekday()) + 6) % 7
		return midnight.AddDate(0, 0, 7-sinceMonday)
	case Month:
		return time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
	default:
		return now.Add(w.Length)
	}
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
