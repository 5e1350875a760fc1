package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/tiers"
)

// A guard knows who brings which token: those of the configuration, and those of
// the keyring.
type guard struct {
	configured map[access.Role][sha256.Size]byte // hashes
	keyring    tiers.Keyring
	throttle   *throttle
	log        *slog.Logger
}

func newGuard(cfg *Config) *guard {
	g := &guard{configured: make(map[access.Role][sha256.Size]byte), keyring: cfg.Keyring, throttle: newThrottle(cfg.TrustedProxies), log: cfg.Logger}
	for role, token := range map[access.Role]string{access.Owner: cfg.AdminToken, access.Service: cfg.ServiceToken} {
		if token != "" {
			g.configured[role] = sha256.Sum256([]byte(token))
		}
	}
	return g
}

var errForbidden = errors.New("this needs another role")

// allow lets through whose role has one of the rights. Whatever is wrong with a
// token is answered alike.
func (g *guard) allow(rights ...access.Right) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			role, actor, err := g.who(r)
			var wait *waitError
			switch {
			case errors.As(err, &wait):
				w.Header().Set("Retry-After", strconv.FormatInt(int64((wait.wait+time.Second-1)/time.Second), 10))
				problem.Write(w, problem.Problem{
					Type: problem.AbnormalUsage, Status: http.StatusTooManyRequests, Detail: "Too many tokens that are not valid came from this address.",
				})
			case errors.Is(err, tiers.ErrNotFound):
				w.Header().Set("Www-Authenticate", `Bearer realm="tierlimit"`)
				problem.Write(w, problem.Problem{Status: http.StatusUnauthorized, Detail: "A valid bearer token is needed."})
			case err != nil:
				fail(w, r, g.log, err)
			case !role.May(rights...):
				fail(w, r, g.log, fmt.Errorf("%w: the role %s may not %s", errForbidden, role, rights[len(rights)-1]))
			default:
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, actor)))
			}
		})
	}
}

type actorKey struct{}

// actorOf returns who asks.
func actorOf(r *http.Request) tiers.Actor {
	actor, _ := r.Context().Value(actorKey{}).(tiers.Actor)
	return actor
}

// A waitError says that no token of this client is looked at for a while.
type waitError struct{ wait time.Duration }

func (e *waitError) Error() string { return "not looked at for " + e.wait.String() }

// who returns the role of whoever asks, and who that is: the role for the configuration's
// tokens, and name and id of others.
func (g *guard) who(r *http.Request) (role access.Role, actor tiers.Actor, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", actor, tiers.ErrNotFound
	}
	brought := g.throttle.guess(r, token)
	if wait := brought.refused(); wait > 0 {
		return "", actor, &waitError{wait}
	}
	switch role, actor, err = g.owner(r, token); {
	case err == nil:
		brought.succeeded()
	case errors.Is(err, tiers.ErrNotFound):
		brought.failed()
	default:
		brought.undecided()
	}
	return role, actor, err
}

// owner is who of whoever brings a token.
func (g *guard) owner(r *http.Request, token string) (role access.Role, actor tiers.Actor, err error) {
	sum := sha256.Sum256([]byte(token))
	for _, known := range access.Roles { // of one token with two roles, the greater
		if configured, ok := g.configured[known]; ok && subtle.ConstantTimeCompare(sum[:], configured[:]) == 1 {
			role = known
		}
	}
	if role != "" || g.keyring == nil {
		if role == "" {
			err = tiers.ErrNotFound
		}
		return role, tiers.Actor{ID: string(role), Name: string(role)}, err
	}
	c, err := g.keyring.Authenticate(r.Context(), token)
	if err != nil {
		return "", actor, err
	}
	if c.Kind != access.Token { // a customer's key opens nothing here
		return "", actor, tiers.ErrNotFound
	}
	return c.Role, tiers.Actor{ID: c.ID, Name: c.Actor()}, nil
}
