package console

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A field is one input of a form. Its name is that of the field of the API, so that an error of the
// API finds it.
type field struct {
	Name, Label string
	Kind        fieldKind
	Values      []string // what is in it; several of a list of boxes
	Options     []option
	Help        string
	Group       string // fields of a group stand together
	Minor       bool   // shown only when asked for
	Required    bool
	Error       string
	Also        []string // further fields of the API that are typed here

	// pieces, if not nil, takes the value into the body in place of its kind.
	pieces func(value string) map[string]any
}

// An option is a value that can be chosen.
type option struct{ Value, Label string }

// A fieldKind is how a field is typed, and what its value is in JSON.
type fieldKind string

// The kinds.
const (
	textField   fieldKind = "text"   // empty: left out
	numberField fieldKind = "number" // digits may be grouped; empty: left out
	maxField    fieldKind = "max"    // a whole number, or unlimited
	chooseField fieldKind = "choose"
	boxField    fieldKind = "box" // yes or no
	boxesField  fieldKind = "boxes"
	timeField   fieldKind = "time" // an instant in UTC
)

// Value returns what is in a field of one value.
func (f *field) Value() string {
	if len(f.Values) == 0 {
		return ""
	}
	return f.Values[0]
}

// Has reports whether a box of a list is ticked.
func (f *field) Has(value string) bool {
	for _, one := range f.Values {
		if one == value {
			return true
		}
	}
	return false
}

// ID returns the id of the input in the page.
func (f *field) ID() string { return "f-" + strings.ReplaceAll(f.Name, ".", "-") }

// covers reports whether an error of a field of the API belongs here.
func (f *field) covers(name string) bool {
	for _, one := range f.Also {
		if one == name {
			return true
		}
	}
	return false
}

// json returns what was typed as a value of JSON. What is no number stays text, for the API to say
// what is wrong with it.
func (f *field) json(value string) any {
	value = strings.TrimSpace(value)
	switch f.Kind {
	case boxField:
		return value == "true"
	case maxField, numberField:
		if f.Kind == maxField && strings.EqualFold(value, "unlimited") {
			return nil
		}
		plain := strings.NewReplacer(",", "", " ", "", " ", "", "_", "").Replace(value)
		if _, err := strconv.ParseFloat(plain, 64); err == nil && json.Valid([]byte(plain)) {
			return json.Number(plain)
		}
		if value == "" && f.Kind == numberField {
			return nil
		}
		return value
	case timeField:
		value = instantOf(value)
	}
	if value == "" {
		return nil
	}
	return value
}

// bodyOf returns the body of a request: the values of the fields, nested by the dots in their names.
// A field that is empty is null, which a merge patch deletes; so is an object of which all fields
// are empty.
func bodyOf(fields []*field, values url.Values) map[string]any {
	body := make(map[string]any)
	for _, f := range fields {
		value := f.json(values.Get(f.Name))
		if f.pieces != nil {
			for name, piece := range f.pieces(strings.TrimSpace(values.Get(f.Name))) {
				set(body, strings.Split(name, "."), piece)
			}
			continue
		}
		set(body, strings.Split(f.Name, "."), value)
	}
	for name, value := range body {
		if nested, ok := value.(map[string]any); ok && isEmpty(nested) {
			body[name] = nil
		}
	}
	return body
}

func set(body map[string]any, path []string, value any) {
	for _, name := range path[:len(path)-1] {
		nested, ok := body[name].(map[string]any)
		if !ok {
			nested = make(map[string]any)
			body[name] = nested
		}
		body = nested
	}
	body[path[len(path)-1]] = value
}

func isEmpty(object map[string]any) bool {
	for _, value := range object {
		if value != nil {
			return false
		}
	}
	return true
}

// withoutNull returns the body of a request that creates something: what is empty is left out. A
// max that is null is unlimited, and stays.
func withoutNull(body map[string]any) map[string]any {
	for name, value := range body {
		if nested, ok := value.(map[string]any); ok {
			withoutNull(nested)
		}
		if value == nil && name != "max" {
			delete(body, name)
		}
	}
	return body
}

// fieldLabel writes the name of a field of the API for people: names of limits stay as they are.
func fieldLabel(name string) string {
	if rest, ok := strings.CutPrefix(name, "limits."); ok {
		limit, part, _ := strings.Cut(rest, ".")
		return strings.TrimSuffix(limit+" › "+words(part), " › ")
	}
	return strings.ReplaceAll(words(name), ".", " › ")
}

// instantOf returns the value of a datetime-local input, which is in UTC, as an instant of the API.
// What is no such value stays, for the API to refuse.
func instantOf(value string) string {
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02T15:04:05.999"} {
		if at, err := time.Parse(layout, value); err == nil {
			return at.Format(time.RFC3339Nano)
		}
	}
	return value
}

// inputOf returns an instant as a datetime-local input takes it.
func inputOf(at *time.Time) string {
	switch {
	case at == nil || at.IsZero():
		return ""
	case at.Equal(at.Truncate(time.Minute)):
		return at.UTC().Format("2006-01-02T15:04")
	}
	return at.UTC().Format("2006-01-02T15:04:05.999")
}
