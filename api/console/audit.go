package console

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/tiers"
)

// An event is one entry of the audit log.
type event struct {
	ID     int64           `json:"id"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Action string          `json:"action"`
	Kind   string          `json:"kind"`
	Object string          `json:"object"`
	Detail string          `json:"detail"`
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
}

// present returns an object of the audit log, nil for null.
func present(object json.RawMessage) json.RawMessage {
	if string(object) == "null" {
		return nil
	}
	return object
}

// Changes returns the fields that the event changed.
func (e event) Changes() []jsondiff.Change {
	changes, err := jsondiff.Of(present(e.Before), present(e.After))
	if err != nil {
		return nil // an object that was erased
	}
	return slices.DeleteFunc(changes, func(c jsondiff.Change) bool { return c.From == nil && (c.To == nil || c.To == "" || c.To == false) })
}

// IsEdit reports whether the object was there before the event, and is there after it.
func (e event) IsEdit() bool { return present(e.Before) != nil && present(e.After) != nil }

// Facts returns the fields of an object that was created or deleted, without those that the event
// names by itself.
func (e event) Facts() []jsondiff.Change {
	object := cmp.Or(string(present(e.After)), string(present(e.Before)))
	facts, err := jsondiff.Of(nil, json.RawMessage(object))
	if err != nil {
		return nil // it was erased
	}
	return slices.DeleteFunc(facts, func(f jsondiff.Change) bool {
		return f.To == nil || f.To == "" || f.To == false || f.To == e.Object || slices.Contains([]string{"id", "key", "limit", "created_at"}, f.Field)
	})
}

// Words says what was done: "Changed the tier pro".
func (e event) Words() string {
	verbs := map[string]string{
		"create": "Created", "replace": "Changed", "patch": "Changed", "delete": "Deleted", "reset": "Reset", "release": "Released",
		"erase": "Erased", "apply": "Applied",
	}
	nouns := map[string]string{
		tiers.KindTier: "tier", tiers.KindSubject: "subject", tiers.KindOverride: "override", tiers.KindUsage: "usage",
		string(access.Key): "API key", string(access.Token): "token", tiers.KindLoad: "load control", tiers.KindWebhook: "webhook", tiers.KindAudit: "audit log",
	}
	kind, action, _ := strings.Cut(e.Action, ".")
	noun := nouns[e.Kind]
	if kind == "hold" {
		noun = "hold"
	}
	verb := verbs[action]
	if verb == "" {
		verb = strings.ToUpper(action[:min(1, len(action))]) + action[min(1, len(action)):]
	}
	return verb + " " + noun
}

// Page links to what the event is about, "" if there is no page of it.
func (e event) Page() string {
	switch {
	case strings.HasPrefix(e.Object, "["): // erased
		return ""
	case e.Kind == tiers.KindTier:
		return link("tier", "key", e.Object)
	case e.Kind == tiers.KindSubject, e.Kind == tiers.KindOverride, e.Kind == tiers.KindUsage:
		return link("subject", "id", e.Object)
	case e.Kind == string(access.Key):
		return link("subject", "id", e.Detail)
	case e.Kind == string(access.Token):
		return "tokens"
	case e.Kind == tiers.KindWebhook && present(e.After) == nil:
		return "webhooks"
	case e.Kind == tiers.KindWebhook:
		return link("webhook", "id", e.Object)
	case e.Kind == tiers.KindLoad:
		return "load"
	}
	return ""
}

// Home is Page of what is still there after the event.
func (e event) Home() string {
	if present(e.After) == nil && e.Kind == tiers.KindTier {
		return "tiers"
	}
	if e.Page() == "" {
		return "audit"
	}
	return e.Page()
}

// CanUndo reports whether the state before the event can be restored. What was counted and what was
// a secret is gone.
func (e event) CanUndo() bool {
	if strings.HasPrefix(e.Object, "[") || present(e.Before) == nil && present(e.After) == nil {
		return false
	}
	switch e.Kind {
	case tiers.KindTier, tiers.KindSubject, tiers.KindOverride:
		return true
	case tiers.KindLoad:
		return present(e.Before) != nil
	case string(access.Key), string(access.Token):
		return present(e.After) != nil
	}
	return false
}

// UndoRight is the right that undoing the event needs.
func (e event) UndoRight() string {
	switch e.Kind {
	case tiers.KindTier, tiers.KindLoad, string(access.Token):
		return string(access.Govern)
	}
	return string(access.Change)
}

// path returns where the API has what the event is about.
func (e event) path() string {
	switch e.Kind {
	case tiers.KindTier:
		return tierPath(e.Object)
	case tiers.KindOverride:
		return overridePath(e.Object, e.Detail)
	case string(access.Key), string(access.Token):
		return credentialPath(access.Kind(e.Kind), e.Object)
	case tiers.KindLoad:
		return "/admin/v1/load"
	}
	return subjectPath(e.Object)
}

// eventOf returns an event by its id. The API has no path for it: a cursor is the id that all
// events of the page are below.
func (v *visit) eventOf(id string) (*event, error) {
	missing := &problem{Status: http.StatusNotFound, Detail: "There is no such event in the audit log."}
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n < 1 {
		return nil, missing
	}
	l, err := read[list[event]](v, "/admin/v1/audit", url.Values{"cursor": {strconv.FormatInt(n+1, 10)}, "limit": {"1"}})
	if err != nil {
		return nil, err
	}
	if len(l.Data) == 0 || l.Data[0].ID != n {
		return nil, missing
	}
	return &l.Data[0], nil
}

// done returns the event that ?done= names: the change that led to this page. nil if there is none.
func (v *visit) done() (*event, error) {
	id := v.r.URL.Query().Get("done")
	if id == "" {
		return nil, nil
	}
	e, err := v.eventOf(id)
	if isStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	return e, err
}

// An auditPage is a page of the audit log.
type auditPage struct {
	Kind, Object, Actor, Since, Until string
	Kinds                             []option
	List                              list[event]
	Errors                            map[string]string
	Next                              string
	Later                             bool
	Done                              *event
}

// Filtered reports whether not all events are meant.
func (p *auditPage) Filtered() bool { return p.Kind+p.Object+p.Actor+p.Since+p.Until != "" }

// audit lists what administrators did.
func (v *visit) audit() error {
	q := v.r.URL.Query()
	p := &auditPage{
		Kind: q.Get("kind"), Object: q.Get("object"), Actor: q.Get("actor"), Since: q.Get("since"), Until: q.Get("until"),
		Later: q.Get("cursor") != "", Errors: make(map[string]string), Kinds: []option{
			{"", "Everything"},
			{"tier", "Tiers"},
			{"subject", "Subjects"},
			{"override", "Overrides"},
			{"usage", "Usage"},
			{"key", "API keys"},
			{"token", "Tokens"},
			{"webhook", "Webhooks"},
			{"load", "Load"},
			{"audit", "Audit log"},
		},
	}
	filter := url.Values{"limit": {"30"}}
	for name, value := range map[string]string{
		"kind": p.Kind, "object": p.Object, "actor": p.Actor, "since": instantOf(p.Since), "until": instantOf(p.Until), "cursor": q.Get("cursor"),
	} {
		if value != "" {
			filter.Set(name, value)
		}
	}
	var err error
	if p.List, err = read[list[event]](v, "/admin/v1/audit", filter); err != nil {
		if !p.fieldErrors(err) {
			return err
		}
	}
	if p.List.HasMore {
		p.Next = link("audit", "kind", p.Kind, "object", p.Object, "actor", p.Actor, "since", p.Since, "until", p.Until, "cursor", p.List.NextCursor)
	}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "audit", "Audit log", p)
	return nil
}

// fieldErrors keeps the errors of fields that err has, and reports whether it has any.
func (p *auditPage) fieldErrors(err error) bool {
	refused, ok := err.(*problem) //nolint:errorlint // read returns it as it is
	if !ok || len(refused.Errors) == 0 {
		return false
	}
	for _, e := range refused.Errors {
		p.Errors[e.Field] = e.Detail
	}
	return true
}
