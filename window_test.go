package tierlimit_test

import (
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

func TestWindows(t *testing.T) {
	for s, want := range map[string]tierlimit.Window{
		"60s": {Length: time.Minute}, "300s": {Length: 5 * time.Minute}, "1h": {Length: time.Hour}, "24h": {Length: 24 * time.Hour},
		"250ms": {Length: 250 * time.Millisecond}, "day": {Period: tierlimit.Day}, "week": {Period: tierlimit.Week}, "month": {Period: tierlimit.Month},
	} {
		w, err := tierlimit.ParseWindow(s)
		if err != nil || w != want || w.String() != s {
			t.Errorf("%s: %v, %v", s, w, err)
		}
	}
	for _, s := range []string{"", "0s", "-1s", "1us", "1.0005s", "87841h", "year", "Day", "60", "1e9h"} {
		if w, err := tierlimit.ParseWindow(s); err == nil {
			t.Errorf("%q was read as %v", s, w)
		}
	}
}
