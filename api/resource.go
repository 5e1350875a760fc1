package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// A resource is what administrators create, read, replace, patch and delete one
// by one: each has a name, which stands in the path, and a version, which is its
// ETag and what a writer must have seen. What it belongs to is in the request's
// path too.
type resource[T any] struct {
	param   string // the name's path parameter and JSON field
	name    func(*T) *string
	version func(*T) int64
	create  func(*http.Request, T) (T, error)
	read    func(r *http.Request, name string) (T, error)
	replace func(r *http.Request, t T, version int64) (T, error)
	remove  func(r *http.Request, name string, version int64) error
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

// mount serves the resource under path; what a collection lists is its own.
func (res *resource[T]) mount(r chi.Router, path string, h func(handlerFunc) http.HandlerFunc) {
	one := path + "/{" + res.param + "}"
	r.Post(path, h(res.post))
	r.Get(one, h(res.get))
	r.Put(one, h(res.put))
	r.Patch(one, h(res.patch))
	r.Delete(one, h(res.delete))
}

func (res *resource[T]) post(w http.ResponseWriter, r *http.Request) error {
	var t T
	if err := decode(w, r, &t); err != nil {
		return err
	}
	created, err := res.create(r, t)
	return res.respond(w, http.StatusCreated, created, err)
}

func (res *resource[T]) get(w http.ResponseWriter, r *http.Request) error {
	t, err := res.read(r, pathValue(r, res.param))
	return res.respond(w, http.StatusOK, t, err)
}

func (res *resource[T]) put(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	var t T
	if err := decode(w, r, &t); err != nil {
		return err
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
	old, err := res.read(r, pathValue(r, res.param))
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
		return err
	}
	return res.replaceBy(w, r, t, version)
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
	for _, field := range fieldsOf(decodeJSON(data, &probe)) {
		if strings.HasPrefix(field.Want, tiers.NoSuchField) {
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

func (res *resource[T]) replaceBy(w http.ResponseWriter, r *http.Request, t T, version int64) (err error) {
	name := res.name(&t)
	if *name, err = samePath(r, res.param, *name); err != nil {
		return err
	}
	replaced, err := res.replace(r, t, version)
	return res.respond(w, http.StatusOK, replaced, err)
}

func (res *resource[T]) delete(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := res.remove(r, pathValue(r, res.param), version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (res *resource[T]) respond(w http.ResponseWriter, status int, t T, err error) error {
	if err == nil {
		respondVersion(w, status, res.version(&t), t)
	}
	return err
}
