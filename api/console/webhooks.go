package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// A webhooksPage lists the webhooks.
type webhooksPage struct {
	Webhooks []tiers.Webhook
	Done     *event
}

func (v *visit) webhooks() error {
	l, err := read[list[tiers.Webhook]](v, "/admin/v1/webhooks", nil)
	if err != nil {
		return err
	}
	p := &webhooksPage{Webhooks: l.Data}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "webhooks", "Webhooks", p)
	return nil
}

// A webhookPage shows one webhook and what it received.
type webhookPage struct {
	Webhook    tiers.Webhook
	State      string
	Deliveries part[list[tiers.DeliveryState]]
	Next       string
	Later      bool
	Said       string // what came of a button
	Secret     string // a new one: shown once
	AsksSecret bool   // whether a new one is to be made
	Done       *event
}

// States are the choices of the filter.
func (*webhookPage) States() []option {
	return []option{{"", "All"}, {string(tiers.Pending), "Pending"}, {string(tiers.Delivered), "Delivered"}, {string(tiers.Dead), "Dead"}}
}

func (v *visit) webhook() error {
	return v.showWebhook(v.r.URL.Query(), &webhookPage{Said: said(v.r.URL.Query().Get("said")), AsksSecret: v.r.URL.Query().Get("ask") == "secret" && v.who.Role.May(access.Govern)})
}

func (v *visit) showWebhook(q url.Values, p *webhookPage) (err error) {
	id := q.Get("id")
	if p.Webhook, err = read[tiers.Webhook](v, webhookPath(id), nil); err != nil {
		return err
	}
	p.State, p.Later = q.Get("state"), q.Get("cursor") != ""
	filter := url.Values{"limit": {"30"}}
	for name, value := range map[string]string{"state": p.State, "cursor": q.Get("cursor")} {
		if value != "" {
			filter.Set(name, value)
		}
	}
	p.Deliveries = readPart[list[tiers.DeliveryState]](v, webhookPath(id)+"/deliveries", filter)
	if p.Deliveries.Value.HasMore {
		p.Next = link("webhook", "id", id, "state", p.State, "cursor", p.Deliveries.Value.NextCursor)
	}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "webhook", p.Webhook.Name, p)
	return nil
}

func webhookPath(id string) string { return "/admin/v1/webhooks/" + url.PathEscape(id) }

// said returns the sentence for the outcome of a button, which stands in the URL as a word.
func said(word string) string {
	return map[string]string{
		"test": "A test message waits to be sent. It is below as soon as it is tried.", "resend": "What was dead is sent again.", "message": "The message is sent again.",
	}[word]
}

// useWebhook sends a test message, sends messages again, or makes a new secret.
func (v *visit) useWebhook() error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return &problem{Status: http.StatusBadRequest, Detail: "The form could not be read."}
	}
	get := v.r.PostForm.Get
	path := webhookPath(get("id"))
	paths := map[string]string{
		"test": path + "/test", "resend": path + "/deliveries:resend", "message": path + "/deliveries/" + url.PathEscape(get("message")) + "/resend", "secret": path + "/secret",
	}
	do := get("do")
	if paths[do] == "" {
		return &problem{Status: http.StatusNotFound, Detail: "There is no such change."}
	}
	a, err := v.ask(request{method: http.MethodPost, path: paths[do]})
	if err != nil {
		return err
	}
	if do != "secret" {
		v.redirect(link("webhook", "id", get("id"), "said", do))
		return nil
	}
	var made tiers.Webhook
	if err := json.Unmarshal(a.body, &made); err != nil {
		return err
	}
	return v.showWebhook(url.Values{"id": {get("id")}}, &webhookPage{Secret: made.Secret})
}

// Types of messages, and how a form calls them.
var messageTypes = []struct{ kind, name, label string }{
	{tiers.LimitThreshold, "threshold", "A customer reaches a threshold of a limit"},
	{tiers.LimitRecovered, "recovered", "The customer can go on"},
	{tiers.SubjectChanged, "changed", "An administrator changes a customer"},
}

func webhookFields(w *tiers.Webhook) []*field {
	fields := []*field{
		{Name: "name", Label: "Name", Kind: textField, Values: []string{w.Name}, Required: true, Help: "For people: who receives it."},
		{Name: "url", Label: "URL", Kind: textField, Values: []string{w.URL}, Required: true, Help: "https, of a public address, unless TIERLIMIT_WEBHOOK_ALLOW allows another one."},
	}
	for i, t := range messageTypes {
		one := &field{Name: t.name, Label: t.label, Kind: boxField, Group: "Tell when", Values: []string{strconv.FormatBool(strings.Contains(strings.Join(w.Events, " "), t.kind))}}
		if i == 0 {
			one.Also = []string{"events"}
		}
		fields = append(fields, one)
	}
	return fields
}

func webhookBody(fields []*field, values url.Values) map[string]any {
	body := bodyOf(fields, values)
	chosen := []string{}
	for _, t := range messageTypes {
		if body[t.name] == true {
			chosen = append(chosen, t.kind)
		}
		delete(body, t.name)
	}
	body["events"] = chosen
	return body
}

func newWebhook(*visit, url.Values) (*form, error) {
	f := &form{
		Title: "New webhook", Lead: "Signed messages are sent to its URL.", Verb: "Create webhook", Hidden: attempt(), Back: "webhooks", kind: tiers.KindWebhook,
		Fields: webhookFields(&tiers.Webhook{Events: []string{tiers.LimitThreshold, tiers.LimitRecovered}}),
		Final:  "The secret that signs its messages is shown once, on the next page.",
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPost, path: "/admin/v1/webhooks", header: once(values), body: withoutNull(webhookBody(f.Fields, values))}
	}
	return f, nil
}

func changeWebhook(v *visit, q url.Values) (*form, error) {
	path := webhookPath(q.Get("id"))
	w, etag, err := readTagged[tiers.Webhook](v, path, nil)
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: "Change " + w.Name, Lead: "Its secret stays as it is.", Verb: "Apply change", Hidden: url.Values{"id": {w.ID}, "etag": {etag}},
		Back: link("webhook", "id", w.ID), kind: tiers.KindWebhook,
		Fields: append(webhookFields(&w), &field{Name: "paused", Label: "Paused: keep messages for a week at most, and do not send them", Kind: boxField, Values: []string{strconv.FormatBool(w.Paused)}}),
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPatch, path: path, header: tagged(values), body: webhookBody(f.Fields, values)}
	}
	return f, nil
}

func deleteWebhook(v *visit, q url.Values) (*form, error) {
	path := webhookPath(q.Get("id"))
	w, etag, err := readTagged[tiers.Webhook](v, path, nil)
	if err != nil {
		return nil, err
	}
	return &form{
		Title: "Delete " + w.Name, Lead: "Its messages are deleted too, also those that it has not received.", Verb: "Delete", Stern: true,
		Final: "Its secret is not kept, so it cannot be restored.", Hidden: url.Values{"id": {w.ID}, "etag": {etag}}, Back: "webhooks", kind: tiers.KindWebhook,
		request: func(values url.Values) request {
			return request{method: http.MethodDelete, path: path, header: tagged(values)}
		},
	}, nil
}
