package api

import (
	"bytes"
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

// Tokens holds the tokens of the configuration, which work without a database. During a
// rotation both the old and the new token are valid. Tokens is safe for concurrent use.
type Tokens struct {
	known atomic.Pointer[[]configured]
}

type configured struct {
	hash [sha256.Size]byte
	role access.Role
}

// OwnerHashes returns the SHA-256 of each owner token of the configuration, in their order. All
// replicas with the same configuration have the same.
func (t *Tokens) OwnerHashes() (list [][]byte) {
	for _, one := range *t.known.Load() {
		if one.role == access.Owner {
			list = append(list, bytes.Clone(one.hash[:]))
		}
	}
	return list
}

// NewTokens returns Tokens with the given tokens for the roles owner and service.
func NewTokens(owners, services []string) *Tokens {
	t := new(Tokens)
	t.Set(owners, services)
	return t
}

// Set replaces all tokens.
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

// role returns the role of token, or "" if t does not contain it. It runs in constant time.
func (t *Tokens) role(token string) (role access.Role) {
	sum := sha256.Sum256([]byte(token))
	for _, one := range *t.known.Load() {
		if subtle.ConstantTimeCompare(sum[:], one.hash[:]) == 1 && role != access.Owner {
			role = one.role
		}
	}
	return role
}

// A guard authenticates requests by the tokens of the configuration and of the keyring.
type guard struct {
	configured *Tokens
	keyring    tiers.Keyring
	throttle   *throttle
	lookups    singleflight.Group // by token: concurrent requests with one token share a look-up
	log        *slog.Logger
}

func newGuard(cfg *Config) *guard {
	g := &guard{configured: cfg.Tokens, keyring: cfg.Keyring, throttle: newThrottle(cfg.Who.Address), log: cfg.Logger}
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
			switch {
			case err != nil:
				g.refuse(w, r, err, "A valid token is needed: send the header Authorization: Bearer and the token.")
			case !role.May(rights...):
				fail(w, r, g.log, fmt.Errorf("%w: the role %s may not do this; it needs the role %s", errForbidden, role, access.Least(rights...)))
			default:
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), bearerKey{}, bearer{role, actor})))
			}
		})
	}
}

// refuse answers a request without a valid credential. needed says what is needed.
func (g *guard) refuse(w http.ResponseWriter, r *http.Request, err error, needed string) {
	var wait *waitError
	switch {
	case errors.As(err, &wait):
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait.wait+time.Second-1)/time.Second), 10))
		problem.Write(w, problem.Problem{
			Type: problem.AbnormalUsage, Status: http.StatusTooManyRequests, Detail: "Too many tokens that are not valid came from this address.",
		})
	case errors.Is(err, tiers.ErrNotFound):
		w.Header().Set("Www-Authenticate", `Bearer realm="tierlimit"`)
		problem.Write(w, problem.Problem{Status: http.StatusUnauthorized, Detail: needed})
	default:
		fail(w, r, g.log, err)
	}
}

// own serves a customer: serve is called with the subject of the API key in X-Api-Key or in
// Authorization.
func (g *guard) own(serve func(w http.ResponseWriter, r *http.Request, subject string) error) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		key := r.Header.Get("X-Api-Key")
		if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); key == "" && strings.EqualFold(scheme, "Bearer") {
			key = token
		}
		err := tiers.ErrNotFound
		var c access.Credential
		if key != "" {
			c, err = g.credential(r, key, access.Key)
		}
		if err != nil {
			g.refuse(w, r, err, "A valid API key is needed.")
			return nil
		}
		return serve(w, r, c.Subject)
	}
}

// A bearer is whose token a request has.
type bearer struct {
	role  access.Role
	actor tiers.Actor
}

type bearerKey struct{}

// bearerOf returns the bearer that guard has authenticated for r.
func bearerOf(r *http.Request) bearer {
	b, _ := r.Context().Value(bearerKey{}).(bearer)
	return b
}

// actorOf returns the actor that guard has authenticated for r.
func actorOf(r *http.Request) tiers.Actor { return bearerOf(r).actor }

// identity is the answer to who the bearer of a token is.
type identity struct {
	Actor   string      `json:"actor"`
	ActorID string      `json:"actor_id"`
	Role    access.Role `json:"role"`
}

// readIdentity says whose token the request has.
func readIdentity(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	b := bearerOf(r)
	respond(w, http.StatusOK, identity{Actor: b.actor.Name, ActorID: b.actor.ID, Role: b.role})
	return nil
}

// A waitError says that no token of this client is looked at for a while.
type waitError struct{ wait time.Duration }

func (e *waitError) Error() string { return "not looked at for " + e.wait.String() }

// who returns the role and the actor of a request. A token of the configuration has its role
// as the actor's id and name. Tokens in memory are compared first; the throttle never
// refuses them.
func (g *guard) who(r *http.Request) (role access.Role, actor tiers.Actor, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", actor, tiers.ErrNotFound
	}
	if role := g.configured.role(token); role != "" {
		return role, tiers.Actor{ID: string(role), Name: string(role)}, nil
	}
	c, err := g.credential(r, token, access.Token)
	if err != nil {
		return "", actor, err
	}
	return c.Role, tiers.Actor{ID: c.ID, Name: c.Actor()}, nil
}

// credential returns the keyring's credential for token, if it is of the kind.
func (g *guard) credential(r *http.Request, token string, kind access.Kind) (c access.Credential, err error) {
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
	if err == nil && c.Kind != kind { // a customer's key is no token
		err = tiers.ErrNotFound
	}
	return c, err
}

// lookUp asks the keyring for a token that is not in memory. Concurrent requests with the
// same token share one look-up.
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
			takeBack() // the token is valid, or the keyring did not answer
		}
		return c, err
	})
	c, _ := found.(access.Credential)
	return c, err
}

// tokenWait is the timeout of a look-up.
const tokenWait = time.Second
