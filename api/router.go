package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/tiers"
)

func newRouter(cfg *Config) chi.Router {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := chi.NewRouter()
	r.Use(recoverPanics(cfg.Logger))
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if r.Match(chi.NewRouteContext(), method, req.URL.EscapedPath()) {
				w.Header().Add("Allow", method)
			}
		}
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed})
	})
	return r
}

func recoverPanics(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				switch cause := recover(); cause {
				case nil:
				case http.ErrAbortHandler:
					panic(cause)
				default:
					log.Error("api: panic", "method", r.Method, "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
					problem.Write(w, problem.Problem{Status: http.StatusInternalServerError})
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
}

// owner is who the audit log says had TIERLIMIT_ADMIN_TOKEN.
const owner = "owner"

// requireToken lets through who brings one of the tokens; empty ones open
// nothing. Every refusal looks the same.
func requireToken(tokens ...string) func(http.Handler) http.Handler {
	var sums [][sha256.Size]byte
	for _, t := range tokens {
		if t != "" {
			sums = append(sums, sha256.Sum256([]byte(t)))
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			sum, known := sha256.Sum256([]byte(token)), 0
			for i := range sums {
				known |= subtle.ConstantTimeCompare(sum[:], sums[i][:])
			}
			if known != 1 || !strings.EqualFold(scheme, "Bearer") {
				w.Header().Set("Www-Authenticate", `Bearer realm="tierlimit"`)
				problem.Write(w, problem.Problem{Status: http.StatusUnauthorized, Detail: "A valid bearer token is needed."})
				return
			}
			next.ServeHTTP(w, r.WithContext(tiers.WithActor(r.Context(), owner)))
		})
	}
}
