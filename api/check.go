package api

import (
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
)

// checks serve gateways: a gateway asks about a request that it has received, and the status is
// the answer. No token is needed, because only the client of the request is charged.
type checks struct {
	gate *httplimit.Gate
	log  *slog.Logger
}

// operations are for the document alone: middleware serves them.
func (c *checks) operations() []operation {
	check := func(path, id, summary string, fails ...int) operation {
		return operation{
			method: http.MethodGet, path: path, id: id, summary: summary, tag: "Gateways",
			conform: true, fails: append(fails, http.StatusForbidden),
		}
	}
	denied := []int{http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable}
	return []operation{
		check("/v1/check", "check", "With any method: charge the request in X-Forwarded-Method and X-Forwarded-Uri, and answer 200 or the status of the denial", denied...),
		check("/v1/check/nginx", "check-nginx", "The same for auth_request, which knows 403 alone: the status is in X-Tierlimit-Status"),
		check("/v1/check/envoy/{path}", "check-envoy", "The same for Envoy: the method is this request's, and the path follows /v1/check/envoy", denied[1:]...),
	}
}

const (
	checkPath  = "/v1/check"
	checkNginx = checkPath + "/nginx"
	checkEnvoy = checkPath + "/envoy"
)

// middleware serves the checks before the router does, because the router knows only common
// methods.
func (c *checks) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch path := r.URL.EscapedPath(); {
		case path == checkPath:
			err = c.forwarded(w, r)
		case path == checkNginx:
			// Any status but 2xx, 401 and 403 is an error for auth_request.
			w = &nginxWriter{w}
			err = c.forwarded(w, r)
		case path == checkEnvoy || strings.HasPrefix(path, checkEnvoy+"/"):
			// Headers about the path are the client's: Envoy does not set them.
			uri := strings.TrimPrefix(r.URL.RequestURI(), checkEnvoy)
			if !strings.HasPrefix(uri, "/") {
				uri = "/" + uri
			}
			err = c.check(w, r, r.Method, uri, "path")
		default:
			next.ServeHTTP(w, r)
		}
		if err != nil {
			fail(w, r, c.log, err)
		}
	})
}

// forwarded serves gateways that describe the request in X-Forwarded-Method and X-Forwarded-Uri,
// as Caddy and Traefik do. The gateway must set both, or a client could.
func (c *checks) forwarded(w http.ResponseWriter, r *http.Request) error {
	method, uri := r.Header.Get("X-Forwarded-Method"), r.Header.Get("X-Forwarded-Uri")
	if method == "" {
		method = r.Method
	}
	if uri == "" {
		uri = "/"
	}
	return c.check(w, r, method, uri, "X-Forwarded-Uri")
}

// statusHeader has the status that nginx should answer with.
const statusHeader = "X-Tierlimit-Status"

type nginxWriter struct{ http.ResponseWriter }

func (w *nginxWriter) WriteHeader(status int) {
	if status >= http.StatusMultipleChoices {
		w.Header().Set(statusHeader, strconv.Itoa(status))
		status = http.StatusForbidden
	}
	w.ResponseWriter.WriteHeader(status)
}

// check answers about a request like r of another method and URI. field names the source of the
// URI.
func (c *checks) check(w http.ResponseWriter, r *http.Request, method, uri, field string) error {
	target, err := url.ParseRequestURI(uri)
	if err != nil {
		return &tierlimit.FieldError{Field: field, Value: uri, Want: "the path and query of a request"}
	}
	asked := r.WithContext(r.Context()) // a shallow copy
	asked.Method, asked.URL, asked.RequestURI, asked.Body = method, target, uri, http.NoBody
	if host := r.Header.Get("X-Forwarded-Host"); host != "" && field != "path" {
		asked.Host = host
	}
	c.gate.Check(w, asked, http.StatusOK)
	return nil
}
