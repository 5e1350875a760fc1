package tiers

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// A Record is the JSON form of a subject in imports and exports. It includes the subject's
// overrides, by limit, in the field "overrides".
type Record struct{ Subject }

// MarshalJSON writes the subject, and its overrides if it has any.
func (r Record) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(r.Subject)
	if err != nil || len(r.Overrides) == 0 {
		return text, err
	}
	overrides, err := json.Marshal(r.Overrides)
	if err != nil {
		return nil, err
	}
	text = append(text[:len(text)-1], `,"overrides":`...)
	return append(append(text, overrides...), '}'), nil
}

// UnmarshalJSON decodes the form that MarshalJSON writes. Its error lists all invalid fields.
func (r *Record) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	overrides, there := fields["overrides"]
	if !there {
		return json.Unmarshal(data, &r.Subject)
	}
	delete(fields, "overrides")
	rest, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(rest, &r.Subject); err != nil {
		return err
	}
	r.Overrides, err = strictjson.Named[Override]("overrides", overrides)
	return err
}

// Operations returns the operations that create or replace the subject and its overrides.
// Existing overrides that r does not have are kept.
func (r *Record) Operations() []Operation {
	list := []Operation{{Ref: SubjectRef(r.ID), Expect: Anything, Put: r.Subject}}
	for _, limit := range slices.Sorted(maps.Keys(r.Overrides)) {
		list = append(list, Operation{Ref: OverrideRef(r.ID, limit), Expect: Anything, Put: r.Overrides[limit], AnyLimit: true})
	}
	return list
}
