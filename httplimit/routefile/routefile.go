// Package routefile reads the routes of an API from a YAML file:
//
//	routes:
//	  - {pattern: "GET /healthz", skip: true}
//	  - {pattern: "POST /v1/exports/{id...}", scope: exports, cost: 10}
//	  - {pattern: "POST /v1/chat/", scope: chat, costs: {tokens: 500}, hold: 60s}
package routefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/strictyaml"
)

type file struct {
	Routes []json.RawMessage `json:"routes"`
}

type route struct {
	Pattern string            `json:"pattern"`
	Skip    bool              `json:"skip"`
	Scope   string            `json:"scope"`
	Cost    *int64            `json:"cost"`
	Costs   map[string]*int64 `json:"costs"`
	Hold    string            `json:"hold"`
}

// Load reads a file of at most 1 MiB.
func Load(name string) (*httplimit.Routes, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
	if err != nil {
		return nil, err
	}
	routes, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return routes, nil
}

// Parse compiles the routes of a YAML document. An error joins a *tierlimit.FieldError for each
// invalid field, and names the route: its pattern, or its number if it has none.
func Parse(text []byte) (*httplimit.Routes, error) {
	converted, err := strictyaml.ToJSON(text)
	if err != nil {
		return nil, err
	}
	var f file
	if bytes.HasPrefix(bytes.TrimSpace(converted), []byte("[")) {
		return nil, &tierlimit.FieldError{Field: "routes", Want: "the name of the list: a file begins with routes:"}
	}
	if converted != nil {
		if err := errors.Join(exact(converted, "routes"), strictjson.Strict(converted, &f)); err != nil {
			return nil, err
		}
	}
	if len(f.Routes) == 0 {
		return nil, &tierlimit.FieldError{Field: "routes", Want: "given: a list of routes"}
	}
	var list []httplimit.Route
	var errs []error
	for i, raw := range f.Routes {
		var j route
		err := errors.Join(exact(raw, "pattern", "skip", "scope", "cost", "costs", "hold"), strictjson.Strict(raw, &j))
		for name, cost := range j.Costs {
			if cost == nil {
				err = errors.Join(err, &tierlimit.FieldError{Field: "costs." + name, Want: tierlimit.CostRule})
			}
		}
		where := j.Pattern
		if where == "" {
			where = fmt.Sprintf("route %d", i+1)
			err = errors.Join(err, &tierlimit.FieldError{Field: "pattern", Want: "given, such as \"POST /v1/exports/{id}\""})
		}
		var hold time.Duration
		if j.Hold != "" {
			var bad error
			if hold, bad = time.ParseDuration(j.Hold); bad != nil || hold == 0 {
				err = errors.Join(err, &tierlimit.FieldError{Field: "hold", Value: j.Hold, Want: "a duration from 1s to 1h, such as 60s"})
			}
		}
		for _, one := range strictjson.Fields(err) {
			one = asWritten(one, raw)
			errs = append(errs, &tierlimit.FieldError{Field: where + ": " + one.Field, Value: one.Value, Want: one.Want})
		}
		if err != nil && len(strictjson.Fields(err)) == 0 {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
		if j.Pattern != "" {
			list = append(list, httplimit.Route{Pattern: j.Pattern, Charge: httplimit.Charge{Skip: j.Skip, Scope: j.Scope, Cost: j.Cost, Costs: valuesOf(j.Costs), Hold: hold}})
		}
	}
	routes, err := httplimit.NewRoutes(list)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return routes, nil
}

// wanted describes the fields of a route.
var wanted = map[string]string{
	"pattern": "text, such as \"POST /v1/exports/{id}\"", "skip": "true or false", "scope": "text", "cost": tierlimit.CostRule,
	"costs": "costs by limit, such as {tokens: 500}", "hold": "a duration from 1s to 1h, such as 60s",
}

// asWritten returns an error about a field of a route with the value as it was written, where a
// decoder knows only its type.
func asWritten(wrong *tierlimit.FieldError, route json.RawMessage) *tierlimit.FieldError {
	var fields map[string]json.RawMessage
	if json.Unmarshal(route, &fields) != nil || wanted[wrong.Field] == "" || fields[wrong.Field] == nil || wrong.Want == strictjson.NoSuchField {
		return wrong
	}
	return &tierlimit.FieldError{Field: wrong.Field, Value: string(fields[wrong.Field]), Want: wanted[wrong.Field]}
}

func valuesOf(costs map[string]*int64) map[string]int64 {
	if costs == nil {
		return nil
	}
	values := make(map[string]int64, len(costs))
	for name, cost := range costs {
		if cost != nil {
			values[name] = *cost
		}
	}
	return values
}

// exact returns an error for each field of an object that is not spelled as one of known:
// encoding/json would take Cost for cost.
func exact(object []byte, known ...string) error {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(object, &fields) // whoever decodes it tells of an error
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		same := func(one string) bool { return one != name && strings.EqualFold(one, name) }
		if slices.ContainsFunc(known, same) {
			errs = append(errs, &tierlimit.FieldError{Field: name, Want: strictjson.NoSuchField})
		}
	}
	return errors.Join(errs...)
}
