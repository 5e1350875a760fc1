// Package access says who may ask: API keys, by which a customer's requests name
// their subject, and tokens, with which people and services use the API itself.
//
// It knows secrets and roles. Where credentials are kept is a matter of package
// tiers, whose changes they travel with; what a role opens, of package api.
package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// A Kind says what a credential is for.
type Kind string

// The kinds. Secrets begin with them.
const (
	Key   Kind = "key"   // names a subject
	Token Kind = "token" // has a role
)

// A Credential is a key or a token. Its secret is shown to whoever made it, once,
// and kept as a hash alone.
type Credential struct {
	ID         string
	Kind       Kind
	Name       string // for people; of a token, unique: the audit log names its actor by it
	Subject    string // of a key
	Role       Role   // of a token
	CreatedAt  time.Time
	ExpiresAt  *time.Time // nil: never
	LastUsedAt *time.Time // to the minute; nil: not yet
	Version    int64      // set by the catalogue; greater with each change

	Hash   [sha256.Size]byte // SHA-256 of the secret
	Secret string            // only as it was made
}

// Secrets are tl_<kind>_<id>_<random>: recognisable in code and logs, looked up
// by their id, and 130 random bits long behind it, which is why a plain hash is
// enough to keep them.
const (
	brand    = "tl_"
	idLength = 16
)

// WithSecret returns c with an id and a secret of its own.
func (c Credential) WithSecret() Credential {
	c.ID = NewID()
	c.Secret = brand + string(c.Kind) + "_" + c.ID + "_" + strings.ToLower(rand.Text())
	c.Hash = sha256.Sum256([]byte(c.Secret))
	return c
}

// Parse returns the kind and id that a secret begins with. Whatever has not the
// form of one names none, and need not be looked up.
func Parse(secret string) (kind Kind, id string, ok bool) {
	rest, ok := strings.CutPrefix(secret, brand)
	word, rest, more := strings.Cut(rest, "_")
	id, random, whole := strings.Cut(rest, "_")
	kind = Kind(word)
	ok = ok && more && whole && (kind == Key || kind == Token) && ValidID(id) && len(random) == len(rand.Text())
	return kind, id, ok
}

// NewID returns a random id: that of a credential, or of something else with a secret.
func NewID() string { return strings.ToLower(rand.Text()[:idLength]) }

// ValidID reports whether s can be an id that NewID returns.
func ValidID(s string) bool {
	return len(s) == idLength && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '2' || r > '7')
	})
}

// Opens reports whether secret is that of c, and c in force at now. It takes as
// long whatever is wrong with the secret.
func (c *Credential) Opens(secret string, now time.Time) bool {
	sum := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(sum[:], c.Hash[:]) == 1 && (c.ExpiresAt == nil || now.Before(*c.ExpiresAt))
}

// Actor is who the audit log says has acted with c.
func (c *Credential) Actor() string { return string(c.Kind) + ":" + c.Name }

// Normalize rounds the instants.
func (c *Credential) Normalize() {
	c.CreatedAt = timestamp.Round(c.CreatedAt)
	timestamp.RoundAll(&c.ExpiresAt, &c.LastUsedAt)
}

// Validate reports everything that is wrong with c, each as a
// *tierlimit.FieldError, joined.
func (c *Credential) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	named := c.Name != "" && len(c.Name) <= 100 && strictjson.Printable(c.Name)
	check(named, "name", c.Name, "1 to 100 bytes of UTF-8 without control characters")
	if c.Kind == Key {
		check(tierlimit.ValidSubject(c.Subject), "subject", c.Subject, tierlimit.SubjectRule)
		check(c.Role == "", "role", string(c.Role), "left out: a key has none")
	} else {
		check(c.Role.Valid(), "role", string(c.Role), RoleRule)
		check(c.Subject == "", "subject", c.Subject, "left out: a token has none")
	}
	if c.ExpiresAt != nil {
		check(timestamp.Valid(*c.ExpiresAt), "expires_at", c.ExpiresAt.Format(time.RFC3339), timestamp.Rule)
	}
	return errors.Join(errs...)
}

type credentialJSON struct {
	ID         string  `json:"id"`
	Name       string  `json:"name"`
	Subject    string  `json:"subject,omitempty"`
	Role       Role    `json:"role,omitempty"`
	CreatedAt  *string `json:"created_at,omitempty"`
	ExpiresAt  *string `json:"expires_at,omitempty"`
	LastUsedAt *string `json:"last_used_at,omitempty"`
	Version    int64   `json:"version"`
	Secret     string  `json:"secret,omitempty"`
}

// MarshalJSON writes what administrators see: the secret only where c was just
// made, and never its hash.
func (c Credential) MarshalJSON() ([]byte, error) {
	return json.Marshal(credentialJSON{
		ID: c.ID, Name: c.Name, Subject: c.Subject, Role: c.Role, Version: c.Version, Secret: c.Secret,
		CreatedAt: timestamp.Text(&c.CreatedAt), ExpiresAt: timestamp.Text(c.ExpiresAt), LastUsedAt: timestamp.Text(c.LastUsedAt),
	})
}

// UnmarshalJSON reads what MarshalJSON writes, but the kind, which stands in
// the path.
func (c *Credential) UnmarshalJSON(data []byte) error {
	var j credentialJSON
	p := timestamp.Parser{Errs: []error{strictjson.Strict(data, &j)}}
	*c = Credential{
		ID: j.ID, Name: j.Name, Subject: j.Subject, Role: j.Role, Version: j.Version, Secret: j.Secret,
		ExpiresAt: p.Optional("expires_at", j.ExpiresAt), LastUsedAt: p.Optional("last_used_at", j.LastUsedAt),
	}
	if created := p.Optional("created_at", j.CreatedAt); created != nil {
		c.CreatedAt = *created
	}
	return errors.Join(p.Errs...)
}
