package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit/access"
)

// An operation is one thing the API does: what serves it, and what the OpenAPI
// document says of it. Both listeners and the document are made of the same
// operations.
type operation struct {
	method, path string
	id, summary  string // as in the document
	tag          string
	rights       []access.Right // one of which is needed; none: everybody may ask
	byKey        bool           // needs a customer's API key

	query      []parameter
	body       string // the schema of the request's body, "" for none
	ifMatch    bool   // needs the ETag of what it changes
	repeatable bool   // heeds Idempotency-Key
	dryRun     bool   // accepts ?dry_run=true, and answers with an Effect
	dryRuns    bool   // accepts ?dry_run=true, and answers with its usual schema

	status             int    // of success; default 200
	lines, answerLines string // the schemas of the lines of the request and of the response, if NDJSON

	answer   string // the schema of the response, "" for no body, text for plain text
	etag     bool   // answers with an ETag
	location bool   // answers with a Location
	creates  bool   // a PUT that can create the resource
	conform  bool   // answers with the RateLimit headers
	unready  bool   // answers 503 in the same form while it drains
	fails    []int  // statuses in addition to those implied by the fields above

	serve handlerFunc
}

// A parameter is one of a query.
type parameter struct {
	name, description string
	schema            map[string]any
	many              bool // may stand several times
}

const text = "text" // an operation's answer that is no JSON

// A handlerFunc answers, or returns why it could not.
type handlerFunc func(http.ResponseWriter, *http.Request) error

// mount serves operations, each to those who may ask.
func mount(r chi.Router, log *slog.Logger, allow func(...access.Right) func(http.Handler) http.Handler, ops []operation) {
	for i := range ops {
		o := &ops[i]
		var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := o.serve(w, r); err != nil {
				fail(w, r, log, err)
			}
		})
		if len(o.rights) > 0 {
			h = allow(o.rights...)(h)
		}
		r.Method(o.method, o.path, h)
		if o.method == http.MethodGet { // net/http leaves the body out
			r.Method(http.MethodHead, o.path, h)
		}
	}
}

// failures are the statuses an operation may answer with when it does not do what
// it was asked for.
func (o *operation) failures() []int {
	all := slices.Clone(o.fails)
	if len(o.rights) > 0 || o.byKey {
		all = append(all, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable) // a token may have to be looked up
	}
	if len(o.rights) > 0 && len(o.roles()) < len(access.Roles) {
		all = append(all, http.StatusForbidden)
	}
	if o.body != "" {
		all = append(all, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge)
	}
	if o.method == http.MethodGet && strings.HasPrefix(o.path, adminRoot) || len(o.query) > 0 || o.dryRun || o.dryRuns { // a parameter that there is not
		all = append(all, http.StatusBadRequest)
	}
	if o.ifMatch {
		all = append(all, http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusPreconditionRequired)
	}
	if o.repeatable {
		all = append(all, http.StatusUnprocessableEntity)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
