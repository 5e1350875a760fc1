package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// A resource serves the requests that create, read, replace, patch and delete one kind of
// thing. Each thing has a name, which is in the path, and a version, which is its ETag and
// the precondition of a write. A resource turns requests into commands; the catalogue's
// rules decide whether a command is allowed.
type resource[T any] struct {
	admin *admin

	noun, schema, tag string // of the document
	param             string // the name's path parameter and JSON field; "" if there is one only
	name              func(*T) *string
	version           func(*T) int64
	change            access.Right // that changes need

	ref  func(r *http.Request, name string) tiers.Ref
	read func(r *http.Request, name string) (T, error)

	prepare func(*T)       // fills in fields from the path before validation; may be nil
	create  func(*T) error // fills in fields of a new T; may be nil
	shown   func(put, made T) T

	single  bool // the thing always exists: it is neither created nor deleted
	made    bool // the server generates the name, so PUT cannot create
	upserts bool // accepts ?upsert=true

	creating, changing, removing []int // additional error statuses
}

// upsert is the query parameter of a PUT that may create the resource.
var upsert = []parameter{{name: "upsert", description: "create it, or replace it whatever it is, without a precondition", schema: oneOf("true", "false")}}

// operations are the resource's under path; what a collection lists is its own.
func (res *resource[T]) operations(path string) []operation {
	one, missing := path, []int(nil)
	if res.param != "" {
		one, missing = path+"/{"+res.param+"}", []int{http.StatusNotFound}
	}
	noun, id := res.noun, strings.ToLower(strings.ReplaceAll(res.noun, " ", "-"))
	down := http.StatusServiceUnavailable
	usual := append([]int{down}, missing...)
	var ops []operation
	if !res.single {
		ops = append(ops, operation{
			method: http.MethodPost, path: path, id: "create-" + id, summary: "Create " + article(noun), tag: res.tag,
			rights: []access.Right{res.change}, body: res.schema, status: http.StatusCreated, answer: res.schema, etag: true, location: true,
			dryRun: true, repeatable: true, fails: slices.Concat([]int{down}, res.creating), serve: res.post,
		})
	}
	put := operation{
		method: http.MethodPut, path: one, id: "replace-" + id, summary: "Replace " + article(noun), tag: res.tag,
		rights: []access.Right{res.change}, body: res.schema, answer: res.schema, etag: true, ifMatch: true, dryRun: true,
		fails: slices.Concat(usual, res.changing), serve: res.put,
	}
	put.creates = !res.single && !res.made
	if res.upserts {
		put.query = upsert
	}
	ops = append(ops, operation{
		method: http.MethodGet, path: one, id: "read-" + id, summary: "Read " + article(noun), tag: res.tag,
		rights: []access.Right{access.Read}, answer: res.schema, etag: true, fails: usual, serve: res.get,
	}, put, operation{
		method: http.MethodPatch, path: one, id: "patch-" + id, summary: "Change some fields of " + article(noun), tag: res.tag,
		rights: []access.Right{res.change}, body: mergePatch, answer: res.schema, etag: true, ifMatch: true, dryRun: true,
		fails: slices.Concat(usual, res.changing), serve: res.patch,
	})
	if !res.single {
		ops = append(ops, operation{
			method: http.MethodDelete, path: one, id: "delete-" + id, summary: "Delete " + article(noun), tag: res.tag,
			rights: []access.Right{res.change}, status: http.StatusNoContent, ifMatch: true, dryRun: true,
			fails: slices.Concat(usual, res.removing), serve: res.delete,
		})
	}
	return ops
}

func article(noun string) string {
	if strings.ContainsRune("aeiouA", rune(noun[0])) {
		return "an " + noun
	}
	if noun == "load control" {
		return "the " + noun
	}
	return "a " + noun
}

func (res *resource[T]) get(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	t, err := res.read(r, res.nameIn(r))
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusOK, res.version(&t), t)
	return nil
}

func (res *resource[T]) post(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	attempt, err := attempt(r, body)
	if err != nil {
		return err
	}
	return res.admin.once(w, r, attempt, func() error {
		t, err := res.decode(r, body)
		if err != nil {
			return err
		}
		if res.create != nil {
			if err := res.create(&t); err != nil {
				return err
			}
		}
		return res.do(w, r, http.StatusCreated, attempt, tiers.Operation{Ref: res.ref(r, *res.name(&t)), Put: t})
	})
}

