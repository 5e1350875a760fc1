package api

import (
	"context"
	"net/http"

	"github.com/go-chi/chi/v5"
)

// A resource is what administrators create, read, replace and delete one by
// one: each has a name, which stands in the path, and a version, which is its
// ETag and what a writer must have seen.
type resource[T any] struct {
	param   string // the name's path parameter and JSON field
	name    func(*T) *string
	version func(*T) int64
	create  func(context.Context, T) (T, error)
	read    func(context.Context, string) (T, error)
	replace func(context.Context, T, int64) (T, error)
	remove  func(context.Context, string, int64) error
}

// mount serves the resource under path; what a collection lists is its own.
func (res *resource[T]) mount(r chi.Router, path string, h func(handlerFunc) http.HandlerFunc) {
	one := path + "/{" + res.param + "}"
	r.Post(path, h(res.post))
	r.Get(one, h(res.get))
	r.Put(one, h(res.put))
	r.Delete(one, h(res.delete))
}

func (res *resource[T]) post(w http.ResponseWriter, r *http.Request) error {
	var t T
	if err := decode(w, r, &t); err != nil {
		return err
	}
	created, err := res.create(r.Context(), t)
	return res.respond(w, http.StatusCreated, created, err)
}

func (res *resource[T]) get(w http.ResponseWriter, r *http.Request) error {
	t, err := res.read(r.Context(), pathValue(r, res.param))
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
	name := res.name(&t)
	if *name, err = samePath(r, res.param, *name); err != nil {
		return err
	}
	replaced, err := res.replace(r.Context(), t, version)
	return res.respond(w, http.StatusOK, replaced, err)
}

func (res *resource[T]) delete(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := res.remove(r.Context(), pathValue(r, res.param), version); err != nil {
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
