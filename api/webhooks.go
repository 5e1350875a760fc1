package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

func (a *admin) webhook() *resource[tiers.Webhook] {
	return &resource[tiers.Webhook]{
		admin: a, noun: "webhook", schema: "Webhook", tag: "Webhooks", param: "id", change: access.Govern,
		name:    func(w *tiers.Webhook) *string { return &w.ID },
		version: func(w *tiers.Webhook) int64 { return w.Version },
		ref:     func(_ *http.Request, id string) tiers.Ref { return tiers.WebhookRef(id) },
		read:    reads(a.catalogue.Webhook),
		create: func(w *tiers.Webhook) error {
			if w.ID != "" || w.Secret != "" {
				return &tierlimit.FieldError{Field: "id", Value: w.ID, Want: "left out, like the secret: both are made for you"}
			}
			*w = w.WithID(time.Now())
			return nil
		},
		shown: func(put, made tiers.Webhook) tiers.Webhook {
			made.Secret = put.Secret
			return made
		},
		prepare: func(w *tiers.Webhook) { w.CreatedAt, w.SecretAt = time.Time{}, time.Time{} }, // as they were, whatever is sent
		made:    true,
	}
}

// webhookOperations are the operations about webhooks and what they receive.
func (a *admin) webhookOperations(webhooks string) []operation {
	const (
		tag     = "Webhooks"
		down    = http.StatusServiceUnavailable
		missing = http.StatusNotFound
		one     = adminRoot + "/webhooks/{id}"
	)
	govern, look := []access.Right{access.Govern}, []access.Right{access.Read}
	return append([]operation{
		{
			method: http.MethodGet, path: webhooks, id: "list-webhooks", summary: "List webhooks, by id", tag: tag,
			rights: look, answer: "WebhookPage", fails: []int{down}, serve: a.listWebhooks,
		},
		{
			method: http.MethodPost, path: one + "/secret", id: "change-webhook-secret", tag: tag, rights: govern,
			summary: "Make a new secret, which is shown once; messages are signed with the previous one too, for a day",
			answer:  "Webhook", etag: true, fails: []int{missing, down}, serve: a.changeSecret,
		},
		{
			method: http.MethodPost, path: one + "/test", id: "test-webhook", summary: "Send a test message to a webhook", tag: tag, rights: govern,
			status: http.StatusAccepted, answer: "TestMessage", fails: []int{missing, down}, serve: a.testWebhook,
		},
		{
			method: http.MethodGet, path: one + "/deliveries", id: "list-deliveries", summary: "List what a webhook received or is to receive, the newest first", tag: tag,
			rights: look, answer: "DeliveryPage", fails: []int{missing, down}, serve: a.listDeliveries,
			query: append([]parameter{
				{name: "state", description: "only those in this state", schema: oneOf("pending", "delivered", "dead")},
			}, pages...),
		},
		{
			method: http.MethodPost, path: one + "/deliveries:resend", id: "resend-dead", summary: "Send all messages again that a webhook did not receive and that are dead", tag: tag,
			rights: govern, answer: "Resent", fails: []int{missing, down}, serve: a.resend,
		},
		{
			method: http.MethodPost, path: one + "/deliveries/{message}/resend", id: "resend-message", summary: "Send a message again, whatever its state", tag: tag,
			rights: govern, answer: "Resent", fails: []int{missing, down}, serve: a.resend,
		},
	}, a.webhook().operations(webhooks)...)
}

func (a *admin) listWebhooks(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := a.catalogue.Webhooks(r.Context())
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, page[tiers.Webhook]{Data: list})
	return nil
}

func (a *admin) changeSecret(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	for {
		was, err := a.catalogue.Webhook(r.Context(), pathValue(r, "id"))
		if err != nil {
			return err
		}
		next := was.WithNewSecret(time.Now())
		c := tiers.Command{Actor: actorOf(r), Operations: []tiers.Operation{{Ref: tiers.WebhookRef(was.ID), Expect: tiers.Version(was.Version), Put: next}}}
		result, err := a.do(r.Context(), c)
		if errors.Is(err, tiers.ErrStale) {
			continue // somebody else's secret stays in force beside the new one
		}
		if err != nil {
			return err
		}
		edit, _ := result.Made(0)
		made, ok := edit.After.(tiers.Webhook)
		if !ok {
			return fmt.Errorf("webhook %q has no new secret", was.ID)
		}
		made.Secret = next.Secret
		respondVersion(w, http.StatusOK, made.Version, made)
		return nil
	}
}

func (a *admin) testWebhook(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	message, err := a.catalogue.SendTest(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	respond(w, http.StatusAccepted, struct {
		Message string `json:"message"`
	}{message})
	return nil
}

func (a *admin) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	q, before, most, err := pageOf(r, "state")
	if err != nil {
		return err
	}
	f := tiers.DeliveryFilter{Webhook: pathValue(r, "id"), State: tiers.State(q.Get("state")), Before: before, Most: most + 1}
	if err := checkFilter(q, "state", f.State == "" || f.State.Valid(), "pending, delivered or dead"); err != nil {
		return err
	}
	if f.Before != "" && !strings.HasPrefix(f.Before, "msg_") {
		return &tierlimit.FieldError{Field: "cursor", Value: q.Get("cursor"), Want: "a next_cursor as it was sent"}
	}
	list, err := a.catalogue.Deliveries(r.Context(), f)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, pageOfThose(list, most, func(d *tiers.DeliveryState) string { return encodeCursor(d.ID) }))
	return nil
}

// resend sends a message again, or all dead ones if the path names none.
func (a *admin) resend(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	n, err := a.catalogue.Resend(r.Context(), pathValue(r, "id"), pathValue(r, "message"))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, struct {
		Messages int `json:"messages"`
	}{n})
	return nil
}