func (res *resource[T]) put(w http.ResponseWriter, r *http.Request) error {
	expect, err := res.expect(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	t, err := res.decode(r, body)
	if err != nil {
		return err
	}
	if res.name != nil {
		name := res.name(&t)
		if *name, err = samePath(r, res.param, *name); err != nil {
			return err
		}
	}
	return res.do(w, r, http.StatusOK, tiers.Attempt{}, tiers.Operation{Ref: res.ref(r, res.nameIn(r)), Expect: expect, Put: t})
}

// patch applies a JSON merge patch (RFC 7396): null deletes a field, except a max, which
// becomes unlimited; a value that is not an object replaces the field.
func (res *resource[T]) patch(w http.ResponseWriter, r *http.Request) error {
	expect, err := ifMatch(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := checkPatch[T](body); err != nil {
		return err
	}
	return res.do(w, r, http.StatusOK, tiers.Attempt{}, tiers.Operation{Ref: res.ref(r, res.nameIn(r)), Expect: expect, Patch: body})
}

func (res *resource[T]) delete(w http.ResponseWriter, r *http.Request) error {
	expect, err := ifMatch(r)
	if err != nil {
		return err
	}
	return res.do(w, r, http.StatusNoContent, tiers.Attempt{}, tiers.Operation{Ref: res.ref(r, res.nameIn(r)), Expect: expect})
}

// decode reads a T. Its error lists all invalid fields.
func (res *resource[T]) decode(r *http.Request, body []byte) (t T, err error) {
	err = decodeJSON(body, &t)
	if name := res.nameIn(r); err != nil && name != "" && res.name != nil {
		*res.name(&t) = name
	}
	if res.prepare != nil {
		res.prepare(&t)
	}
	if v, ok := any(&t).(strictjson.Valid); ok && err != nil {
		err = strictjson.Also(err, v)
	}
	return t, err
}

// expect returns the precondition of a PUT.
func (res *resource[T]) expect(r *http.Request) (tiers.Expect, error) {
	q, err := query(r, "dry_run", "upsert")
	if err != nil {
		return tiers.Expect{}, err
	}
	if v := q.Get("upsert"); v != "" && !res.upserts {
		return tiers.Expect{}, &tierlimit.FieldError{Field: "upsert", Value: v, Want: "left out: only a subject is created or replaced so"}
	}
	upsert, err := flag(q, "upsert")
	if err != nil {
		return tiers.Expect{}, err
	}
	if upsert && r.Header.Get("If-Match") == "" && r.Header.Get("If-None-Match") == "" {
		return tiers.Anything, nil
	}
	expect, err := ifMatch(r)
	if err == nil && res.made && r.Header.Get("If-None-Match") != "" {
		err = &tierlimit.FieldError{Field: "If-None-Match", Value: "*", Want: "left out: ids are made here, by POST"}
	}
	return expect, err
}

func (res *resource[T]) nameIn(r *http.Request) string {
	if res.param == "" {
		return ""
	}
	return pathValue(r, res.param)
}

// do makes a change and writes the response. In a dry run it writes what would change.
func (res *resource[T]) do(w http.ResponseWriter, r *http.Request, status int, attempt tiers.Attempt, change tiers.Operation) error {
	dry, err := dryRun(r, res.upserts)
	if err != nil {
		return err
	}
	c := tiers.Command{Actor: actorOf(r), Attempt: attempt, DryRun: dry, Operations: []tiers.Operation{change}}
	result, err := res.admin.do(r.Context(), c)
	if errors.Is(err, tiers.ErrExists) && r.Header.Get("If-None-Match") != "" {
		return fmt.Errorf("%w: %w", errThere, err)
	}
	if err != nil {
		return err
	}
	if dry {
		return res.admin.tried(w, r, &c, &result)
	}
	made, _ := result.Made(0)
	t, there := made.After.(T)
	if !there {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if res.shown != nil && made.Before == nil {
		put, _ := change.Put.(T)
		t = res.shown(put, t)
	}
	if made.Before == nil {
		status = http.StatusCreated
	}
	if status == http.StatusCreated {
		w.Header().Set("Location", res.location(r, &t))
	}
	respondVersion(w, status, res.version(&t), t)
	return nil
}

// location returns the path of a new resource.
func (res *resource[T]) location(r *http.Request, t *T) string {
	if r.Method == http.MethodPut {
		return r.URL.EscapedPath()
	}
	return r.URL.EscapedPath() + "/" + url.PathEscape(*res.name(t))
}

// checkPatch returns an error if a patch is not an object, or names a field that T does not
// have. Even null for an unknown field is an error: the name is probably misspelled.
func checkPatch[T any](body []byte) error {
	if err := checkNames(body); err != nil {
		return err
	}
	var probe T // what else is wrong with it is looked at once it is merged
	for _, field := range strictjson.Fields(decodeJSON(body, &probe)) {
		if strings.HasPrefix(field.Want, strictjson.NoSuchField) {
			return field
		}
	}
	var patch map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&patch); err != nil {
		return decodeError(strictjson.Explain(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bodyError("one JSON value and nothing behind it")
	}
	if patch == nil {
		return bodyError("a JSON object")
	}
	return nil
}
