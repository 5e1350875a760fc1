package tiers

import (
	"errors"

	"github.com/tierlimit/tierlimit"
)

// A Subject is somebody known to be on a tier. A subject that is not known is
// on the default tier.
type Subject struct {
	ID      string `json:"id"`
	Tier    string `json:"tier"`
	Version int64  `json:"version"` // set by the catalogue; greater with each change
}

// Validate reports everything that is wrong with s, each as a
// *tierlimit.FieldError, joined.
func (s *Subject) Validate() error {
	var errs []error
	if !tierlimit.ValidSubject(s.ID) {
		errs = append(errs, &tierlimit.FieldError{Field: "id", Value: s.ID, Want: tierlimit.SubjectRule})
	}
	if !tierlimit.ValidName(s.Tier) {
		errs = append(errs, &tierlimit.FieldError{Field: "tier", Value: s.Tier, Want: "the key of a tier"})
	}
	return errors.Join(errs...)
}
