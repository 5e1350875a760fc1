package tiers

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/internal/timestamp"
)

// KindWebhook is the kind of a Webhook.
const KindWebhook = "webhook"

// The types of messages.
const (
	// LimitThreshold says that a window of a customer has reached a threshold: once for each
	// subject, limit, window and threshold.
	LimitThreshold = "limit.threshold"
	// LimitRecovered says that such a window has ended, or that it is below all its thresholds
	// again after an administrator's change: once for each subject, limit and window.
	LimitRecovered = "limit.recovered"
	// SubjectChanged says that an administrator changed a subject, its overrides or its usage.
	SubjectChanged = "subject.changed"
	// WebhookTest is sent to one webhook on demand, whatever its Events are.
	WebhookTest = "webhook.test"
)

// MessageTypes are the types that a Webhook may choose.
var MessageTypes = []string{LimitRecovered, LimitThreshold, SubjectChanged}

// MaxWebhooks is the maximum number of webhooks in a catalogue.
const MaxWebhooks = 20

// SecretOverlap is how long messages are signed with the previous secret too after a change of
// the secret.
const SecretOverlap = 24 * time.Hour

// A Webhook receives messages at a URL.
type Webhook struct {
	ID        string // made by WithID
	Name      string // for people
	URL       string
	Events    []string // types of messages, in ascending order
	Paused    bool     // messages are kept and not sent
	CreatedAt time.Time
	SecretAt  time.Time // when the secret was made
	Version   int64     // set by the catalogue; greater with each change

	Secrets Secrets // not in the JSON
	Secret  string  // as Standard Webhooks write it; only in the answer to its creation
}

// Secrets are the keys that sign messages.
type Secrets struct {
	Current  []byte
	Previous []OldSecret // the newest first, at most MaxOldSecrets
}

// An OldSecret signs messages too until an instant.
type OldSecret struct {
	Key   []byte    `json:"key"`
	Until time.Time `json:"until"`
}

// MaxOldSecrets is how often a secret may be changed within SecretOverlap.
const MaxOldSecrets = 4

// secretSize is the length of a secret in bytes. Standard Webhooks allow 24 to 64.
const secretSize = 32

// secretPrefix is that of a symmetric secret in Standard Webhooks.
const secretPrefix = "whsec_"

// WithID returns w with an id and a secret of its own, which Secret shows.
func (w Webhook) WithID(now time.Time) Webhook {
	w.ID = access.NewID()
	return w.WithNewSecret(now)
}

// WithNewSecret returns w with a new secret, which Secret shows. Messages are signed with the
// previous ones too, for SecretOverlap.
func (w Webhook) WithNewSecret(now time.Time) Webhook {
	next := Secrets{Current: make([]byte, secretSize)}
	_, _ = rand.Read(next.Current) // it does not fail
	if w.Secrets.Current != nil {
		next.Previous = []OldSecret{{w.Secrets.Current, timestamp.Round(now.Add(SecretOverlap))}}
	}
	for _, old := range w.Secrets.Previous {
		if now.Before(old.Until) {
			next.Previous = append(next.Previous, old)
		}
	}
	w.Secrets, w.SecretAt = next, timestamp.Round(now)
	w.Secret = secretPrefix + base64.StdEncoding.EncodeToString(next.Current)
	return w
}

// InForce returns the keys that sign a message at now, the current one first.
func (s *Secrets) InForce(now time.Time) [][]byte {
	keys := [][]byte{s.Current}
	for _, old := range s.Previous {
		if now.Before(old.Until) {
			keys = append(keys, old.Key)
		}
	}
	return keys
}

// Normalize sorts the events and rounds the instants.
func (w *Webhook) Normalize() {
	w.Events = slices.Clone(w.Events)
	slices.Sort(w.Events)
	w.CreatedAt, w.SecretAt = timestamp.Round(w.CreatedAt), timestamp.Round(w.SecretAt)
	w.Secrets.Previous = slices.Clone(w.Secrets.Previous)
	for i := range w.Secrets.Previous {
		w.Secrets.Previous[i].Until = timestamp.Round(w.Secrets.Previous[i].Until)
	}
	if len(w.Secrets.Previous) == 0 {
		w.Secrets.Previous = nil
	}
}

