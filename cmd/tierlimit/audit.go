package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/tiers"
)

func auditCommand(s streams) *cobra.Command {
	filters := make(map[string]*string)
	var most int
	cmd := adminCommand(s, "audit", "Show what administrators did, the newest first", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(most)}}
			for name, value := range filters {
				if *value != "" {
					query.Set(name, *value)
				}
			}
			a, err := c.get(ctx, "/audit", query)
			if err != nil {
				return err
			}
			var list page[tiers.Event]
			if err := json.Unmarshal(a.body, &list); err != nil {
				return err
			}
			return c.show(list.Data, func(w io.Writer) { printEvents(w, list.Data) })
		})
	for name, text := range map[string]string{
		"kind": "only changes of this kind of thing", "object": "only of this one; of a subject its keys too", "actor": "only by this one",
		"since": "only from this instant on, such as 2026-12-01T00:00:00Z", "until": "only before this instant",
	} {
		filters[name] = cmd.Flags().String(name, "", text)
	}
	cmd.AddCommand(auditErase(s))
	cmd.Flags().IntVar(&most, "limit", 50, "how many at most, up to 500")
	return cmd
}

func auditErase(s streams) *cobra.Command {
	var subject, actor, before string
	var dryRun bool
	var cmd *cobra.Command
	cmd = adminCommand(s, "erase", "Erase a subject or an actor from the audit log, or all that is old", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			body := make(map[string]string) // what is given and empty is sent, and refused
			for flag, value := range map[string]string{"subject": subject, "actor-id": actor, "before": before} {
				if cmd.Flags().Changed(flag) {
					body[strings.ReplaceAll(flag, "-", "_")] = value
				}
			}
			if len(body) != 1 {
				return usage(errors.New("give one of --subject, --actor-id and --before"))
			}
			query := make(url.Values)
			if dryRun {
				query.Set("dry_run", "true")
			}
			a, err := c.ask(ctx, http.MethodPost, "/audit:erase", query, "", body)
			if err != nil {
				return err
			}
			var done struct{ Events int }
			if err := json.Unmarshal(a.body, &done); err != nil {
				return err
			}
			return c.show(a.body, func(w io.Writer) {
				if dryRun {
					fmt.Fprintf(w, "would erase %d events; nothing was changed\n", done.Events)
				} else {
					fmt.Fprintf(w, "erased %d events\n", done.Events)
				}
			})
		})
	cmd.Flags().StringVar(&subject, "subject", "", "events of this subject lose its id, and what it was before and after")
	cmd.Flags().StringVar(&actor, "actor-id", "", "events of this actor lose the actor's name")
	cmd.Flags().StringVar(&before, "before", "", "events before this instant are deleted, such as 2025-12-01T00:00:00Z")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "count the events, and change nothing")
	return cmd
}

func printEvents(w io.Writer, list []tiers.Event) {
	fmt.Fprintln(w, "AT\tACTOR\tACTION\tOBJECT\tCHANGES")
	for i := range list {
		e := &list[i]
		changed := ""
		if len(e.Before) > 0 && len(e.After) > 0 && string(e.Before) != "null" && string(e.After) != "null" {
			changes, _ := jsondiff.Of(e.Before, e.After) // the server sends valid JSON
			for _, change := range changes {
				if change.Field != "version" {
					changed += fmt.Sprintf("%s %s -> %s  ", change.Field, shownJSON(change.Field, change.From), shownJSON(change.Field, change.To))
				}
			}
		}
		object := e.Object
		if e.Detail != "" {
			object += " " + e.Detail
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", instantOrDash(&e.At), e.Actor, e.Action, object, orDash(changed))
	}
}
