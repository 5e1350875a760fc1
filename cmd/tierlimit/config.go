package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func configCommand(s streams) *cobra.Command {
	var set settings
	opts := set.serve()
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the configuration serve would run with, secrets hidden",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wrong := opts.resolve(cmd.Flags(), s.env)
			if wrong == nil {
				wrong = set.validate()
			}
			w := newTable(s.out)
			for _, o := range opts {
				fmt.Fprintf(w, "%s\t%s\t%s\n", o.env(), o.shown(), o.source)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if wrong != nil {
				return usage(wrong)
			}
			return nil
		},
	}
	opts.flags(cmd.Flags())
	return cmd
}