// Validate reports everything that is wrong with w, each as a *tierlimit.FieldError, joined.
func (w *Webhook) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(w.Name != "" && len(w.Name) <= 100 && strictjson.Printable(w.Name), "name", w.Name, "1 to 100 bytes of UTF-8 without control characters")
	check(validTarget(w.URL), "url", w.URL, "an http or https URL of at most 2000 bytes, with a host and without a user or a fragment")
	known := len(w.Events) > 0
	for i, e := range w.Events {
		known = known && slices.Contains(MessageTypes, e) && !slices.Contains(w.Events[:i], e)
	}
	check(known, "events", strings.Join(w.Events, ", "), "one or more of "+strings.Join(MessageTypes, ", ")+", each once")
	check(len(w.Secrets.Previous) <= MaxOldSecrets, "secret", "", "changed at most 4 times a day: each of the previous ones signs for a day")
	return errors.Join(errs...)
}

func validTarget(text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > 2000 || !strictjson.Printable(text) || strings.Contains(text, "#") {
		return false
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), "443"))
	return err == nil && port >= 1 && port <= 65535 && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil
}

type webhookJSON struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	URL       string   `json:"url"`
	Events    []string `json:"events"`
	Paused    bool     `json:"paused"`
	CreatedAt *string  `json:"created_at,omitempty"`
	SecretAt  *string  `json:"secret_changed_at,omitempty"`
	Version   int64    `json:"version"`
	Secret    string   `json:"secret,omitempty"`
}

// MarshalJSON writes what administrators see: the secret only if w was just made.
func (w Webhook) MarshalJSON() ([]byte, error) {
	return json.Marshal(webhookJSON{
		ID: w.ID, Name: w.Name, URL: w.URL, Events: w.Events, Paused: w.Paused, Version: w.Version, Secret: w.Secret,
		CreatedAt: timestamp.Text(&w.CreatedAt), SecretAt: timestamp.Text(&w.SecretAt),
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (w *Webhook) UnmarshalJSON(data []byte) error {
	var j webhookJSON
	p := timestamp.Parser{Errs: []error{strictjson.Strict(data, &j)}}
	*w = Webhook{ID: j.ID, Name: j.Name, URL: j.URL, Events: j.Events, Paused: j.Paused, Version: j.Version, Secret: j.Secret}
	for field, from := range map[string]struct {
		text *string
		into *time.Time
	}{"created_at": {j.CreatedAt, &w.CreatedAt}, "secret_changed_at": {j.SecretAt, &w.SecretAt}} {
		if at := p.Optional(field, from.text); at != nil {
			*from.into = *at
		}
	}
	return errors.Join(p.Errs...)
}

// WebhookRef names a webhook.
func WebhookRef(id string) Ref { return Ref{Kind: KindWebhook, Object: id} }

// WebhookError says what was refused about which webhook.
func WebhookError(id string, err error) error { return fmt.Errorf("webhook %.80q %w", id, err) }

// validWebhook returns w as it is stored. The URL is not resolved here: whoever sends a message
// decides which addresses are allowed.
func (d *draft) validWebhook(ref Ref, before Object, w Webhook) (_ Object, err error) {
	if w.ID, err = named("id", ref.Object, w.ID); err != nil {
		return nil, err
	}
	w.Secret = ""
	if was, there := before.(Webhook); there {
		w.CreatedAt, w.Version = was.CreatedAt, was.Version
		if w.Secrets.Current == nil {
			w.Secrets, w.SecretAt = was.Secrets, was.SecretAt
		}
	} else {
		w.CreatedAt, w.Version = timestamp.Round(d.now), 0
	}
	w.Normalize()
	return w, w.Validate()
}

func (d *draft) putWebhook(w Webhook) error {
	if _, there := d.Webhook(w.ID); !there && len(d.Webhooks()) >= MaxWebhooks {
		return &tierlimit.FieldError{Field: "webhooks", Value: strconv.Itoa(MaxWebhooks + 1), Want: "at most " + strconv.Itoa(MaxWebhooks)}
	}
	d.setWebhook(w.ID, &w)
	return nil
}

// Webhooks implements View.
func (d *draft) Webhooks() []Webhook {
	list := slices.DeleteFunc(slices.Clone(d.View.Webhooks()), func(w Webhook) bool {
		_, changed := d.webhooks[w.ID]
		return changed
	})
	for _, w := range d.webhooks {
		if w != nil {
			list = append(list, *w)
		}
	}
	slices.SortFunc(list, func(a, b Webhook) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Webhook returns a webhook of the draft.
func (d *draft) Webhook(id string) (Webhook, bool) {
	list := d.Webhooks()
	i := slices.IndexFunc(list, func(w Webhook) bool { return w.ID == id })
	if i < 0 {
		return Webhook{}, false
	}
	return list[i], true
}

func (d *draft) setWebhook(id string, w *Webhook) {
	if d.webhooks == nil {
		d.webhooks = make(map[string]*Webhook)
	}
	d.webhooks[id] = w
}
