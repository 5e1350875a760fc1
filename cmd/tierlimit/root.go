package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// streams is all of the process that commands may touch.
type streams struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) (string, bool)
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for did not happen
	exitUsage  = 2 // the command line or the configuration is wrong
	exitDenied = 3 // take: it happened, and was denied
)

// A codedError ends the process with its code; a nil cause has been told
// already.
type codedError struct {
	code  int
	cause error
}

func (e *codedError) Error() string {
	if e.cause == nil {
		return ""
	}
	return e.cause.Error()
}

func (e *codedError) Unwrap() error { return e.cause }

func usage(err error) error { return &codedError{code: exitUsage, cause: err} }

// run is main without the process, for main and for tests.
func run(ctx context.Context, args []string, s streams) int {
	root := &cobra.Command{
		Use:           "tierlimit",
		Short:         "Hold every customer of an API to the plan they pay for",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(
		devCommand(s), serveCommand(s), migrateCommand(s), takeCommand(s), settleCommand(s), renewCommand(s),
		tiersCommand(s), subjectsCommand(s), overridesCommand(s), usageCommand(s), holdsCommand(s), keysCommand(s), tokensCommand(s), webhooksCommand(s),
		loadCommand(s), denialsCommand(s), explainCommand(s), auditCommand(s), routesCommand(s),
		benchCommand(s), configCommand(s), versionCommand(s),
	)
	argumentsAreUsage(root)
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(s.err, "tierlimit:", strings.TrimSuffix(line, "\n"))
	}
	var coded *codedError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case strings.HasPrefix(err.Error(), "required flag"): // as cobra says it, by no type
		return exitUsage
	}
	return exitFailed
}

// argumentsAreUsage has wrong arguments of cmd and its commands exit with exitUsage.
func argumentsAreUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			return usage(fmt.Errorf("%w\nusage: %s", err, cmd.UseLine()))
		}
	}
	for _, sub := range cmd.Commands() {
		argumentsAreUsage(sub)
	}
}

// help is what a command does that only holds others.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }
