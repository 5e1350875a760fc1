package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit/tiers"
)

const webhooksPath = "/webhooks"

func webhooksCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "webhooks", Short: "See and change who is told of events, and what they received", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		listWebhooksCommand(s), createWebhookCommand(s), setWebhookCommand(s),
		removal{
			use: "delete ID", short: "Delete a webhook with its deliveries", args: 1, versioned: true,
			path: func(args []string) string { return webhookPath(args[0]) }, done: did("deleted"),
		}.command(s),
		secretCommand(s), testWebhookCommand(s), deliveriesCommand(s), resendCommand(s),
	)
	return cmd
}

func webhookPath(id string) string { return webhooksPath + "/" + url.PathEscape(id) }

func listWebhooksCommand(s streams) *cobra.Command {
	return adminCommand(s, "list", "List webhooks", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		list, err := all[tiers.Webhook](ctx, c, webhooksPath, nil)
		if err != nil {
			return err
		}
		return c.show(list, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tNAME\tURL\tEVENTS\tPAUSED\tSECRET FROM")
			for i := range list {
				one := &list[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%t\t%s\n", one.ID, one.Name, one.URL, one.Events, one.Paused, instantOrDash(&one.SecretAt))
			}
		})
	})
}

func createWebhookCommand(s streams) *cobra.Command {
	var name string
	var types []string
	cmd := adminCommand(s, "create URL", "Create a webhook; the secret that signs its messages is shown once", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			a, err := c.ask(ctx, http.MethodPost, webhooksPath, nil, "", map[string]any{"name": name, "url": args[0], "events": types})
			if err != nil {
				return err
			}
			return c.showSecret(a.body)
		})
	cmd.Flags().StringVar(&name, "name", "", "what it is called")
	cmd.Flags().StringSliceVar(&types, "events", []string{tiers.LimitThreshold, tiers.LimitRecovered}, "what it is told of: limit.threshold, limit.recovered, subject.changed")
	_ = cmd.MarkFlagRequired("name") // it is there
	return cmd
}

// showSecret prints a webhook with a new secret.
func (c *client) showSecret(body []byte) error {
	var made tiers.Webhook
	if err := json.Unmarshal(body, &made); err != nil {
		return err
	}
	return c.show(body, func(w io.Writer) {
		fmt.Fprintf(w, "%s\nid %s. Keep the secret above now: it is not shown again.\n", made.Secret, made.ID)
	})
}

func setWebhookCommand(s streams) *cobra.Command {
	var name, target string
	var types []string
	var paused bool
	var cmd *cobra.Command
	cmd = adminCommand(s, "set ID", "Change a webhook; what is not named stays", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		patch := make(map[string]any)
		for flag, value := range map[string]any{"name": name, "url": target, "events": types, "paused": paused} {
			if cmd.Flags().Changed(flag) {
				patch[flag] = value
			}
		}
		a, err := c.ask(ctx, http.MethodPatch, webhookPath(args[0]), nil, "*", patch)
		if err != nil {
			return err
		}
		return c.show(a.body, func(w io.Writer) { fmt.Fprintf(w, "changed %s\n", args[0]) })
	})
	cmd.Flags().StringVar(&name, "name", "", "what it is called")
	cmd.Flags().StringVar(&target, "url", "", "where messages are sent")
	cmd.Flags().StringSliceVar(&types, "events", nil, "what it is told of")
	cmd.Flags().BoolVar(&paused, "paused", false, "keep messages, for a week at most, and do not send them")
	return cmd
}

func secretCommand(s streams) *cobra.Command {
	return adminCommand(s, "secret ID", "Make a new secret, which is shown once; the previous one signs too, for a day", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			a, err := c.ask(ctx, http.MethodPost, webhookPath(args[0])+"/secret", nil, "", nil)
			if err != nil {
				return err
			}
			return c.showSecret(a.body)
		})
}

func testWebhookCommand(s streams) *cobra.Command {
	return adminCommand(s, "test ID", "Send a test message to a webhook", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		a, err := c.ask(ctx, http.MethodPost, webhookPath(args[0])+"/test", nil, "", nil)
		if err != nil {
			return err
		}
		var sent struct{ Message string }
		if err := json.Unmarshal(a.body, &sent); err != nil {
			return err
		}
		return c.show(a.body, func(w io.Writer) {
			fmt.Fprintf(w, "%s waits to be sent; `tierlimit webhooks deliveries %s` says what came of it\n", sent.Message, args[0])
		})
	})
}

func deliveriesCommand(s streams) *cobra.Command {
	var state string
	var most int
	cmd := adminCommand(s, "deliveries ID", "List the messages of a webhook, the newest first", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		query := url.Values{"limit": {strconv.Itoa(most)}}
		if state != "" {
			query.Set("state", state)
		}
		a, err := c.get(ctx, webhookPath(args[0])+"/deliveries", query)
		if err != nil {
			return err
		}
		var list struct{ Data []tiers.DeliveryState }
		if err := json.Unmarshal(a.body, &list); err != nil {
			return err
		}
		return c.show(a.body, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tAT\tTYPE\tSUBJECT\tSTATE\tATTEMPTS\tNEXT\tLAST ERROR")
			for i := range list.Data {
				d := &list.Data[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, d.At.Format(time.RFC3339), d.Type, d.Subject, d.State, d.Attempts, instantOrDash(d.DueAt), d.LastError)
			}
		})
	})
	cmd.Flags().StringVar(&state, "state", "", "only those that are pending, delivered or dead")
	cmd.Flags().IntVar(&most, "limit", 50, "how many at most, up to 500")
	return cmd
}

func resendCommand(s streams) *cobra.Command {
	return adminCommand(s, "resend ID [MESSAGE]", "Send a message again, or all dead ones", cobra.RangeArgs(1, 2), func(ctx context.Context, c *client, args []string) error {
		path := webhookPath(args[0]) + "/deliveries:resend"
		if len(args) == 2 {
			path = webhookPath(args[0]) + "/deliveries/" + url.PathEscape(args[1]) + "/resend"
		}
		a, err := c.ask(ctx, http.MethodPost, path, nil, "", nil)
		if err != nil {
			return err
		}
		var sent struct{ Messages int }
		if err := json.Unmarshal(a.body, &sent); err != nil {
			return err
		}
		return c.show(a.body, func(w io.Writer) { fmt.Fprintf(w, "sent again: %d\n", sent.Messages) })
	})
}
