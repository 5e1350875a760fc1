// Package strictjson decodes JSON and refuses whatever would be lost silently.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit"
)

// NoSuchField is what is wanted of a field that is not known, as an error says it.
const NoSuchField = "left out: there is no such field"

// Once is FieldError.Want for a repeated field.
const Once = "given once"

// ErrTrailing says that something stands behind the one JSON value.
var ErrTrailing = errors.New("something stands behind the JSON value")

// Strict decodes one JSON value without fields that are not known. What is not
// wrong is read all the same, and each field that is wrong is told of.
func Strict(data []byte, into any) error {
	err := decode(data, into)
	if len(Fields(err)) == 0 {
		return err
	}
	if _, itself := into.(json.Unmarshaler); itself {
		return err
	}
	// A decoder stops at the first.
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		one, err := json.Marshal(map[string]json.RawMessage{name: fields[name]})
		errs = append(errs, err, decode(one, into))
	}
	return errors.Join(errs...)
}

func decode(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return Explain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return nil
}

// Explain says which field a decoder's error is about, where it is about one.
func Explain(err error) error {
	var field *tierlimit.FieldError
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil, errors.As(err, &field):
		return err
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return &tierlimit.FieldError{
			Field: wrongType.Field, Value: strings.TrimPrefix(wrongType.Value, "number "), Want: typeName(wrongType.Type.Kind().String()),
		}
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name = strings.Trim(name, `"`)
		return &tierlimit.FieldError{Field: name[:min(len(name), 64)], Want: NoSuchField}
	}
	return err
}

// typeName says what JSON should stand in a Go field of a kind.
func typeName(kind string) string {
	switch kind {
	case "int", "int64":
		return "a whole number within the documented bounds"
	case "float64":
		return "a number"
	case "bool":
		return "true or false"
	case "string":
		return "a string"
	case "slice":
		return "a list"
	default:
		return "an object"
	}
}

// maxNamed is the maximum number of names in an object: each one may need an error.
const maxNamed = 256

// Named reads an object of things by name, and reports everything that is wrong in
// them, each under parent and its name.
func Named[T any](parent string, data []byte) (map[string]T, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, &tierlimit.FieldError{Field: parent, Value: string(data[:min(len(data), 64)]), Want: "an object"}
	}
	if len(raw) > maxNamed {
		return nil, &tierlimit.FieldError{Field: parent, Value: strconv.Itoa(len(raw)) + " names", Want: "at most " + strconv.Itoa(maxNamed)}
	}
	var errs []error
	all := make(map[string]T, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		var one T
		if err := Strict(raw[name], &one); err != nil {
			errs = append(errs, In(parent+"."+name, err)...)
		}
		all[name] = one
	}
	return all, errors.Join(errs...)
}

// Fields returns every input error in err, which may be joined.
func Fields(err error) []*tierlimit.FieldError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*tierlimit.FieldError
		for _, e := range joined.Unwrap() {
			all = append(all, Fields(e)...)
		}
		return all
	}
	var field *tierlimit.FieldError
	if errors.As(err, &field) {
		return []*tierlimit.FieldError{field}
	}
	return nil
}

// In puts a parent's name before each field that is wrong.
func In(parent string, err error) (errs []error) {
	fields := Fields(err)
	for _, field := range fields {
		errs = append(errs, field.In(parent))
	}
	if err != nil && len(fields) == 0 {
		errs = []error{fmt.Errorf("%s: %w", parent, err)}
	}
	return errs
}

// A Valid can say all that is wrong with itself.
type Valid interface {
	Normalize()
	Validate() error
}

// Also adds to err, which came of reading v, what is wrong with the rest of v: all
// that is wrong is told at once. Of what could not be read it says nothing more.
func Also(err error, v Valid) error {
	wrong := Fields(err)
	if len(wrong) == 0 {
		return err
	}
	v.Normalize()
	errs := []error{err}
	for _, field := range Fields(v.Validate()) {
		if !slices.ContainsFunc(wrong, func(w *tierlimit.FieldError) bool { return near(field.Field, w.Field) }) {
			errs = append(errs, field)
		}
	}
	return errors.Join(errs...)
}

// near reports whether field stands in the object that the unreadable one stands
// in, or is it.
func near(field, unreadable string) bool {
	parent := unreadable
	if dot := strings.LastIndexByte(unreadable, '.'); dot >= 0 {
		parent = unreadable[:dot]
	}
	return field == parent || field == unreadable || strings.HasPrefix(field, parent+".")
}

// Printable reports whether s is valid UTF-8 without control characters, invisible
// characters, and characters that change the direction of text.
func Printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	})
}
