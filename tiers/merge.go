package tiers

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// merge applies a JSON merge patch (RFC 7396) to before and returns the new object: null
// deletes a field, and a value that is not an object replaces the field. Exception: a max
// of null means unlimited, because an object cannot lack its max.
func merge(ref Ref, before Object, patch json.RawMessage, now time.Time) (Object, error) {
	var fields map[string]any
	dec := json.NewDecoder(bytes.NewReader(patch))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil || fields == nil {
		return nil, &tierlimit.FieldError{Field: "body", Want: "a JSON object"}
	}
	switch before := before.(type) {
	case Tier:
		return merged(before, fields, func(t *Tier) { t.Key = ref.Object })
	case Subject:
		if status, named := fields["status"]; named && status == nil { // the default would lift a suspension
			return nil, &tierlimit.FieldError{Field: "status", Value: "null", Want: statuses}
		}
		return merged(before.AsOf(now), fields, func(s *Subject) { s.ID = ref.Object })
	case Override:
		return merged(before, fields, func(o *Override) { o.Limit = ref.Limit })
	case access.Credential:
		return merged(before, fields, func(c *access.Credential) { c.ID, c.Kind = ref.Object, access.Kind(ref.Kind) })
	case LoadControl:
		return merged(before, fields, func(*LoadControl) {})
	case Webhook:
		return merged(before, fields, func(w *Webhook) { w.ID = ref.Object })
	}
	return nil, refError(ref, ErrNotFound)
}

// merged merges fields into before and validates the result. name sets the result's name from
// its ref, so that validation reports only other errors.
func merged[T any, P interface {
	*T
	strictjson.Valid
}](before T, fields map[string]any, name func(*T)) (Object, error) {
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	var target any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&target); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(mergeInto(target, fields, nil)); err != nil {
		return nil, err
	}
	var after T
	if err := strictjson.Strict(text, &after); err != nil {
		name(&after)
		return nil, strictjson.Also(err, P(&after))
	}
	return after, nil
}

func mergeInto(target any, patch map[string]any, path []string) map[string]any {
	result, ok := target.(map[string]any)
	if !ok {
		result = make(map[string]any)
	}
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			if isMax(path, name) {
				result[name] = nil
			} else {
				delete(result, name)
			}
		case map[string]any:
			result[name] = mergeInto(result[name], value, append(path[:len(path):len(path)], name))
		default:
			result[name] = value
		}
	}
	return result
}

// isMax reports whether the field name at path is the max of an override or of a tier's
// limit. A limit may itself be named max.
func isMax(path []string, name string) bool {
	return name == "max" && (len(path) == 0 || len(path) == 2 && path[0] == "limits")
}
