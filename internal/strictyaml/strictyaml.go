// Package strictyaml reads YAML files that people write, and refuses what misleads.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the maximum size of a file, in bytes.
const MaxSize = 1 << 20

// ToJSON converts one YAML document to JSON. It refuses a second document, which would be
// ignored; aliases, which can expand to gigabytes; and numbers like 010, which is eight. An
// empty document is nil.
func ToJSON(text []byte) ([]byte, error) {
	text, err := check(text)
	if err != nil {
		return nil, err
	}
	converted, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, errors.New(yaml.FormatError(err, false, true))
	}
	if bytes.Equal(bytes.TrimSpace(converted), []byte("null")) {
		return nil, nil
	}
	return converted, nil
}

func check(text []byte) ([]byte, error) {
	if len(text) > MaxSize {
		return nil, errors.New("larger than 1 MiB")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	content := false
	for _, t := range lexer.Tokenize(string(text)) {
		at := fmt.Sprintf("[%d:%d]", t.Position.Line, t.Position.Column)
		switch t.Type { //nolint:exhaustive // the rest is read
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return nil, fmt.Errorf("%s %q: anchors and aliases are not read: write it out", at, t.Value)
		case token.OctetIntegerType, token.BinaryIntegerType, token.HexIntegerType:
			return nil, fmt.Errorf("%s %q: numbers are decimal, without a leading 0", at, t.Value)
		case token.DocumentHeaderType, token.DocumentEndType:
			if content {
				return nil, fmt.Errorf("%s: one document is read, and this begins another", at)
			}
		case token.CommentType:
		default:
			content = true
		}
	}
	return text, nil
}
