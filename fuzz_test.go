package tierlimit_test

import (
	"testing"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit"
)

// A subject that is accepted is text that prints, of a bounded length.
func FuzzSubject(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if !tierlimit.ValidSubject(s) {
			return
		}
		if s == "" || len(s) > tierlimit.MaxSubject || !utf8.ValidString(s) {
			t.Errorf("%q is accepted", s)
		}
		for _, r := range s {
			if r < ' ' || r == 0x7f || r == utf8.RuneError {
				t.Errorf("%q is accepted", s)
			}
		}
	})
}

// A made-up id is refused or finds no hold, and changes no usage.
func FuzzHoldID(f *testing.F) {
	f.Add("AkHq0v3eHq0v3eHq0v3eHq0v3YWNjdF80Mg")
	f.Fuzz(func(t *testing.T, id string) {
		w := newWorld(t, perMinute(1000))
		given := w.take(held(7)).ID
		s, err := w.lim.Settle(t.Context(), id, 0, nil)
		if id != given && (s.Found || len(s.Limits) > 0) {
			t.Errorf("%q, which nobody was given, settles %+v, %v", id, s, err)
		}
		if found, _ := w.lim.Renew(t.Context(), id, tierlimit.MinHold); found && id != given {
			t.Errorf("%q, which nobody was given, is renewed", id)
		}
	})
}
