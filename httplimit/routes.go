package httplimit

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A Route says how requests that match a pattern are charged.
type Route struct {
	// Pattern is one of net/http's ServeMux, such as "POST /v1/exports/{id...}". The most
	// specific pattern that matches a request counts, in whatever order routes are given.
	Pattern string
	Charge
}

// A Charge says what a request costs. The zero Charge is charged 1 under the scope "".
type Charge struct {
	Skip  bool             // the request is neither charged nor refused
	Scope string           // the part of the API; see tierlimit.Request.Scope
	Cost  *int64           // nil: 1; 0: charged nothing, but refused to suspended and blocked subjects
	Costs map[string]int64 // by limit; see tierlimit.Request.Costs
	Hold  time.Duration    // how long the charge can be settled; 0: the middleware's default
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

// Routes finds the Charge of a request. It is immutable and safe for concurrent use.
type Routes struct {
	mux       *http.ServeMux
	charges   map[string]*compiledRoute // by normalized pattern
	preflight map[string]bool           // normalized patterns of the method OPTIONS
	list      []Route
}

// NewRoutes compiles routes. An error joins a *tierlimit.FieldError for each invalid field, named
// by the route's pattern.
func NewRoutes(list []Route) (*Routes, error) {
	rs := &Routes{mux: http.NewServeMux(), charges: make(map[string]*compiledRoute), preflight: make(map[string]bool)}
	var errs []error
	for i := range list {
		route := list[i]
		route.Costs = maps.Clone(route.Costs)
		errs = append(errs, route.check()...)
		if err := rs.add(&route); err != nil {
			errs = append(errs, err)
		}
		rs.list = append(rs.list, route)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return rs, nil
}

// registered is where net/http says that a pattern comes from: a line of this file.
var registered = regexp.MustCompile(` \(registered at [^)]*\)`)

func (rs *Routes) add(route *Route) (err error) {
	refuse := func(want string) error {
		return &tierlimit.FieldError{Field: "pattern", Value: route.Pattern, Want: want}
	}
	pattern, method, err := normalized(route.Pattern)
	if err != nil {
		return refuse(err.Error())
	}
	if rs.charges[pattern] != nil {
		return refuse("different from that of every other route")
	}
	defer func() { // ServeMux panics on a pattern that is invalid or equivalent to another
		if cause := recover(); cause != nil {
			err = refuse("a pattern of net/http's ServeMux, such as \"GET /v1/files/{id}\", and none that conflicts with another: " + registered.ReplaceAllString(strings.TrimPrefix(fmt.Sprint(cause), "http: "), ""))
		}
	}()
	rs.mux.Handle(pattern, noHandler{})
	rs.charges[pattern] = &compiledRoute{route.Charge, route.Pattern}
	rs.preflight[pattern] = method == http.MethodOptions
	return nil
}

type compiledRoute struct {
	charge  Charge
	pattern string // as it was given
}

// normalized returns a pattern with its host in lower case, as requests are compared with it, and
// the method of the pattern. A pattern that could never match is an error.
func normalized(pattern string) (text, method string, err error) {
	rest := pattern
	if at := strings.IndexAny(pattern, " \t"); at >= 0 {
		method, rest = pattern[:at], strings.TrimLeft(pattern[at:], " \t")
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return "", "", errors.New("a pattern with a path, such as \"GET /v1/files/{id}\"")
	}
	host, path := strings.ToLower(rest[:slash]), rest[slash:]
	switch {
	case method != strings.ToUpper(method):
		return "", "", errors.New("a method in capitals, as requests have it")
	case strings.Contains(path, "//") || hasDots(path):
		return "", "", errors.New("a path without // and dot segments, as it is cleaned before it is compared")
	case method == "":
		return host + path, "", nil
	}
	return method + " " + host + path, method, nil
}

type noHandler struct{}

func (noHandler) ServeHTTP(http.ResponseWriter, *http.Request) {}

func (route *Route) check() (errs []error) {
	refuse := func(field, value, want string) {
		errs = append(errs, &tierlimit.FieldError{Field: route.Pattern + ": " + field, Value: value, Want: want})
	}
	if route.Scope != "" && !tierlimit.ValidName(route.Scope) {
		refuse("scope", route.Scope, "empty, or "+tierlimit.NameRule)
	}
	if route.Cost != nil && (*route.Cost < 0 || *route.Cost > tierlimit.MaxCount) {
		refuse("cost", strconv.FormatInt(*route.Cost, 10), tierlimit.CostRule)
	}
	for _, name := range slices.Sorted(maps.Keys(route.Costs)) {
		if cost := route.Costs[name]; !tierlimit.ValidName(name) {
			refuse("costs", name, "limits: "+tierlimit.NameRule)
		} else if cost < 0 || cost > tierlimit.MaxCount {
			refuse("costs."+name, strconv.FormatInt(cost, 10), tierlimit.CostRule)
		}
	}
	if route.Hold != 0 && checkHold(route.Hold) != nil {
		refuse("hold", route.Hold.String(), "whole milliseconds from 1s to 1h")
	}
	if route.Cost != nil && *route.Cost == 0 && len(route.Costs) > 0 {
		refuse("cost", "0", "1 or more beside costs")
	}
	if route.Skip && (route.Scope != "" || route.Cost != nil || route.Costs != nil || route.Hold != 0) {
		refuse("skip", "true", "the only field of its route beside the pattern")
	}
	return errs
}

// All returns the routes as they were given.
func (rs *Routes) All() []Route {
	if rs == nil {
		return nil
	}
	return slices.Clone(rs.list)
}

// Scopes returns the scopes that the routes name, sorted.
func (rs *Routes) Scopes() []string {
	scopes := make(map[string]bool)
	for _, route := range rs.All() {
		if route.Scope != "" {
			scopes[route.Scope] = true
		}
	}
	return slices.Sorted(maps.Keys(scopes))
}

// Match returns the charge of a request and the pattern that matched it, or the zero Charge and
// "" if none did. The path is matched as net/http cleans it. If it has escaped slashes, which
// the API may read as slashes, the dearer of both readings counts. A CORS preflight (OPTIONS
// with Access-Control-Request-Method) is skipped unless a pattern with the method OPTIONS
// matches. A nil Routes matches nothing.
func (rs *Routes) Match(r *http.Request) (charge Charge, pattern string) {
	skipped := isPreflight(r)
	if rs != nil {
		var key string
		charge, pattern, key = rs.match(r, r.URL)
		if r.URL.RawPath != "" {
			decoded := *r.URL
			decoded.RawPath = ""
			if other, otherPattern, otherKey := rs.match(r, &decoded); other.dearer(&charge) {
				charge, pattern, key = other, otherPattern, otherKey
			}
		}
		skipped = skipped && !rs.preflight[key]
	}
	if skipped {
		return Charge{Skip: true}, pattern
	}
	return charge, pattern
}

func (rs *Routes) match(r *http.Request, u *url.URL) (charge Charge, pattern, key string) {
	asked := *r
	asked.URL = u
	asked.Host = strings.TrimSuffix(strings.ToLower(r.Host), ".")
	_, key = rs.mux.Handler(&asked)
	if found := rs.charges[key]; found != nil {
		return found.charge, found.pattern, key
	}
	return Charge{}, "", ""
}

// dearer reports whether a request costs more under c than under other. Not to be charged at all
// is cheapest.
func (c *Charge) dearer(other *Charge) bool {
	if c.Skip || other.Skip {
		return other.Skip && !c.Skip
	}
	return c.sum() > other.sum()
}

func (c *Charge) sum() int64 {
	sum := int64(1)
	if c.Cost != nil {
		sum = *c.Cost
	}
	for _, cost := range c.Costs {
		sum += cost
	}
	return sum
}

// CheckPath returns a *tierlimit.FieldError for a path that an API may read as another one than
// net/http does: no client has a reason to send it, and a Gate answers 400.
func (rs *Routes) CheckPath(r *http.Request) error {
	if rs == nil || !hasDots(r.URL.Path) && !strings.Contains(r.URL.Path, `\`) && !strings.Contains(r.RequestURI, "#") {
		return nil
	}
	return &tierlimit.FieldError{Field: "path", Value: r.URL.EscapedPath(), Want: `without dot segments, \ and #`}
}

// hasDots reports whether a path has segments that are . or .., with or without parameters.
func hasDots(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}
