package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// A resource is what administrators create, read, replace, patch and delete one
// by one: each has a name, which stands in the path, and a version, which is its
// ETag and what a writer must have seen. What it belongs to is in the request's
// path too. A function that is nil is an operation that there is not.
type resource[T any] struct {
	admin *admin

	noun, schema, tag string // of the document
	param             string // the name's path parameter and JSON field; "" if there is one only
	name              func(*T) *string
	version           func(*T) int64
	prepare           func(*T)     // sets what the path says beside the name; may be nil
	change            access.Right // that changes need

	create  func(*http.Request, T) (T, error)
	read    func(r *http.Request, name string) (T, error)
	replace func(r *http.Request, t T, version int64) (T, error)
	remove  func(r *http.Request, name string, version int64) error

	creating, changing, removing []int // statuses beside the usual
}

// Those of a catalogue's functions that need nothing but the context.

func creates[T any](f func(context.Context, T) (T, error)) func(*http.Request, T) (T, error) {
	return func(r *http.Request, t T) (T, error) { return f(r.Context(), t) }
}

func reads[T any](f func(context.Context, string) (T, error)) func(*http.Request, string) (T, error) {
	return func(r *http.Request, name string) (T, error) { return f(r.Context(), name) }
}

func replaces[T any](f func(context.Context, T, int64) (T, error)) func(*http.Request, T, int64) (T, error) {
	return func(r *http.Request, t T, version int64) (T, error) { return f(r.Context(), t, version) }
}

func removes(f func(context.Context, string, int64) error) func(*http.Request, string, int64) error {
	return func(r *http.Request, name string, version int64) error { return f(r.Context(), name, version) }
}

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
	if res.create != nil {
		ops = append(ops, operation{
			method: http.MethodPost, path: path, id: "create-" + id, summary: "Create " + article(noun), tag: res.tag,
			rights: []access.Right{res.change}, body: res.schema, status: http.StatusCreated, answer: res.schema, etag: true,
			dryRun: true, repeatable: true, fails: slices.Concat([]int{down}, res.creating), serve: res.post,
		})
	}
	ops = append(ops, operation{
		method: http.MethodGet, path: one, id: "read-" + id, summary: "Read " + article(noun), tag: res.tag,
		rights: []access.Right{access.Read}, answer: res.schema, etag: true, fails: usual, serve: res.get,
	}, operation{
		method: http.MethodPut, path: one, id: "replace-" + id, summary: "Replace " + article(noun), tag: res.tag,
		rights: []access.Right{res.change}, body: res.schema, answer: res.schema, etag: true, ifMatch: true, dryRun: true,
		fails: slices.Concat(usual, res.changing), serve: res.put,
	}, operation{
		method: http.MethodPatch, path: one, id: "patch-" + id, summary: "Change some fields of " + article(noun), tag: res.tag,
		rights: []access.Right{res.change}, body: mergePatch, answer: res.schema, etag: true, ifMatch: true, dryRun: true,
		fails: slices.Concat(usual, res.changing), serve: res.patch,
	})
	if res.remove != nil {
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

func (res *resource[T]) post(w http.ResponseWriter, r *http.Request) error {
	return res.admin.once(w, r, func(r *http.Request) error {
		var t T
		if err := decode(w, r, &t); err != nil {
			return res.also(r, err, &t)
		}
		return res.try(w, r, http.StatusCreated, func(r *http.Request) (T, error) { return res.create(r, t) })
	})
}

// also adds what else is wrong with what could not be read whole.
func (res *resource[T]) also(r *http.Request, err error, t *T) error {
	v, ok := any(t).(strictjson.Valid)
	if !ok {
		return err
	}
	if name := res.nameIn(r); name != "" && res.name != nil {
		*res.name(t) = name
	}
	if res.prepare != nil {
		res.prepare(t)
	}
	return strictjson.Also(err, v)
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

func (res *resource[T]) put(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	var t T
	if err := decode(w, r, &t); err != nil {
		return res.also(r, err, &t)
	}
	return res.replaceBy(w, r, t, version)
}

// patch merges a JSON merge patch (RFC 7396) into what is there: null deletes,
// and all that is not an object replaces whole.
func (res *resource[T]) patch(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	patch, err := decodePatch[T](w, r)
	if err != nil {
		return err
	}
	old, err := res.read(r, res.nameIn(r))
	if err != nil {
		return err
	}
	text, err := json.Marshal(old)
	if err != nil {
		return err
	}
	var target any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&target); err != nil {
		return err
	}
	if text, err = json.Marshal(merge(target, patch)); err != nil {
		return err
	}
	var t T
	if err := decodeJSON(text, &t); err != nil {
		return res.also(r, err, &t)
	}
	return res.replaceBy(w, r, t, version)
}

func (res *resource[T]) replaceBy(w http.ResponseWriter, r *http.Request, t T, version int64) (err error) {
	if res.name != nil {
		name := res.name(&t)
		if *name, err = samePath(r, res.param, *name); err != nil {
			return err
		}
	}
	return res.try(w, r, http.StatusOK, func(r *http.Request) (T, error) { return res.replace(r, t, version) })
}

func (res *resource[T]) delete(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	return res.try(w, r, http.StatusNoContent, func(r *http.Request) (t T, err error) {
		return t, res.remove(r, res.nameIn(r), version)
	})
}

func (res *resource[T]) nameIn(r *http.Request) string {
	if res.param == "" {
		return ""
	}
	return pathValue(r, res.param)
}

// try makes a change, or answers what it would do where that is what was asked.
func (res *resource[T]) try(w http.ResponseWriter, r *http.Request, status int, change func(*http.Request) (T, error)) error {
	dry, err := dryRun(r)
	if err != nil {
		return err
	}
	var e tiers.Event
	tried := r
	if dry {
		tried = r.WithContext(tiers.WithDryRun(r.Context(), &e))
	}
	t, err := change(tried)
	switch {
	case err != nil:
		return err
	case dry:
		return res.admin.tried(w, r, &e)
	case status == http.StatusNoContent:
		w.WriteHeader(status)
	default:
		respondVersion(w, status, res.version(&t), t)
	}
	return nil
}

// merge is MergePatch of RFC 7396.
func merge(target any, patch map[string]any) map[string]any {
	merged, ok := target.(map[string]any)
	if !ok {
		merged = make(map[string]any)
	}
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(merged, name)
		case map[string]any:
			merged[name] = merge(merged[name], value)
		default:
			merged[name] = value
		}
	}
	return merged
}

// decodePatch reads a merge patch of a T. A field that a T does not have is refused
// even where the patch takes it away: it is a slip of somebody who means another.
func decodePatch[T any](w http.ResponseWriter, r *http.Request) (map[string]any, error) {
	data, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	var probe T // what else is wrong with it is looked at once it is merged
	for _, field := range strictjson.Fields(decodeJSON(data, &probe)) {
		if strings.HasPrefix(field.Want, strictjson.NoSuchField) {
			return nil, field
		}
	}
	var patch map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&patch); err != nil {
		return nil, decodeError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, bodyError("one JSON value and nothing behind it")
	}
	if patch == nil {
		return nil, bodyError("a JSON object")
	}
	return patch, nil
}
