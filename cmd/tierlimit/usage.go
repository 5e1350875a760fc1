package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
)

func usageCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "usage", Short: "See and reset what a subject has used", Args: cobra.NoArgs, RunE: help}
	var limits []string
	reset := removal{
		use: "reset SUBJECT", short: "Forget what a subject has used", args: 1,
		path:  func(args []string) string { return "/subjects/" + url.PathEscape(args[0]) + "/usage" },
		query: func() url.Values { return url.Values{"limit": limits} }, done: getUsage,
	}.command(s)
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
		removal{
			use: "release SUBJECT ID", short: "Give back what a hold has charged, and free its place", args: 2,
			path: func(args []string) string {
				return "/subjects/" + url.PathEscape(args[0]) + "/holds/" + url.PathEscape(args[1])
			},
			done: did("released"),
		}.command(s),
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
