package tierlimit_test

import (
	"context"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit"
)

// Whoever makes a decision's id up is told that it is none; what is accepted is what a
// store accepts.
func FuzzDecisionID(f *testing.F) {
	lim, err := tierlimit.New(tierlimit.Config{Store: refunds{}, Tiers: nobody{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id string) {
		_, err := lim.RefundID(t.Context(), id)
		var field *tierlimit.FieldError
		if err != nil && (!errors.As(err, &field) || field.Field != "id") {
			t.Errorf("%q: %v", id, err)
		}
	})
}

// refunds accepts what is valid.
type refunds struct{ tierlimit.Store }

var errNotValid = errors.New("a store was asked for what is not valid")

func (refunds) Refund(_ context.Context, r tierlimit.Refund) (bool, error) {
	if r.Validate() != nil {
		return false, errNotValid
	}
	return true, nil
}

type nobody struct{ tierlimit.Resolver }

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
