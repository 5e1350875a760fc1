package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

func loadCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "load", Short: "See and change what CPU load does to adaptive limits", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(adminCommand(s, "get", "Show the mode and the pins", cobra.NoArgs, getLoad), setLoadCommand(s), loadStatusCommand(s))
	return cmd
}

func loadStatusCommand(s streams) *cobra.Command {
	var url, token string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show how busy what is protected is, by whose readings, and what follows for each tier", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkURL("--url", url); err != nil {
				return usage(err)
			}
			body, err := ask(cmd.Context(), http.MethodGet, url, "/v1/load", token, nil)
			if err != nil {
				return err
			}
			var status load.Status
			if err := json.Unmarshal(body, &status); err != nil {
				return fmt.Errorf("read the load: %w", err)
			}
			c := &client{out: s.out, json: asJSON}
			return c.show(json.RawMessage(body), func(w io.Writer) { showStatus(w, &status) })
		},
	}
	serverFlags(cmd, s, &url, &token)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for scripts")
	return cmd
}

func showStatus(w io.Writer, s *load.Status) {
	seconds := func(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 1, 64) + "s ago" }
	by := map[bool]string{true: "by all replicas", false: "by this replica alone"}[s.Agreed]
	of := "nothing that counts is known"
	if s.AgeMS >= 0 {
		of = percent(s.CPU) + ", smoothed " + percent(s.Smoothed)
	}
	fmt.Fprintf(w, "mode\t%s\nload\t%s\nagreed\t%s\n\n", s.Mode, of, by)
	for _, r := range s.Readings {
		counts := map[bool]string{true: "counts", false: "does not count"}[r.Counts]
		fmt.Fprintf(w, "%s\t%s of %s CPUs, %s, %s (%s)\n", r.Source, percent(r.CPU), number(r.Capacity), seconds(r.AgeMS), counts, r.Kind)
	}
	fmt.Fprintln(w)
	for _, tier := range slices.Sorted(maps.Keys(s.Tiers)) {
		t := s.Tiers[tier]
		note := ""
		switch {
		case t.Pinned:
			note = ", pinned; by load x" + number(t.Computed)
		case t.Multiplier != t.Computed:
			note = "; x" + number(t.Computed) + " under enforce"
		}
		fmt.Fprintf(w, "%s\tx%s%s\n", tier, number(t.Multiplier), note)
	}
}

func percent(part float64) string { return strconv.FormatFloat(100*part, 'f', 1, 64) + " %" }

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func getLoad(ctx context.Context, c *client, _ []string) error {
	a, err := c.get(ctx, "/load", nil)
	if err != nil {
		return err
	}
	return showLoad(c, a.body)
}

func showLoad(c *client, body []byte) error {
	var l tiers.LoadControl
	if err := json.Unmarshal(body, &l); err != nil {
		return err
	}
	return c.show(json.RawMessage(body), func(w io.Writer) {
		mode := l.Mode
		if mode == "" {
			mode = "as each replica is configured"
		}
		fmt.Fprintf(w, "mode\t%s\n", mode)
		for _, tier := range slices.Sorted(maps.Keys(l.Pins)) {
			p := l.Pins[tier]
			until := "until it is taken away"
			if p.ExpiresAt != nil {
				until = "until " + instantOrDash(p.ExpiresAt)
			}
			fmt.Fprintf(w, "%s\tx%s %s\n", tier, number(p.Multiplier), until)
		}
	})
}

func setLoadCommand(s streams) *cobra.Command {
	var cmd *cobra.Command
	cmd = adminCommand(s, "set", "Change the mode, or pin a tier's multiplier", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			patch := make(map[string]any)
			if cmd.Flags().Changed("mode") {
				patch["mode"], _ = cmd.Flags().GetString("mode")
			}
			pins := make(map[string]any)
			list, _ := cmd.Flags().GetStringSlice("pin")
			for _, text := range list {
				tier, pin, err := parsePin(text)
				if err != nil {
					return usage(err)
				}
				pins[tier] = pin
			}
			gone, _ := cmd.Flags().GetStringSlice("unpin")
			for _, tier := range gone {
				if pins[tier] != nil {
					return usage(&tierlimit.FieldError{Field: "--unpin", Value: tier, Want: "a tier that --pin does not name"})
				}
				pins[tier] = nil
			}
			if len(pins) > 0 {
				patch["pins"] = pins
			}
			if len(patch) == 0 {
				return usage(&tierlimit.FieldError{Field: "set", Want: "told what to change: --mode, --pin or --unpin"})
			}
			old, err := c.get(ctx, "/load", nil)
			if err != nil {
				return err
			}
			a, err := c.ask(ctx, http.MethodPatch, "/load", nil, old.etag, patch)
			if err != nil {
				return err
			}
			return showLoad(c, a.body)
		})
	cmd.Flags().String("mode", "", `off, observe or enforce; "" as each replica is configured`)
	cmd.Flags().StringSlice("pin", nil, "a tier's multiplier in place of what the CPU tells: free=0.5, or free=0.5@2026-12-01T00:00:00Z")
	cmd.Flags().StringSlice("unpin", nil, "a tier whose pin is taken away")
	return cmd
}

// parsePin parses tier=multiplier or tier=multiplier@instant.
func parsePin(text string) (tier string, pin map[string]any, err error) {
	tier, rest, ok := strings.Cut(text, "=")
	number, until, dated := strings.Cut(rest, "@")
	multiplier, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil {
		return "", nil, &tierlimit.FieldError{Field: "--pin", Value: text, Want: "a tier, = and a multiplier from 0.05 to 1, such as free=0.5"}
	}
	pin = map[string]any{"multiplier": multiplier, "expires_at": nil} // not that of an older pin
	if dated {
		pin["expires_at"] = until
	}
	return tier, pin, nil
}
