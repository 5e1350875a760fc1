package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit/migrations"
)

func migrateCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the database to the schema (serve does it too)", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		migrateStep(s, "up", "Apply what is missing", migrateUp),
		migrateStep(s, "status", "Show what is applied", migrateStatus),
		migrateGrant(s),
	)
	return cmd
}

func migrateStep(s streams, use, short string, do func(context.Context, streams, string) error) *cobra.Command {
	var set settings
	return options{set.database()}.command(s, use, short, func(ctx context.Context) error {
		return do(ctx, s, set.databaseURL)
	})
}

// migrateGrant lets serve run as a role that owns nothing, and so cannot rewrite
// the audit log.
func migrateGrant(s streams) *cobra.Command {
	var set settings
	var role string
	opts := options{set.database(), {
		name: "role", usage: "the role that serve will use", required: true,
		want: "the name of a role that exists", parse: func(v string) error { role = v; return nil },
	}}
	return opts.command(s, "grant", "Give another role what serve needs, and no more; again after each migration", func(ctx context.Context) error {
		if err := migrations.Grant(ctx, set.databaseURL, role); err != nil {
			return err
		}
		_, err := fmt.Fprintln(s.out, "granted to", role)
		return err
	})
}

func migrateUp(ctx context.Context, s streams, url string) error {
	steps, err := migrations.Up(ctx, url)
	for _, step := range steps {
		fmt.Fprintln(s.out, "applied", step.Name)
	}
	switch {
	case errors.Is(err, migrations.ErrNewer):
		// After a way back to an older release: the schema has all that this release needs.
		fmt.Fprintf(s.out, "nothing to apply: %v\n", err)
		return nil
	case err == nil && len(steps) == 0:
		fmt.Fprintln(s.out, "nothing to apply")
	}
	return err
}

func migrateStatus(ctx context.Context, s streams, url string) error {
	steps, err := migrations.Status(ctx, url)
	if err != nil {
		return err
	}
	w := newTable(s.out)
	for _, step := range steps {
		when := "missing"
		if step.Applied {
			when = step.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\n", step.Name, when)
	}
	return w.Flush()
}
