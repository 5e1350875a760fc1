package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func overridesCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "overrides", Short: "See and change dated exceptions for one subject", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		adminCommand(s, "list SUBJECT", "List the overrides of a subject", cobra.ExactArgs(1), listOverrides),
		setOverrideCommand(s),
		removal{
			use: "delete SUBJECT LIMIT", short: "Delete an override", args: 2, versioned: true, path: overridePath,
			done: func(ctx context.Context, c *client, args []string) error { return getSubject(ctx, c, args[:1]) },
		}.command(s),
	)
	return cmd
}

func overridePath(args []string) string {
	return "/subjects/" + url.PathEscape(args[0]) + "/overrides/" + url.PathEscape(args[1])
}

func listOverrides(ctx context.Context, c *client, args []string) error {
	list, err := all[tiers.Override](ctx, c, "/subjects/"+url.PathEscape(args[0])+"/overrides", nil)
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) {
		fmt.Fprintln(w, "LIMIT\tMAX\tSTARTS\tEXPIRES\tREASON")
		for _, o := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", o.Limit, count(o.Max), instantOrDash(&o.StartsAt), instantOrDash(&o.ExpiresAt), o.Reason)
		}
	})
}

func setOverrideCommand(s streams) *cobra.Command {
	var cmd *cobra.Command
	var dryRun bool
	cmd = adminCommand(s, "set SUBJECT LIMIT", "Create an override, or change one", cobra.ExactArgs(2),
		func(ctx context.Context, c *client, args []string) error {
			body := make(map[string]any)
			for flag, field := range map[string]string{"from": "starts_at", "until": "expires_at", "reason": "reason"} {
				if cmd.Flags().Changed(flag) {
					body[field], _ = cmd.Flags().GetString(flag)
				}
			}
			switch most, _ := cmd.Flags().GetString("max"); {
			case !cmd.Flags().Changed("max"):
			case most == "unlimited":
				body["max"] = nil
			case json.Unmarshal([]byte(most), new(int64)) != nil:
				return usage(&tierlimit.FieldError{Field: "--max", Value: most, Want: "a whole number, or unlimited"})
			default:
				body["max"] = json.RawMessage(most)
			}
			return setOverride(ctx, c, args, body, dryRun)
		})
	fs := cmd.Flags()
	fs.String("max", "", "the limit's max meanwhile: a whole number, or unlimited")
	fs.String("from", "", "when it begins, such as 2026-12-01T00:00:00Z; now if it is left out")
	fs.String("until", "", "when it expires")
	fs.String("reason", "", "why, for people")
	fs.BoolVar(&dryRun, "dry-run", false, "show what it would do to the limit, and change nothing")
	return cmd
}

func setOverride(ctx context.Context, c *client, args []string, body map[string]any, dryRun bool) error {
	query := url.Values{}
	if dryRun {
		query.Set("dry_run", "true")
	}
	path := overridePath(args)
	old, err := c.get(ctx, path, nil)
	var a answered
	switch {
	case err == nil:
		a, err = c.ask(ctx, http.MethodPatch, path, query, old.etag, body)
	case isStatus(err, http.StatusNotFound):
		body["limit"] = args[1]
		a, err = c.ask(ctx, http.MethodPost, "/subjects/"+url.PathEscape(args[0])+"/overrides", query, "", body)
	}
	switch {
	case err != nil:
		return err
	case dryRun:
		return c.show(a.body, func(w io.Writer) { printEffect(w, a.body) })
	case c.json:
		return c.show(a.body, nil)
	}
	return getSubject(ctx, c, args[:1])
}
