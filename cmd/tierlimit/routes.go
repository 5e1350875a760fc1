package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
)

func routesCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "routes", Short: "See what requests cost by the file of TIERLIMIT_ROUTES", Args: cobra.NoArgs, RunE: help}
	var set settings
	var host string
	opts := options{{
		name: "routes", usage: "file that says what requests cost", required: true,
		want: "a YAML file of routes", parse: fileName(&set.routesFile),
	}}
	explain := &cobra.Command{
		Use: "explain METHOD PATH", Short: "Show which route a request matches, and what it would be charged", Args: cobra.ExactArgs(2),
		Example: "  tierlimit routes explain POST /v1/exports/7",
		RunE: func(cmd *cobra.Command, args []string) error {
			err := opts.resolve(cmd.Flags(), s.env)
			if err == nil {
				err = set.requests()
			}
			if err != nil {
				return usage(err)
			}
			r, err := http.NewRequestWithContext(cmd.Context(), args[0], "http://"+host+args[1], http.NoBody)
			if err != nil || !strings.HasPrefix(args[1], "/") || args[0] != strings.ToUpper(args[0]) {
				return usage(&tierlimit.FieldError{Field: "METHOD and PATH", Value: args[0] + " " + args[1], Want: "such as POST /v1/exports/7"})
			}
			r.RequestURI = args[1]
			if err := set.routes.CheckPath(r); err != nil {
				_, err = fmt.Fprintf(s.out, "refused with 400: %v\n", err)
				return err
			}
			charge, pattern := set.routes.Match(r)
			return printCharge(s, charge, pattern)
		},
	}
	opts.flags(explain.Flags())
	explain.Flags().StringVar(&host, "host", "localhost", "the host that is asked for")
	cmd.AddCommand(explain)
	return cmd
}

func printCharge(s streams, charge httplimit.Charge, pattern string) error {
	w := newTable(s.out)
	if pattern == "" {
		pattern = "none: what is not named is charged 1 under all limits without a scope"
	}
	fmt.Fprintf(w, "route\t%s\n", pattern)
	if charge.Skip {
		fmt.Fprintln(w, "charge\tnone: the request passes")
		return w.Flush()
	}
	scope, cost := charge.Scope, int64(1)
	if scope == "" {
		scope = "none"
	}
	if charge.Cost != nil {
		cost = *charge.Cost
	}
	fmt.Fprintf(w, "scope\t%s\ncost\t%s\n", scope, strconv.FormatInt(cost, 10))
	for _, limit := range slices.Sorted(maps.Keys(charge.Costs)) {
		fmt.Fprintf(w, "cost of %s\t%d\n", limit, charge.Costs[limit])
	}
	if charge.Hold > 0 {
		fmt.Fprintf(w, "hold\t%s, in the middleware\n", charge.Hold)
	}
	return w.Flush()
}
