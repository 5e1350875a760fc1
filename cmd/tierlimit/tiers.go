package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func tiersCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "tiers", Short: "See and change tiers", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		adminCommand(s, "list", "List all tiers and their limits", cobra.NoArgs, listTiers),
		adminCommand(s, "get KEY", "Show one tier as YAML", cobra.ExactArgs(1), getTier),
		adminCommand(s, "export", "Print all tiers as YAML, ready for apply", cobra.NoArgs, exportTiers),
		applyCommand(s),
	)
	return cmd
}

func listTiers(ctx context.Context, c *client, _ []string) error {
	list, err := all[tiers.Tier](ctx, c, "/tiers", nil)
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) {
		fmt.Fprintln(w, "TIER\tNAME\tPRIORITY\tLIMIT\tMAX\tWINDOW\tSCOPE\tNOTES")
		for _, t := range list {
			key, name, priority := t.Key, t.Name, fmt.Sprint(t.Priority)
			if t.Default {
				key += " (default)"
			}
			for _, limit := range slices.Sorted(maps.Keys(t.Limits)) {
				l := t.Limits[limit]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key, name, priority, limit, count(l.Max), over(l.Algorithm, l.Window), orDash(l.Scope), notes(l))
				key, name, priority = "", "", ""
			}
		}
	})
}

// over describes the window of a limit.
func over(a tierlimit.Algorithm, w tierlimit.Window) string {
	if a == tierlimit.Concurrent {
		return "at a time"
	}
	return w.String()
}

// notes are what a limit is beside its max.
func notes(l tiers.Limit) string {
	var list []string
	for note, is := range map[string]bool{
		"adaptive": l.Adaptive, "shadow": l.Shadow, "billing period": l.Anchor == tiers.AnchorBilling, "spread period": l.Anchor == tiers.AnchorSpread, "sliding": l.Algorithm == tierlimit.Sliding,
		"given back when a hold expires": l.OnExpiry == tierlimit.ReleaseOnExpiry,
	} {
		if is {
			list = append(list, note)
		}
	}
	slices.Sort(list)
	return orDash(strings.Join(list, ", "))
}

func getTier(ctx context.Context, c *client, args []string) error {
	a, err := c.get(ctx, "/tiers/"+url.PathEscape(args[0]), nil)
	if err != nil {
		return err
	}
	var t tiers.Tier
	if err := json.Unmarshal(a.body, &t); err != nil {
		return err
	}
	if c.json {
		return c.show(t, nil)
	}
	return writeYAML(c.out, t)
}

func exportTiers(ctx context.Context, c *client, _ []string) error {
	list, err := all[tiers.Tier](ctx, c, "/tiers", nil)
	if err != nil {
		return err
	}
	file := tierFile{Tiers: make([]json.RawMessage, len(list))}
	for i := range list {
		if file.Tiers[i], err = plain(&list[i]); err != nil {
			return err
		}
	}
	if c.json {
		return c.show(file, nil)
	}
	return writeYAML(c.out, file)
}

// plain is a tier without its version, which is of one server.
func plain(t *tiers.Tier) (json.RawMessage, error) {
	copied := *t
	copied.Version = 0
	return json.Marshal(copied)
}

func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if text, err = yaml.JSONToYAML(text); err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
