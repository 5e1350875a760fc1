package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func subjectsCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "subjects", Short: "See and change subjects", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(listSubjectsCommand(s),
		adminCommand(s, "get ID", "Show a subject and what it has used", cobra.ExactArgs(1), getSubject),
		setSubjectCommand(s), deleteSubjectCommand(s), importSubjectsCommand(s), exportSubjectsCommand(s), moveSubjectsCommand(s))
	return cmd
}

func listSubjectsCommand(s streams) *cobra.Command {
	var filters func() url.Values
	cmd := adminCommand(s, "list", "List subjects", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		list, err := all[tiers.Subject](ctx, c, "/subjects", filters())
		if err != nil {
			return err
		}
		return c.show(list, func(w io.Writer) {
			fmt.Fprintln(w, "SUBJECT\tTIER\tSTATUS\tTRIAL\tNEXT")
			for i := range list {
				trial, next := "-", "-"
				if t := list[i].Trial; t != nil {
					trial = t.Tier + " until " + instantOrDash(&t.EndsAt)
				}
				if n := list[i].Next; n != nil {
					next = n.Tier + " at " + instantOrDash(&n.At)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", list[i].ID, list[i].Tier, list[i].Status, trial, next)
			}
		})
	})
	filters = subjectFilters(cmd)
	return cmd
}

// getSubject shows a subject and its usage. A subject that was never created is on the default
// tier and may have usage too.
func getSubject(ctx context.Context, c *client, args []string) error {
	path := "/subjects/" + url.PathEscape(args[0])
	a, err := c.get(ctx, path, nil)
	unknown := isStatus(err, http.StatusNotFound)
	if err != nil && !unknown {
		return err
	}
	u, err := c.get(ctx, path+"/usage", nil)
	var used tierlimit.Usage
	switch {
	case !unknown && isStatus(err, http.StatusServiceUnavailable): // what Postgres knows is known
		u.body = []byte("null")
	case err != nil:
		return err
	}
	if err := json.Unmarshal(u.body, &used); err != nil {
		return err
	}
	if unknown {
		return c.show(struct {
			Usage json.RawMessage `json:"usage"`
		}{u.body}, func(w io.Writer) {
			fmt.Fprintf(w, "subject\t%s, which nobody created\ntier\t%s, the default\n", args[0], used.Tier)
			printUsage(w, &used)
		})
	}
	var s tiers.Subject
	if err := json.Unmarshal(a.body, &s); err != nil {
		return err
	}
	return c.show(struct {
		Subject json.RawMessage `json:"subject"`
		Usage   json.RawMessage `json:"usage"`
	}{a.body, u.body}, func(w io.Writer) { printSubject(w, &s, &used) })
}

func printSubject(w io.Writer, s *tiers.Subject, used *tierlimit.Usage) {
	fmt.Fprintf(w, "subject\t%s\ntier\t%s\nstatus\t%s\n", s.ID, s.Tier, s.Status)
	if s.Trial != nil {
		fmt.Fprintf(w, "trial\t%s until %s\n", s.Trial.Tier, instantOrDash(&s.Trial.EndsAt))
	}
	if s.Next != nil {
		fmt.Fprintf(w, "next\t%s at %s\n", s.Next.Tier, instantOrDash(&s.Next.At))
	}
	if s.BillingAnchor != nil {
		fmt.Fprintf(w, "billing anchor\t%s\n", instantOrDash(s.BillingAnchor))
	}
	if s.GraceUntil != nil {
		fmt.Fprintf(w, "grace until\t%s\n", instantOrDash(s.GraceUntil))
	}
	if s.BlockedUntil != nil {
		fmt.Fprintf(w, "blocked until\t%s\n", instantOrDash(s.BlockedUntil))
	}
	if used.Windows == nil {
		fmt.Fprintln(w, "used\tunknown: Redis does not answer now")
	}
	printUsage(w, used)
}

func printUsage(w io.Writer, used *tierlimit.Usage) {
	for _, x := range used.Windows {
		used, window, reset := usedOf(&x, count(x.Max))
		fmt.Fprintf(w, "%s\t%s %s, from %s, %s\n", x.Limit, used, window, x.From, reset)
	}
}

func setSubjectCommand(s streams) *cobra.Command {
	var cmd *cobra.Command
	var dryRun bool
	cmd = adminCommand(s, "set ID", "Create a subject, or change some of what is known of it", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			patch, err := subjectPatch(cmd.Flags())
			if err != nil {
				return usage(err)
			}
			return setSubject(ctx, c, args[0], patch, dryRun)
		})
	cmd.Long = "Create a subject, or change some of what is known of it. What no flag names stays;\nan empty value takes away. Instants are written as 2026-12-01T00:00:00Z."
	fs := cmd.Flags()
	fs.String("tier", "", "the tier it is on")
	fs.String("trial", "", "a tier it tries, and until when: pro@2026-12-15T00:00:00Z")
	fs.String("next", "", "a tier it will be on, and from when: free@2027-01-01T00:00:00Z")
	fs.String("status", "", "active, past_due (with --grace-until) or suspended; it cannot be taken away")
	fs.String("grace-until", "", "when one that is past due is suspended")
	fs.String("billing-anchor", "", "when its billing periods begin")
	fs.String("blocked-until", "", "denied until then")
	fs.BoolVar(&dryRun, "dry-run", false, "show what it would do to its limits, and change nothing")
	return cmd
}

