package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
)

func usageCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "usage", Short: "See and reset what a subject has used", Args: cobra.NoArgs, RunE: help}
	var limits []string
	reset := adminCommand(s, "reset SUBJECT", "Forget what a subject has used", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			path := "/subjects/" + url.PathEscape(args[0]) + "/usage"
			if _, err := c.ask(ctx, http.MethodDelete, path, url.Values{"limit": limits}, "", nil); err != nil {
				return err
			}
			return getUsage(ctx, c, args)
		})
	reset.Flags().StringArrayVar(&limits, "limit", nil, "only of this limit; may stand several times")
	cmd.AddCommand(adminCommand(s, "get SUBJECT", "Show every window of a subject's plan", cobra.ExactArgs(1), getUsage), reset)
	return cmd
}

func getUsage(ctx context.Context, c *client, args []string) error {
	a, err := c.get(ctx, "/subjects/"+url.PathEscape(args[0])+"/usage", nil)
	if err != nil {
		return err
	}
	var used tierlimit.Usage
	if err := json.Unmarshal(a.body, &used); err != nil {
		return err
	}
	return c.show(a.body, func(w io.Writer) { printUsage(w, &used) })
}

func holdsCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "holds", Short: "See and release the holds that a subject has open", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		adminCommand(s, "list SUBJECT", "List the open holds of a subject", cobra.ExactArgs(1), listHolds),
		adminCommand(s, "release SUBJECT ID", "Give back what a hold has charged, and free its place", cobra.ExactArgs(2),
			func(ctx context.Context, c *client, args []string) error {
				path := "/subjects/" + url.PathEscape(args[0]) + "/holds/" + url.PathEscape(args[1])
				if _, err := c.ask(ctx, http.MethodDelete, path, nil, "", nil); err != nil {
					return err
				}
				return c.show(map[string]string{"released": args[1]}, func(w io.Writer) { fmt.Fprintln(w, "released a hold of", args[0]) })
			}),
	)
	return cmd
}

func listHolds(ctx context.Context, c *client, args []string) error {
	a, err := c.get(ctx, "/subjects/"+url.PathEscape(args[0])+"/holds", nil)
	if err != nil {
		return err
	}
	var open struct {
		Holds []struct {
			ID        string
			ExpiresAt time.Time `json:"expires_at"`
			Limits    []struct {
				Limit string
				Cost  int64
			}
		}
	}
	if err := json.Unmarshal(a.body, &open); err != nil {
		return err
	}
	return c.show(a.body, func(w io.Writer) {
		fmt.Fprintln(w, "EXPIRES\tCHARGED\tID")
		for _, h := range open.Holds {
			charged := ""
			for i, l := range h.Limits {
				if i > 0 {
					charged += ", "
				}
				charged += fmt.Sprintf("%s %d", l.Limit, l.Cost)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", instantOrDash(&h.ExpiresAt), orDash(charged), h.ID)
		}
	})
}
