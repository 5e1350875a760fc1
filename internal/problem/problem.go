// Package problem writes errors as application/problem+json (RFC 9457).
package problem

import (
	"encoding/json"
	"net/http"
)

// Problem types of draft-ietf-httpapi-ratelimit-headers. The zero Type is
// about:blank: the status says it all.
const (
	QuotaExceeded            = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	TemporaryReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// A Problem is one error as a client sees it.
type Problem struct {
	Type             string   `json:"type,omitempty"`
	Title            string   `json:"title"`
	Status           int      `json:"status"`
	Detail           string   `json:"detail,omitempty"`
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
	Errors           []Field  `json:"errors,omitempty"`
	Decision         any      `json:"decision,omitempty"`
}

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
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // only strings, numbers and decisions go in
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
