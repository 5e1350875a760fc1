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

	"github.com/tierlimit/tierlimit/observe/denials"
)

func denialsCommand(s streams) *cobra.Command {
	var tier string
	var most int
	cmd := adminCommand(s, "denials [SUBJECT]", "Show who is denied most, about how often, or the last denials of a subject and why", cobra.MaximumNArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			if len(args) == 1 {
				return subjectDenials(ctx, c, args[0])
			}
			query := url.Values{"limit": {strconv.Itoa(most)}}
			if tier != "" {
				query.Set("tier", tier)
			}
			a, err := c.get(ctx, "/denials", query)
			if err != nil {
				return err
			}
			var report denials.Report
			if err := json.Unmarshal(a.body, &report); err != nil {
				return err
			}
			return c.show(a.body, func(w io.Writer) {
				fmt.Fprintln(w, "DENIED\tSUBJECT\tTIER\tLAST\tREASON\tLIMIT")
				for _, t := range report.Items {
					count := strconv.FormatInt(t.Denied, 10)
					if t.Error > 0 {
						count = fmt.Sprintf("%d to %d", t.Denied-t.Error, t.Denied)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", count, t.Subject, t.Tier, t.Last.At.Format(time.RFC3339), t.Last.Reason, t.Last.Limit)
				}
			})
		})
	cmd.Flags().StringVar(&tier, "tier", "", "only subjects of this tier")
	cmd.Flags().IntVar(&most, "limit", 50, "how many at most, up to 500")
	return cmd
}

func subjectDenials(ctx context.Context, c *client, subject string) error {
	a, err := c.get(ctx, "/subjects/"+url.PathEscape(subject)+"/denials", nil)
	if err != nil {
		return err
	}
	var answer struct{ Items []denials.Denial }
	if err := json.Unmarshal(a.body, &answer); err != nil {
		return err
	}
	return c.show(a.body, func(w io.Writer) { printDenials(w, answer.Items) })
}

func printDenials(w io.Writer, list []denials.Denial) {
	fmt.Fprintln(w, "AT\tREASON\tLIMIT\tUSED\tMAX\tCOST\tSCOPE\tREPLICA")
	for _, d := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", d.At.Format(time.RFC3339), d.Reason, d.Limit, d.Used, d.Max, d.Cost, d.Scope, d.Replica)
	}
}

func explainCommand(s streams) *cobra.Command {
	var scope string
	var cost int64
	var cmd *cobra.Command
	cmd = adminCommand(s, "explain SUBJECT", "Say step by step what would happen to a request of a subject, and why", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			query := url.Values{"cost": {strconv.FormatInt(cost, 10)}}
			if cmd.Flags().Changed("scope") {
				query.Set("scope", scope)
			}
			a, err := c.get(ctx, "/subjects/"+url.PathEscape(args[0])+"/explain", query)
			if err != nil {
				return err
			}
			var answer struct {
				Steps   []struct{ Step, Text string }
				Denials []denials.Denial
			}
			if err := json.Unmarshal(a.body, &answer); err != nil {
				return err
			}
			return c.show(a.body, func(w io.Writer) {
				for _, one := range answer.Steps {
					fmt.Fprintf(w, "%s\t%s\n", one.Step, one.Text)
				}
				for i, d := range answer.Denials {
					if i == 0 {
						fmt.Fprintln(w, "\t")
					}
					fmt.Fprintf(w, "denied\tat %s by %s: %s, %d of %d used\n", d.At.Format(time.RFC3339), d.Limit, d.Reason, d.Used, d.Max)
				}
			})
		})
	cmd.Flags().StringVar(&scope, "scope", "", "the scope of the request")
	cmd.Flags().Int64Var(&cost, "cost", 1, "what the request would cost")
	return cmd
}
