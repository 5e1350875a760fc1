// Package jsondiff says in which fields two JSON objects differ.
package jsondiff

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
)

// A Change is one field that differs.
type Change struct {
	Field string `json:"field"` // "limits.per_minute.max"
	From  any    `json:"from"`  // nil if it was not there
	To    any    `json:"to"`    // nil if it is not there
}

// Of compares two objects, of which one may be empty for nothing. Their version is
// no difference.
func Of(before, after json.RawMessage) ([]Change, error) {
	old, err := fields(before)
	if err != nil {
		return nil, err
	}
	now, err := fields(after)
	if err != nil {
		return nil, err
	}
	delete(old, "version")
	delete(now, "version")
	return differences("", old, now), nil
}

func fields(text json.RawMessage) (m map[string]any, err error) {
	if len(text) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return m, dec.Decode(&m)
}

func differences(parent string, before, after map[string]any) (list []Change) {
	names := slices.Collect(maps.Keys(before))
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		from, to := before[name], after[name]
		was, isOld := from.(map[string]any)
		is, isNew := to.(map[string]any)
		switch {
		case isOld && isNew:
			list = append(list, differences(parent+name+".", was, is)...)
		case !reflect.DeepEqual(from, to):
			list = append(list, Change{parent + name, from, to})
		}
	}
	return list
}
