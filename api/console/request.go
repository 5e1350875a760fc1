package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// A request is one to the API.
type request struct {
	method, path string
	query        url.Values
	header       map[string]string
	body         any // sent as JSON; an io.Reader as it is
}

// An answer is what the API answered, a success.
type answer struct {
	header http.Header
	body   []byte
}

// A problem is what the API answers when it does not do what it was asked for (RFC 9457).
type problem struct {
	Status   int          `json:"status"`
	Title    string       `json:"title"`
	Detail   string       `json:"detail"`
	Errors   []fieldError `json:"errors"`
	InTheWay []string     `json:"in_the_way"`
}

type fieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return strconv.Itoa(p.Status) + ": " + p.Detail }

func isStatus(err error, status int) bool {
	var p *problem
	return errors.As(err, &p) && p.Status == status
}

// send asks the API in the name of whoever is signed in, in this process.
func (v *visit) send(w http.ResponseWriter, q request) error {
	body, err := q.reader()
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(v.r.Context(), q.method, q.path+"?"+q.query.Encode(), body)
	if err != nil {
		return err
	}
	r.RemoteAddr, r.Host, r.RequestURI = v.r.RemoteAddr, v.r.Host, r.URL.RequestURI()
	r.Header = v.r.Header.Clone() // which says where the client is, to throttle it by its address
	for _, name := range []string{"Cookie", "Content-Type", "Content-Length", "If-Match", "If-None-Match", "Idempotency-Key", "Range"} {
		r.Header.Del(name)
	}
	r.Header.Set("Authorization", "Bearer "+v.session.token)
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	v.console.cfg.API.ServeHTTP(w, r)
	return nil
}

func (q *request) reader() (io.Reader, error) {
	if q.body == nil {
		return http.NoBody, nil // a handler may read it
	}
	if r, ok := q.body.(io.Reader); ok {
		return r, nil
	}
	text, err := json.Marshal(q.body)
	return bytes.NewReader(text), err
}

// ask sends a request and returns what the API answered. Its error is a *problem if the API
// refused.
func (v *visit) ask(q request) (answer, error) {
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	if err := v.send(w, q); err != nil {
		return answer{}, err
	}
	if w.status >= http.StatusMultipleChoices {
		return answer{}, w.problem()
	}
	return answer{w.header, w.body.Bytes()}, nil
}

// A recorder keeps a response.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

func (w *recorder) problem() *problem {
	p := &problem{Status: w.status, Title: http.StatusText(w.status)}
	_ = json.Unmarshal(w.body.Bytes(), p) // an answer that is no problem leaves the status to tell
	if p.Detail == "" {
		p.Detail = p.Title + "."
	}
	if wait := w.header.Get("Retry-After"); wait != "" && w.status == http.StatusTooManyRequests {
		p.Detail += " Try again in " + wait + " seconds."
	}
	return p
}

// read asks for a T.
func read[T any](v *visit, path string, query url.Values) (t T, err error) {
	t, _, err = readTagged[T](v, path, query)
	return t, err
}

// readTagged asks for a T and its ETag.
func readTagged[T any](v *visit, path string, query url.Values) (t T, etag string, err error) {
	a, err := v.ask(request{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return t, "", err
	}
	if err := json.Unmarshal(a.body, &t); err != nil {
		return t, "", fmt.Errorf("read %s: %w", path, err)
	}
	return t, a.header.Get("Etag"), nil
}

// A part of a page is left out if it cannot be read; Problem says why.
type part[T any] struct {
	Value   T
	Problem string
}

// readPart reads a part of a page.
func readPart[T any](v *visit, path string, query url.Values) (p part[T]) {
	var err error
	if p.Value, err = read[T](v, path, query); err != nil {
		p.Problem = reasonOf(err)
	}
	return p
}

// reasonOf returns what people are told of an error.
func reasonOf(err error) string {
	var p *problem
	if errors.As(err, &p) {
		return p.Detail
	}
	return "This could not be read."
}

// A list is a page of the API.
type list[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

// subjectPath returns the path of a subject in the API.
func subjectPath(id string) string { return "/admin/v1/subjects/" + url.PathEscape(id) }

func tierPath(key string) string { return "/admin/v1/tiers/" + url.PathEscape(key) }
