package httplimit

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
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
	charges   map[string]*Charge // by pattern
	preflight map[string]bool    // patterns of the method OPTIONS
	list      []Route
}

// NewRoutes compiles routes. An error joins a *tierlimit.FieldError for each invalid field, named
// by the route's pattern.
func NewRoutes(list []Route) (*Routes, error) {
	rs := &Routes{mux: http.NewServeMux(), charges: make(map[string]*Charge), preflight: make(map[string]bool)}
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

func (rs *Routes) add(route *Route) (err error) {
	if rs.charges[route.Pattern] != nil {
		return &tierlimit.FieldError{Field: "pattern", Value: route.Pattern, Want: "different from that of every other route"}
	}
	defer func() { // ServeMux panics on a pattern that is invalid or equivalent to another
		if cause := recover(); cause != nil {
			want := strings.TrimPrefix(fmt.Sprint(cause), "http: ")
			err = &tierlimit.FieldError{Field: "pattern", Value: route.Pattern, Want: "a pattern of net/http's ServeMux, such as \"GET /v1/files/{id}\", and none that conflicts with another: " + want}
		}
	}()
	rs.mux.Handle(route.Pattern, noHandler{})
	rs.charges[route.Pattern] = &route.Charge
	rs.preflight[route.Pattern] = strings.HasPrefix(route.Pattern, http.MethodOptions+" ")
	return nil
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
	if route.Skip && (route.Scope != "" || route.Cost != nil || len(route.Costs) > 0 || route.Hold != 0) {
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
// "" if none did. The path is matched as net/http cleans it. A CORS preflight (OPTIONS with
// Access-Control-Request-Method) is skipped unless a pattern with the method OPTIONS matches.
// A nil Routes matches nothing.
func (rs *Routes) Match(r *http.Request) (charge Charge, pattern string) {
	if rs != nil {
		_, pattern = rs.mux.Handler(r)
		if found := rs.charges[pattern]; found != nil {
			charge = *found
		} else {
			pattern = ""
		}
	}
	if isPreflight(r) && (rs == nil || !rs.preflight[pattern]) {
		return Charge{Skip: true}, pattern
	}
	return charge, pattern
}
