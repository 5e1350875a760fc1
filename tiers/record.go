package tiers

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// A Record is a subject with its overrides, as import and export have it: one JSON object, in
// which "overrides" are by limit.
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

// UnmarshalJSON reads what MarshalJSON writes, and tells of everything that is wrong.
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

// Operations returns those that make the catalogue have r, whatever it has: they create or
// replace the subject and its overrides. Overrides that r does not have stay.
func (r *Record) Operations() []Operation {
	list := []Operation{{Ref: SubjectRef(r.ID), Expect: Anything, Put: r.Subject}}
	for _, limit := range slices.Sorted(maps.Keys(r.Overrides)) {
		list = append(list, Operation{Ref: OverrideRef(r.ID, limit), Expect: Anything, Put: r.Overrides[limit], AnyLimit: true})
	}
	return list
}
