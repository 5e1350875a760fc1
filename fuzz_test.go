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
