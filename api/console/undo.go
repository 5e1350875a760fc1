package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/tierlimit/tierlimit/access"
)

// undo restores what was there before an event of the audit log. It is a change of its own, with a
// dry run against what is there now.
func undo(v *visit, q url.Values) (*form, error) {
	e, err := v.eventOf(q.Get("event"))
	if err != nil {
		return nil, err
	}
	if !e.CanUndo() {
		return nil, &problem{Status: http.StatusConflict, Detail: "This cannot be undone: what was counted and what was secret is not kept."}
	}
	f := &form{
		Title: "Undo: " + e.Words() + " " + e.Object, Lead: "What was there before is restored, as a change of its own.", Verb: "Undo",
		Hidden: url.Values{"event": {q.Get("event")}}, Back: e.Home(), kind: e.Kind,
	}
	now, err := v.ask(request{method: http.MethodGet, path: e.path()})
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return nil, err
	}
	gone := err != nil
	f.Hidden.Set("etag", now.header.Get("Etag"))
	before, err := restored(e)
	if err != nil {
		return nil, err
	}
	if present(e.After) == nil || gone { // it is created again
		f.Back = (&event{Kind: e.Kind, Object: e.Object, Detail: e.Detail, After: e.Before}).Home()
	}
	f.request = func(values url.Values) request {
		out := request{method: http.MethodPut, path: e.path(), header: tagged(values), body: before}
		switch {
		case before == nil:
			out.method, out.body = http.MethodDelete, nil
		case gone:
			out.header = map[string]string{"If-None-Match": "*"}
		}
		return out
	}
	if before == nil {
		f.Verb, f.Stern = "Undo by deleting", true
		f.after = func(request) string { return (&event{Kind: e.Kind, Object: e.Object, Detail: e.Detail}).Home() }
	}
	return f, nil
}

// restored returns the body that restores what was there before e, nil if nothing was.
func restored(e *event) (body map[string]json.RawMessage, err error) {
	text := present(e.Before)
	if text == nil {
		return nil, nil
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, fmt.Errorf("event %d: %w", e.ID, err)
	}
	if e.Kind == string(access.Key) || e.Kind == string(access.Token) { // the API makes the other fields
		maps.DeleteFunc(body, func(name string, _ json.RawMessage) bool {
			return !slices.Contains([]string{"name", "subject", "role", "expires_at"}, name)
		})
	}
	return body, nil
}
