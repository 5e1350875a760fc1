package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

// A credentialsPage is a page of the list of API keys or tokens.
type credentialsPage struct {
	Subject string
	List    list[access.Credential]
	Next    string
	Later   bool
	Done    *event
}

// Expired reports whether a credential is no longer in force.
func (p *credentialsPage) Expired(c access.Credential) bool {
	return c.ExpiresAt != nil && !time.Now().Before(*c.ExpiresAt)
}

func (v *visit) keys() error { return v.credentials("keys", "API keys", "/admin/v1/keys") }

func (v *visit) tokens() error { return v.credentials("tokens", "Tokens", "/admin/v1/tokens") }

func (v *visit) credentials(page, title, path string) (err error) {
	q := v.r.URL.Query()
	p := &credentialsPage{Subject: q.Get("subject"), Later: q.Get("cursor") != ""}
	filter := make(url.Values)
	for name, value := range map[string]string{"subject": p.Subject, "cursor": q.Get("cursor")} {
		if value != "" {
			filter.Set(name, value)
		}
	}
	if p.List, err = read[list[access.Credential]](v, path, filter); err != nil {
		return err
	}
	if p.List.HasMore {
		p.Next = link(page, "subject", p.Subject, "cursor", p.List.NextCursor)
	}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, page, title, p)
	return nil
}

// credentialPath returns the path of a key or token in the API.
func credentialPath(kind access.Kind, id string) string {
	return "/admin/v1/" + string(kind) + "s/" + url.PathEscape(id)
}

// credentialFields are the fields that keys and tokens share.
func credentialFields(c *access.Credential) []*field {
	return []*field{
		{Name: "name", Label: "Name", Kind: textField, Values: []string{c.Name}, Required: true, Help: "For people: where it is used."},
		{Name: "expires_at", Label: "Expires", Kind: timeField, Values: []string{inputOf(c.ExpiresAt)}, Help: "Empty: never."},
	}
}

func newKey(_ *visit, q url.Values) (*form, error) {
	back := "keys"
	if q.Get("id") != "" {
		back = link("subject", "id", q.Get("id"))
	}
	return newCredential(access.Key, &form{
		Title: "New API key", Lead: "A customer's requests bring it, and it names the subject.", Verb: "Create key", Hidden: attempt("id", q.Get("id")), Back: back,
		Fields: append([]*field{{Name: "subject", Label: "Subject", Kind: textField, Values: []string{q.Get("id")}, Required: true}}, credentialFields(new(access.Credential))...),
	}), nil
}

func newToken(*visit, url.Values) (*form, error) {
	return newCredential(access.Token, &form{
		Title: "New token", Lead: "People and services use the API and this console with it.", Verb: "Create token", Hidden: attempt(), Back: "tokens",
		Fields: append([]*field{roleField(access.Viewer)}, credentialFields(new(access.Credential))...),
	}), nil
}

func newCredential(kind access.Kind, f *form) *form {
	f.kind = string(kind)
	f.Final = "The secret is shown once, on the next page."
	f.request = func(values url.Values) request {
		return request{method: http.MethodPost, path: "/admin/v1/" + string(kind) + "s", header: once(values), body: withoutNull(bodyOf(f.Fields, values))}
	}
	return f
}

func roleField(role access.Role) *field {
	return &field{Name: "role", Label: "Role", Kind: chooseField, Values: []string{string(role)}, Options: []option{
		{string(access.Service), "Service: asks for decisions"},
		{string(access.Viewer), "Viewer: sees everything, changes nothing"},
		{string(access.Operator), "Operator: changes subjects, overrides, keys and usage"},
		{string(access.Owner), "Owner: also tiers, tokens, webhooks and load"},
	}}
}

func changeKey(v *visit, q url.Values) (*form, error) {
	return credentialForm(v, q, access.Key, "Change the API key")
}

func changeToken(v *visit, q url.Values) (*form, error) {
	return credentialForm(v, q, access.Token, "Change the token")
}

func credentialForm(v *visit, q url.Values, kind access.Kind, title string) (*form, error) {
	path := credentialPath(kind, q.Get("credential"))
	c, etag, err := readTagged[access.Credential](v, path, nil)
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: title, Lead: "Its secret stays as it is.", Verb: "Apply change", Fields: credentialFields(&c),
		Hidden: url.Values{"credential": {c.ID}, "etag": {etag}}, Back: string(kind) + "s", kind: string(kind),
	}
	if kind == access.Token {
		f.Fields = append([]*field{roleField(c.Role)}, f.Fields...)
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPatch, path: path, header: tagged(values), body: bodyOf(f.Fields, values)}
	}
	return f, nil
}

func deleteKey(v *visit, q url.Values) (*form, error) {
	return credentialRemoval(v, q, access.Key, "Revoke the API key", "Requests that bring it are no longer those of the subject.")
}

func deleteToken(v *visit, q url.Values) (*form, error) {
	return credentialRemoval(v, q, access.Token, "Revoke the token", "Whoever uses it is refused, and its console sessions end.")
}

func credentialRemoval(v *visit, q url.Values, kind access.Kind, title, lead string) (*form, error) {
	path := credentialPath(kind, q.Get("credential"))
	c, etag, err := readTagged[access.Credential](v, path, nil)
	if err != nil {
		return nil, err
	}
	return &form{
		Title: title + " " + c.Name, Lead: lead, Verb: "Revoke", Stern: true, Final: "Its secret is not kept, so it cannot be restored.",
		Hidden: url.Values{"credential": {c.ID}, "etag": {etag}}, Back: string(kind) + "s", kind: string(kind),
		request: func(values url.Values) request {
			return request{method: http.MethodDelete, path: path, header: tagged(values)}
		},
	}, nil
}