// subjectPatch is the merge patch that the flags ask for.
func subjectPatch(fs *pflag.FlagSet) (map[string]any, error) {
	patch := make(map[string]any)
	for flag, field := range map[string]string{
		"tier": "tier", "status": "status", "grace-until": "grace_until", "billing-anchor": "billing_anchor", "blocked-until": "blocked_until",
	} {
		if fs.Changed(flag) {
			if v, _ := fs.GetString(flag); v == "" {
				patch[field] = nil
			} else {
				patch[field] = v
			}
		}
	}
	for flag, instant := range map[string]string{"trial": "ends_at", "next": "at"} {
		if !fs.Changed(flag) {
			continue
		}
		v, _ := fs.GetString(flag)
		tier, at, ok := strings.Cut(v, "@")
		switch {
		case v == "":
			patch[flag] = nil
		case ok:
			patch[flag] = map[string]any{"tier": tier, instant: at}
		default:
			return nil, &tierlimit.FieldError{Field: "--" + flag, Value: v, Want: "a tier, @ and an instant, such as pro@2026-12-15T00:00:00Z"}
		}
	}
	if status, _ := fs.GetString("status"); status != "" && status != string(tiers.PastDue) && !fs.Changed("grace-until") {
		patch["grace_until"] = nil // which is of one past due alone
	}
	if len(patch) == 0 {
		return nil, &tierlimit.FieldError{Field: "set", Want: "told what to change: --tier, --trial, --next, --status, --grace-until, --billing-anchor or --blocked-until"}
	}
	return patch, nil
}

func setSubject(ctx context.Context, c *client, id string, patch map[string]any, dryRun bool) error {
	query := url.Values{}
	if dryRun {
		query.Set("dry_run", "true")
	}
	path := "/subjects/" + url.PathEscape(id)
	old, err := c.get(ctx, path, nil)
	var a answered
	switch {
	case err == nil:
		a, err = c.ask(ctx, http.MethodPatch, path, query, old.etag, patch)
	case isStatus(err, http.StatusNotFound):
		body := map[string]any{"id": id}
		for field, value := range patch {
			if value != nil {
				body[field] = value
			}
		}
		a, err = c.ask(ctx, http.MethodPost, "/subjects", query, "", body)
	}
	if err != nil {
		return err
	}
	if dryRun {
		return c.show(a.body, func(w io.Writer) { printEffect(w, a.body) })
	}
	if c.json {
		return c.show(a.body, nil)
	}
	c.json = false
	return getSubject(ctx, c, []string{id})
}

// printEffect shows what a change would do to one subject.
func printEffect(w io.Writer, body []byte) {
	var effect struct {
		After   json.RawMessage
		Changes []struct {
			Field    string
			From, To any
		}
		Along struct {
			Changes int
			Sample  []struct{ Action, Object, Detail string }
		}
		Affected struct {
			Refused string
			Limits  []struct {
				Limit         string
				Before, After *struct {
					Max  *int64
					From string
				}
				Used   *int64
				Denies *bool
			}
		}
	}
	if err := json.Unmarshal(body, &effect); err != nil {
		fmt.Fprintln(w, string(body))
		return
	}
	for _, one := range effect.Along.Sample {
		fmt.Fprintf(w, "%s\t%s\n", one.Action, strings.TrimSpace(one.Object+" "+one.Detail))
	}
	if more := effect.Along.Changes - len(effect.Along.Sample); more > 0 {
		fmt.Fprintf(w, "and %d others\n", more)
	}
	for _, change := range effect.Changes {
		if string(effect.After) == "null" { // the whole thing goes
			fmt.Fprintf(w, "%s\t%s -> none\n", change.Field, shownJSON("", change.From))
			continue
		}
		fmt.Fprintf(w, "%s\t%s -> %s\n", change.Field, shownJSON(change.Field, change.From), shownJSON(change.Field, change.To))
	}
	for _, l := range effect.Affected.Limits {
		note := ""
		if l.Denies != nil && *l.Denies {
			note = "\twould be denied at once"
		}
		most := func(m *struct {
			Max  *int64
			From string
		},
		) string {
			switch {
			case m == nil:
				return "none"
			case m.Max == nil:
				return "unlimited"
			default:
				return count(*m.Max)
			}
		}
		used := "unknown"
		if l.Used != nil {
			used = count(*l.Used)
		}
		fmt.Fprintf(w, "%s\t%s -> %s\tused %s%s\n", l.Limit, most(l.Before), most(l.After), used, note)
	}
	if effect.Affected.Refused != "" {
		fmt.Fprintf(w, "every request would be denied\t%s\n", effect.Affected.Refused)
	}
	fmt.Fprintln(w, "nothing was changed")
}
