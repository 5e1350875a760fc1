// Package input reads what people write, and refuses what would be lost.
package input

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit"
)

// NoSuchField is what is wanted of a field that is not known, as an error says it.
const NoSuchField = "left out: there is no such field"

// Strict decodes one JSON value without fields that are not known.
func Strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var wrongType *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &wrongType) && strings.HasPrefix(err.Error(), "json: unknown field ") {
		name := strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`)
		return &tierlimit.FieldError{Field: name[:min(len(name), 64)], Want: NoSuchField}
	}
	return err
}

// Printable reports whether s is UTF-8 that every screen and database can take.
func Printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
