package tierlimit

import (
	"errors"
	"fmt"
)

// ErrStoreUnavailable is wrapped by a [Store] whose counters cannot be reached
// now: the plan's failure policy then answers. An error that does not wrap it
// (a key of the wrong type, missing rights) is a fault in the set-up, and the
// request is denied whatever the policy says.
var ErrStoreUnavailable = errors.New("store unavailable")

// ErrOverloaded is wrapped by a [Store] whose answer this process read too late: the process is
// overloaded, and the store is not to blame.
var ErrOverloaded = errors.New("this process is overloaded")

// ErrCallerGaveUp is wrapped by the [Observation.Err] of a decision whose caller had cancelled it, or
// whose own deadline was over, before the store answered. It says nothing of the store.
var ErrCallerGaveUp = errors.New("the caller gave up")

// ErrTierUnknown is the [Observation.Err] of a subject that was held to the default tier because
// its own tier could not be learned in time.
var ErrTierUnknown = errors.New("the subject's tier could not be learned in time")

// ErrNoPlan is wrapped by a [Resolver] that has no plan to give, not even a
// default one. The request is denied.
var ErrNoPlan = errors.New("no plan")

// A FieldError says which input was wrong, what it was and what is allowed.
type FieldError struct {
	Field string // as the user wrote it: "cost", "limits.per_minute.max"
	Value string
	Want  string // completes "must be ..."
}

// maxShown keeps a hostile 10,000 character value out of logs and answers.
const maxShown = 64

func (e *FieldError) Error() string {
	field := e.Field
	if len(field) > 2*maxShown {
		field = field[:2*maxShown] + "..."
	}
	switch {
	case e.Value == "":
		return fmt.Sprintf("%s: must be %s", field, e.Want)
	case len(e.Value) > maxShown:
		return fmt.Sprintf("%s %q... (%d bytes): must be %s", field, e.Value[:maxShown], len(e.Value), e.Want)
	default:
		return fmt.Sprintf("%s %q: must be %s", field, e.Value, e.Want)
	}
}

// In returns e with its field moved under parent: "max" in "limits.per_day" is
// "limits.per_day.max".
func (e *FieldError) In(parent string) *FieldError {
	moved := *e
	moved.Field = parent + "." + e.Field
	return &moved
}
