package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// maxBody bounds what is read of a request. The largest tier is a few KiB.
const maxBody = 64 << 10

// errTooLarge and errNoVersion are answered with statuses of their own.
var (
	errTooLarge  = errors.New("the body is larger than is read")
	errTooSlow   = errors.New("the body did not come in time")
	errNoVersion = errors.New("If-Match is missing: send the ETag you read")
	errThere     = errors.New("If-None-Match: * is for what is not there")
)

// decode reads a JSON body: one value, no unknown fields, no malformed UTF-8
// (which the decoder would quietly turn into U+FFFD).
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	return decodeJSON(data, into)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return readBodyOf(w, r, maxBody)
}

func readBodyOf(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errTooSlow
	case err != nil:
		return nil, bodyError("complete")
	case !utf8.Valid(data):
		return nil, bodyError("UTF-8")
	}
	return data, nil
}

func decodeJSON(data []byte, into any) error {
	if err := checkNames(data); err != nil {
		return err
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return bodyError("a JSON object")
	}
	if err := strictjson.Strict(data, into); err != nil {
		return decodeError(err)
	}
	return nil
}

// maxDepth is the maximum nesting depth of JSON in a request.
const maxDepth = 16

// checkNames returns an error for a field name that an object repeats or that is not a
// ValidName. encoding/json would use the last of repeated fields, and take "Status" for
// "status". No valid name has capitals.
func checkNames(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	var levels []map[string]bool // the names in each object that is open; nil for a list
	name := false                // whether the next token is a name
	for {
		token, err := dec.Token()
		if err != nil {
			return nil //nolint:nilerr // whoever decodes says what is wrong
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{', '[':
				if len(levels) == maxDepth {
					return bodyError("nested no deeper than " + strconv.Itoa(maxDepth) + " levels")
				}
				var names map[string]bool
				if token == '{' {
					names = make(map[string]bool)
				}
				levels = append(levels, names)
			default:
				levels = levels[:len(levels)-1]
			}
			name = len(levels) > 0 && levels[len(levels)-1] != nil
			continue
		case string:
			if !name {
				break
			}
			field := &tierlimit.FieldError{Field: token[:min(len(token), 64)], Want: strictjson.Once}
			if !tierlimit.ValidName(token) {
				field.Want = strictjson.NoSuchField + ", as names are in small letters"
				return field
			}
			if levels[len(levels)-1][token] {
				return field
			}
			levels[len(levels)-1][token] = true
		}
		name = !name && len(levels) > 0 && levels[len(levels)-1] != nil
	}
}

func decodeError(err error) error {
	var syntax *json.SyntaxError
	switch {
	case len(strictjson.Fields(err)) > 0:
		return err
	case errors.Is(err, strictjson.ErrTrailing):
		return bodyError("one JSON value and nothing behind it")
	case errors.As(err, &syntax):
		return bodyError("JSON; it is malformed at byte " + strconv.FormatInt(syntax.Offset, 10))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return bodyError("JSON; it ends too early")
	}
	return bodyError("the JSON object that is documented")
}

func bodyError(want string) error {
	return &tierlimit.FieldError{Field: "body", Want: want}
}

// pathValue returns a path parameter as it was meant: chi hands it out escaped
// exactly when the path has a raw form.
func pathValue(r *http.Request, name string) string {
	value := chi.URLParam(r, name)
	if r.URL.RawPath != "" {
		if plain, err := url.PathUnescape(value); err == nil {
			return plain
		}
	}
	return value
}

// samePath returns the path's value for what the body may name too.
func samePath(r *http.Request, field, inBody string) (string, error) {
	inPath := pathValue(r, field)
	if inBody != "" && inBody != inPath {
		return "", &tierlimit.FieldError{Field: field, Value: inBody, Want: "left out, or " + strconv.Quote(inPath) + " as in the path"}
	}
	return inPath, nil
}

// ifMatch parses the precondition of a write: If-None-Match: * to create, If-Match: * for any
// version, or If-Match with ETags, one of which must be current (RFC 9110, 13.1.1). A weak
// ETag never matches.
func ifMatch(r *http.Request) (tiers.Expect, error) {
	if none := strings.Join(r.Header.Values("If-None-Match"), ", "); none != "" {
		if strings.TrimSpace(none) != "*" || r.Header.Get("If-Match") != "" {
			return tiers.Expect{}, &tierlimit.FieldError{Field: "If-None-Match", Value: none, Want: "*, to create by PUT, and no If-Match beside it"}
		}
		return tiers.Absent, nil
	}
	tags := strings.Join(r.Header.Values("If-Match"), ", ")
	switch strings.TrimSpace(tags) {
	case "":
		return tiers.Expect{}, errNoVersion
	case "*":
		return tiers.Present, nil
	}
	var versions []int64
	for rest := tags; ; {
		rest = strings.TrimLeft(rest, ", \t")
		if rest == "" {
			return tiers.Version(versions...), nil
		}
		tag := entityTag.FindString(rest)
		if tag == "" {
			return tiers.Expect{}, &tierlimit.FieldError{Field: "If-Match", Value: tags, Want: `ETags as they were sent, in their quotes, or *`}
		}
		version, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
		if err == nil && tagOf(version) == tag {
			versions = append(versions, version)
		}
		if rest = rest[len(tag):]; rest != "" && !strings.HasPrefix(strings.TrimLeft(rest, " \t"), ",") {
			return tiers.Expect{}, &tierlimit.FieldError{Field: "If-Match", Value: tags, Want: `ETags as they were sent, with commas between, or *`}
		}
	}
}

// entityTag matches an ETag at the start of a string: RFC 9110, 8.8.3.
var entityTag = regexp.MustCompile(`^(W/)?"[\x21\x23-\x7E\x80-\xFF]*"`)

// tagOf is the ETag of a version.
func tagOf(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// A page is a list as all lists are answered.
type page[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

func (p page[T]) MarshalJSON() ([]byte, error) {
	type plain page[T]
	if p.Data == nil {
		p.Data = []T{}
	}
	return json.Marshal(plain(p))
}

// query reads the parameters an endpoint knows and refuses all else: a slip
// must not look like the request without it.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &tierlimit.FieldError{Field: "query", Value: r.URL.RawQuery, Want: "well-formed: name=value, escaped, with & between"}
	}
	for name := range q {
		if !slices.Contains(known, name) {
			want := "one of " + strings.Join(known, ", ")
			if len(known) == 0 {
				want = "left out: there are no parameters"
			}
			return nil, &tierlimit.FieldError{Field: "query", Value: name, Want: want}
		}
	}
	return q, nil
}

// pageOf reads ?limit= and ?cursor=, beside the filters that a list knows.
func pageOf(r *http.Request, filters ...string) (q url.Values, after string, most int, err error) {
	if q, err = query(r, append(filters, "limit", "cursor")...); err != nil {
		return nil, "", 0, err
	}
	if most, err = mostOf(q); err != nil {
		return nil, "", 0, err
	}
	cursor, err := base64.RawURLEncoding.DecodeString(q.Get("cursor"))
	if err != nil || len(cursor) > 0 && !tierlimit.ValidSubject(string(cursor)) {
		return nil, "", 0, &tierlimit.FieldError{Field: "cursor", Value: q.Get("cursor"), Want: "a next_cursor as it was sent"}
	}
	return q, string(cursor), most, nil
}

// pageOfThose makes a page of a list that was asked for one more than it has.
func pageOfThose[T any](list []T, most int, cursor func(*T) string) page[T] {
	p := page[T]{Data: list}
	if len(list) > most {
		p.Data, p.HasMore = list[:most], true
		p.NextCursor = cursor(&list[most-1])
	}
	return p
}

// mostOf reads ?limit=, how many a page has.
func mostOf(q url.Values) (int, error) {
	s := q.Get("limit")
	if s == "" {
		return 50, nil
	}
	most, err := strconv.Atoi(s)
	if err != nil || most < 1 || most > 500 {
		return 0, &tierlimit.FieldError{Field: "limit", Value: s, Want: "a whole number from 1 to 500"}
	}
	return most, nil
}

func respond(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // what we answer with is ours
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client may be gone
}

// respondDecision is respond for what is answered most.
func respondDecision(w http.ResponseWriter, d *tierlimit.Decision) {
	body := bodies.Get().(*[]byte) //nolint:forcetypeassert // nothing else goes in
	defer bodies.Put(body)
	*body = append(d.AppendJSON((*body)[:0]), '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(*body) // the client may be gone
}

var bodies = sync.Pool{New: func() any { return new([]byte) }}

// respondVersion sends a strong ETag with what can be changed.
func respondVersion(w http.ResponseWriter, status int, version int64, body any) {
	w.Header().Set("Etag", tagOf(version))
	respond(w, status, body)
}
