package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// runHeld runs a command and settles its hold when the command ends. id is "" if the charge
// has no hold.
func runHeld(ctx context.Context, s streams, f takeFlags, id string, command []string) error {
	ctx = context.WithoutCancel(ctx)                            // a signal ends the command, but does not cancel the settlement
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // what the user asked to run
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	cmd.SysProcAttr = endWithParent() // else the command would outlive its hold
	// The terminal sends ^C to the command too; waitHeld forwards the other signals. The
	// hold is settled in either case.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	say := func(format string, v ...any) { fmt.Fprintf(s.err, "tierlimit: "+format+"\n", v...) }
	if id == "" {
		say("the charge is not held: it could not be counted")
	}
	err := cmd.Start()
	if err == nil {
		err = waitHeld(ctx, f, id, cmd, signals, say)
	}
	if id != "" {
		cost := f.cost
		if err != nil && f.giveBack {
			cost = 0
		}
		switch found, e := hold(ctx, f, "settle", map[string]any{"id": id, "cost": cost}); {
		case e != nil:
			say("the charge is not settled: %v", e)
		case !found:
			say("the charge is not settled: its hold has expired")
		}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &codedError{code: 128 + int(status.Signal())} // the exit code of a shell
	}
	return &codedError{code: exit.ExitCode()}
}

// waitHeld waits for a command. Meanwhile it forwards signals and renews the hold.
func waitHeld(ctx context.Context, f takeFlags, id string, cmd *exec.Cmd, signals <-chan os.Signal, say func(string, ...any)) error {
	ended, over := make(chan error, 1), make(chan struct{})
	defer close(over)
	go func() { ended <- cmd.Wait() }()
	if id != "" {
		go keepHeld(ctx, f, id, over, say)
	}
	for {
		select {
		case err := <-ended:
			return err
		case sig := <-signals:
			if sig != os.Interrupt {
				_ = cmd.Process.Signal(sig) // the command may have ended by itself
			}
		}
	}
}

// keepHeld renews a hold until over is closed.
func keepHeld(ctx context.Context, f takeFlags, id string, over <-chan struct{}, say func(string, ...any)) {
	renew := time.NewTicker(f.hold / 3)
	defer renew.Stop()
	for {
		select {
		case <-over:
			return
		case <-renew.C:
		}
		switch found, err := hold(ctx, f, "renew", map[string]any{"id": id, "hold_ms": f.hold.Milliseconds()}); {
		case err != nil:
			say("the hold is not renewed: %v", err)
		case !found:
			say("the hold has expired: the command runs on without it")
			return
		}
	}
}

// hold sends a request about a hold and reports whether the hold was open.
func hold(ctx context.Context, f takeFlags, verb string, asked map[string]any) (found bool, err error) {
	body, err := json.Marshal(asked)
	if err != nil {
		return false, err
	}
	answer, err := ask(ctx, http.MethodPost, f.url, "/v1/"+verb, f.token, body)
	if err != nil {
		return false, err
	}
	return wasOpen(answer)
}

// wasOpen parses a response and reports whether the hold was open.
func wasOpen(answer []byte) (bool, error) {
	var done struct{ Settled, Renewed bool }
	if err := json.Unmarshal(answer, &done); err != nil {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	return done.Settled || done.Renewed, nil
}

func settleCommand(s streams) *cobra.Command {
	var url, token string
	var cost int64
	var costs map[string]int64
	cmd := &cobra.Command{
		Use:   "settle ID",
		Short: "Correct what a hold has charged to what it really cost",
		Long:  "Correct what a hold has charged to what it really cost. A cost of 0 without costs gives everything back.\nExits with 3 if there is no such open hold.",
		Args:  cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asked := map[string]any{"id": args[0]}
		if cmd.Flags().Changed("cost") {
			asked["cost"] = cost
		}
		if len(costs) > 0 {
			asked["costs"] = costs
		}
		return askHold(cmd.Context(), s, url, token, "settle", asked)
	}
	serverFlags(cmd, s, &url, &token)
	cmd.Flags().Int64Var(&cost, "cost", 0, "what limits really cost that took the request's cost; without it they keep their charge, and --costs must be given")
	cmd.Flags().StringToInt64Var(&costs, "costs", nil, "what limits really cost by name, as tokens=1200,bytes=5")
	return cmd
}

func renewCommand(s streams) *cobra.Command {
	var url, token string
	var d time.Duration
	cmd := &cobra.Command{
		Use:   "renew ID",
		Short: "Have a hold expire later",
		Long:  "Have a hold expire later.\nExits with 3 if there is no such open hold.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return askHold(cmd.Context(), s, url, token, "renew", map[string]any{"id": args[0], "hold_ms": d.Milliseconds()})
		},
	}
	serverFlags(cmd, s, &url, &token)
	cmd.Flags().DurationVar(&d, "hold", defaultHold, "in how long the hold is to expire, 1s to 1h")
	return cmd
}

// askHold sends a request about a hold and prints the response.
func askHold(ctx context.Context, s streams, url, token, verb string, asked map[string]any) error {
	if err := checkURL("--url", url); err != nil {
		return usage(err)
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, http.MethodPost, url, "/v1/"+verb, token, body)
	if err != nil {
		return err
	}
	found, err := wasOpen(answer)
	if err != nil {
		return err
	}
	if _, err := s.out.Write(answer); err != nil {
		return err
	}
	if !found {
		return &codedError{code: exitDenied, cause: errors.New("there is no such open hold: it was settled, has expired, or never was")}
	}
	return nil
}
