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
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/tiers"
)

// Tokens are those of the configuration, which need no database. They may be set while they
// are used: to rotate a token, the old one and the new one are valid for a while.
type Tokens struct {
	known atomic.Pointer[[]configured]
}

type configured struct {
	hash [sha256.Size]byte
	role access.Role
}

// NewTokens returns the tokens of owners, and those of services.
func NewTokens(owners, services []string) *Tokens {
	t := new(Tokens)
	t.Set(owners, services)
	return t
}

// Set puts tokens in place of those there were.
func (t *Tokens) Set(owners, services []string) {
	var list []configured
	for role, tokens := range map[access.Role][]string{access.Owner: owners, access.Service: services} {
		for _, token := range tokens {
			if token != "" {
				list = append(list, configured{sha256.Sum256([]byte(token)), role})
			}
		}
	}
	t.known.Store(&list)
}

// role returns what a token opens, "" if it is none of t. It takes as long whatever the token
// is.
func (t *Tokens) role(token string) (role access.Role) {
	sum := sha256.Sum256([]byte(token))
	for _, one := range *t.known.Load() {
		if subtle.ConstantTimeCompare(sum[:], one.hash[:]) == 1 && role != access.Owner {
			role = one.role
		}
	}
	return role
}

// A guard knows who brings which token: those of the configuration, and those of the keyring.
type guard struct {
	configured *Tokens
	keyring    tiers.Keyring
	throttle   *throttle
	lookups    singleflight.Group // by token: many requests may bring one that is not held
	log        *slog.Logger
}

func newGuard(cfg *Config) *guard {
	g := &guard{configured: cfg.Tokens, keyring: cfg.Keyring, throttle: newThrottle(cfg.TrustedProxies), log: cfg.Logger}
	if g.configured == nil {
		g.configured = NewTokens([]string{cfg.AdminToken}, []string{cfg.ServiceToken})
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
// tokens, and name and id of others. What can be compared in memory is compared first, and is
// never refused because somebody else has guessed.
func (g *guard) who(r *http.Request) (role access.Role, actor tiers.Actor, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", actor, tiers.ErrNotFound
	}
	if role := g.configured.role(token); role != "" {
		return role, tiers.Actor{ID: string(role), Name: string(role)}, nil
	}
	c, err := g.credential(r, token)
	if err != nil {
		return "", actor, err
	}
	return c.Role, tiers.Actor{ID: c.ID, Name: c.Actor()}, nil
}

// credential returns the keyring's token that was brought.
func (g *guard) credential(r *http.Request, token string) (c access.Credential, err error) {
	err = tiers.ErrNotFound
	if g.keyring != nil {
		c, err = g.keyring.Held(token)
	}
	if errors.Is(err, tiers.ErrUnavailable) {
		c, err = g.lookUp(r, token)
	} else if err != nil {
		if _, wait := g.throttle.count(r); wait != nil {
			err = wait
		}
	}
	if err == nil && c.Kind != access.Token { // a customer's key opens nothing here
		err = tiers.ErrNotFound
	}
	return c, err
}

// lookUp asks the keyring for a token that is not in memory, once for all who bring it.
func (g *guard) lookUp(r *http.Request, token string) (access.Credential, error) {
	found, err, _ := g.lookups.Do(token, func() (any, error) {
		takeBack, err := g.throttle.count(r)
		if err != nil {
			return access.Credential{}, err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), tokenWait)
		defer cancel()
		c, err := g.keyring.Authenticate(ctx, token)
		if !errors.Is(err, tiers.ErrNotFound) {
			takeBack() // it is right, or not known to be wrong
		}
		return c, err
	})
	c, _ := found.(access.Credential)
	return c, err
}

// tokenWait is how long a token is looked up.
const tokenWait = time.Second
