package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// With an Idempotency-Key, a client that lost the response to a creation can repeat the
// request and gets the same response. The key is stored in the audit log: a change and its
// event are written together.

var errAttemptReused = errors.New("the Idempotency-Key was used for something else")

// attempt returns the attempt that the Idempotency-Key of a request identifies. Keys are
// scoped to the caller: two callers may use the same key.
func attempt(r *http.Request, body []byte) (tiers.Attempt, error) {
	key := strings.Join(r.Header.Values("Idempotency-Key"), ", ")
	if key == "" {
		return tiers.Attempt{}, nil
	}
	if len(key) > 128 || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return tiers.Attempt{}, &tierlimit.FieldError{Field: "Idempotency-Key", Value: key, Want: "1 to 128 printable ASCII characters"}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s\n%s", r.Method, r.URL.RequestURI(), body))
	return tiers.Attempt{Key: actorOf(r).ID + " " + key, Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// made returns the event of an attempt, nil if it has not been made.
func (a *admin) made(r *http.Request, attempt tiers.Attempt) (*tiers.Event, error) {
	events, err := a.catalogue.Events(r.Context(), tiers.EventFilter{Attempt: attempt.Key, Most: 1})
	if err != nil || len(events) == 0 {
		return nil, err
	}
	if events[0].Attempt.Fingerprint != attempt.Fingerprint {
		return nil, errAttemptReused
	}
	return &events[0], nil
}

// once runs create, or repeats the response of an earlier request with the same attempt.
// The repeated response does not contain a secret.
func (a *admin) once(w http.ResponseWriter, r *http.Request, attempt tiers.Attempt, create func() error) error {
	if attempt.Key == "" {
		return create()
	}
	e, err := a.made(r, attempt)
	if err == nil && e == nil {
		err = create()
		if !errors.Is(err, tiers.ErrRepeated) && !errors.Is(err, tiers.ErrExists) {
			return err
		}
		// Somebody has made it in the meantime: perhaps this very attempt.
		var again error
		if e, again = a.made(r, attempt); again != nil || e == nil {
			return errors.Join(err, again)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	var made struct{ Version int64 }
	name := e.Object
	if e.Kind == tiers.KindOverride {
		name = e.Detail
	}
	w.Header().Set("Location", r.URL.EscapedPath()+"/"+url.PathEscape(name))
	if err := json.Unmarshal(e.After, &made); err != nil {
		return fmt.Errorf("event %d: %w", e.ID, err)
	}
	w.Header().Set("Idempotent-Replayed", "true")
	respondVersion(w, http.StatusCreated, made.Version, e.After)
	return nil
}
