// Package problem writes errors as application/problem+json (RFC 9457).
package problem

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/tierlimit/tierlimit/internal/jsontext"
)

// Problem types of draft-ietf-httpapi-ratelimit-headers. The zero Type is
// about:blank: the status says it all.
const (
	QuotaExceeded            = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	AbnormalUsage            = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
	TemporaryReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// A Problem is one error as a client sees it.
type Problem struct {
	Type             string
	Title            string // default: the status in words
	Status           int
	Detail           string
	RetryAfter       int // seconds, for the header Retry-After; 0: none
	ViolatedPolicies []string
	Errors           []Field
	InTheWay         []string // of a conflict: what holds on
	Decision         Appender // the decision that is the reason; nil for none
}

// An Appender writes itself as JSON.
type Appender interface{ AppendJSON(b []byte) []byte }

// A Field is one input that was wrong.
type Field struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Write answers with p. Nothing may store an error of this moment.
func Write(w http.ResponseWriter, p Problem) {
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else goes in
	defer buffers.Put(body)
	*body = append(p.append((*body)[:0]), '\n')
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = contentType, noStore
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(*body) // the client may be gone
}

// Header values that are the same for every problem. net/http only reads them.
var (
	contentType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
)

var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (p *Problem) append(b []byte) []byte {
	b = append(b, '{')
	if p.Type != "" {
		b = append(jsontext.AppendString(append(b, `"type":`...), p.Type), ',')
	}
	b = jsontext.AppendString(append(b, `"title":`...), p.Title)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(p.Status), 10)
	if p.Detail != "" {
		b = jsontext.AppendString(append(b, `,"detail":`...), p.Detail)
	}
	if len(p.ViolatedPolicies) > 0 {
		b = append(b, `,"violated-policies":`...)
		for i, name := range p.ViolatedPolicies {
			b = jsontext.AppendString(append(b, separator(i)), name)
		}
		b = append(b, ']')
	}
	if len(p.Errors) > 0 {
		b = append(b, `,"errors":`...)
		for i, e := range p.Errors {
			b = jsontext.AppendString(append(append(b, separator(i)), `{"field":`...), e.Field)
			b = append(jsontext.AppendString(append(b, `,"detail":`...), e.Detail), '}')
		}
		b = append(b, ']')
	}
	if len(p.InTheWay) > 0 {
		b = append(b, `,"in_the_way":`...)
		for i, name := range p.InTheWay {
			b = jsontext.AppendString(append(b, separator(i)), name)
		}
		b = append(b, ']')
	}
	if p.Decision != nil {
		b = p.Decision.AppendJSON(append(b, `,"decision":`...))
	}
	return append(b, '}')
}

// separator is what stands before the element i of a list.
func separator(i int) byte {
	if i == 0 {
		return '['
	}
	return ','
}
