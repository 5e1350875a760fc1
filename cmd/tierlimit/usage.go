package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
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
	cmd.AddCommand(adminCommand(s, "get SUBJECT", "Show every window of a subject's plan", cobra.ExactArgs(1), getUsage), reset, nearCommand(s), historyCommand(s))
	return cmd
}

func nearCommand(s streams) *cobra.Command {
	var over float64
	var most int
	cmd := adminCommand(s, "near", "Show who has used most of a limit of a day or longer: who may want a bigger plan", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			a, err := c.get(ctx, "/usage/near", url.Values{"over": {strconv.FormatFloat(over, 'g', -1, 64)}, "limit": {strconv.Itoa(most)}})
			if err != nil {
				return err
			}
			var list page[struct {
				Subject, Tier, Limit string
				Used, Max            int64
				EndsAt               time.Time `json:"ends_at"`
			}]
			if err := json.Unmarshal(a.body, &list); err != nil {
				return err
			}
			return c.show(a.body, func(w io.Writer) {
				fmt.Fprintln(w, "SUBJECT\tTIER\tLIMIT\tUSED\tMAX\tENDS")
				for _, n := range list.Data {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", n.Subject, n.Tier, n.Limit, n.Used, n.Max, n.EndsAt.Format(time.RFC3339))
				}
			})
		})
	cmd.Flags().Float64Var(&over, "over", 0.8, "the part of the max that is used at least, 0.5 to 2")
	cmd.Flags().IntVar(&most, "limit", 50, "how many at most, up to 500")
	return cmd
}

func historyCommand(s streams) *cobra.Command {
	var of string
	var most int
	cmd := adminCommand(s, "history SUBJECT", "Show what a subject used of each window of a day or longer, the latest first", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			query := url.Values{"limit": {strconv.Itoa(most)}}
			if of != "" {
				query.Set("of", of)
			}
			a, err := c.get(ctx, "/subjects/"+url.PathEscape(args[0])+"/usage/history", query)
			if err != nil {
				return err
			}
			var list page[tiers.WindowUsage]
			if err := json.Unmarshal(a.body, &list); err != nil {
				return err
			}
			return c.show(a.body, func(w io.Writer) {
				fmt.Fprintln(w, "ENDS\tLIMIT\tUSED\tMAX")
				for _, u := range list.Data {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", u.EndsAt.Format(time.RFC3339), u.Limit, u.Used, u.Max)
				}
			})
		})
	cmd.Flags().StringVar(&of, "of", "", "only of this limit")
	cmd.Flags().IntVar(&most, "limit", 50, "how many windows at most, up to 500")
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
