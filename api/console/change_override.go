package console

import (
	"net/http"
	"net/url"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func overridePath(id, limit string) string {
	return subjectPath(id) + "/overrides/" + url.PathEscape(limit)
}

// overrideFields are the fields of an override.
func overrideFields(o *tiers.Override) []*field {
	most := ""
	if !o.ExpiresAt.IsZero() {
		most = maximum(o.Max)
	}
	return []*field{
		{Name: "max", Label: "Max", Kind: maxField, Values: []string{most}, Required: true, Help: "A whole number, or unlimited."},
		{Name: "starts_at", Label: "Starts", Kind: timeField, Values: []string{inputOf(&o.StartsAt)}, Help: "Empty: now."},
		{Name: "expires_at", Label: "Ends", Kind: timeField, Values: []string{inputOf(&o.ExpiresAt)}, Required: true},
		{Name: "reason", Label: "Reason", Kind: textField, Values: []string{o.Reason}, Required: true, Help: "For whoever reads the audit log."},
	}
}

func newOverride(v *visit, q url.Values) (*form, error) {
	id := q.Get("id")
	usage, err := read[tierlimit.Usage](v, subjectPath(id)+"/usage", nil)
	if err != nil {
		return nil, err
	}
	limit := &field{Name: "limit", Label: "Limit", Kind: chooseField, Values: []string{q.Get("limit")}}
	for i := range usage.Windows {
		w := &usage.Windows[i]
		limit.Options = append(limit.Options, option{w.Limit, w.Limit + ", now " + maximum(w.Max)})
	}
	f := &form{
		Title: "New override", Lead: "An exception for this subject and one limit, for a while.", Verb: "Create override",
		Fields: append([]*field{limit}, overrideFields(new(tiers.Override))...),
		Hidden: attempt("id", id), Back: link("subject", "id", id), kind: tiers.KindOverride,
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPost, path: subjectPath(id) + "/overrides", header: once(values), body: withoutNull(bodyOf(f.Fields, values))}
	}
	return f, nil
}

func changeOverride(v *visit, q url.Values) (*form, error) {
	id, limit := q.Get("id"), q.Get("limit")
	o, etag, err := readTagged[tiers.Override](v, overridePath(id, limit), nil)
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: "Change the override of " + limit, Lead: "It acts on the next request.", Verb: "Apply change", Fields: overrideFields(&o),
		Hidden: url.Values{"id": {id}, "limit": {limit}, "etag": {etag}}, Back: link("subject", "id", id), kind: tiers.KindOverride,
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPatch, path: overridePath(id, limit), header: tagged(values), body: bodyOf(f.Fields, values)}
	}
	return f, nil
}

func deleteOverride(v *visit, q url.Values) (*form, error) {
	id, limit := q.Get("id"), q.Get("limit")
	_, etag, err := readTagged[tiers.Override](v, overridePath(id, limit), nil)
	if err != nil {
		return nil, err
	}
	return &form{
		Title: "Delete the override of " + limit, Lead: "The limit of the tier is in force again.", Verb: "Delete override", Stern: true,
		Hidden: url.Values{"id": {id}, "limit": {limit}, "etag": {etag}}, Back: link("subject", "id", id), kind: tiers.KindOverride,
		request: func(values url.Values) request {
			return request{method: http.MethodDelete, path: overridePath(id, limit), header: tagged(values)}
		},
	}, nil
}
