package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
)

type takeFlags struct {
	url, token, scope string
	cost              int64
	costs             map[string]int64
	hold              time.Duration
	peek, json        bool
	giveBack          bool
}

// exitNoCommand is the exit code of a shell for a command that was not found.
const exitNoCommand = 127

// defaultHold is the initial duration of a command's hold, which is renewed while it runs.
const defaultHold = time.Minute

func takeCommand(s streams) *cobra.Command {
	var f takeFlags
	cmd := &cobra.Command{
		Use:   "take SUBJECT [-- COMMAND ...]",
		Short: "Charge a subject through a running server and show the decision",
		Long: "Charge a subject through a running server and show the decision.\n" +
			"With a command, run it if the charge is allowed: the charge is held while it runs, and counts under limits that\n" +
			"count what runs at a time.\n" +
			"Exits with 0 when allowed, 3 when denied, 1 when the server could not be asked, 127 when there is no such command;\n" +
			"or as the command did.",
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash == 1 && len(args) > 1 || dash < 0 && len(args) == 1 {
				return nil
			}
			return errors.New("one subject is needed, and a command only behind --")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return take(cmd.Context(), s, f, args[0], args[1:])
		},
	}
	fs := cmd.Flags()
	serverFlags(cmd, s, &f.url, &f.token)
	fs.StringVar(&f.scope, "scope", "", "the part of the API asked for")
	fs.Int64Var(&f.cost, "cost", 1, "what to charge")
	fs.StringToInt64Var(&f.costs, "costs", nil, "what to charge limits that have a unit of their own, as tokens=1200,bytes=5")
	fs.DurationVar(&f.hold, "hold", 0, "how long the charge can be settled, 1s to 1h; with a command a minute, renewed while it runs")
	fs.BoolVar(&f.giveBack, "give-back-failures", false, "a command that fails costs nothing")
	fs.BoolVar(&f.peek, "peek", false, "ask and charge nothing")
	fs.BoolVar(&f.json, "json", false, "print the decision as JSON")
	return cmd
}

func envOr(s streams, name, fallback string) string {
	if v, ok := s.env(name); ok && v != "" {
		return v
	}
	return fallback
}

// serverFlags adds the flags for the server's URL and token to cmd, and has cmd find the token
// before it runs.
func serverFlags(cmd *cobra.Command, s streams, url, token *string) {
	cmd.Flags().StringVar(url, "url", envOr(s, "TIERLIMIT_URL", "http://127.0.0.1:8080"), "the server's public listener [TIERLIMIT_URL]")
	opts := options{tokenOption(token, "TIERLIMIT_SERVICE_TOKEN or TIERLIMIT_ADMIN_TOKEN")}
	opts.flags(cmd.Flags())
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		err := checkGiven(cmd.Use, args)
		if err == nil {
			err = opts.resolve(cmd.Flags(), s.env)
		}
		if err == nil {
			err = serverToken(token, cmd.Flags(), s.env, "service-token", "admin-token")
		}
		if err != nil {
			return usage(err)
		}
		return nil
	}
}

func take(ctx context.Context, s streams, f takeFlags, subject string, command []string) error {
	if err := checkURL("--url", f.url); err != nil {
		return usage(err)
	}
	if f.hold != 0 && (f.hold < tierlimit.MinHold || f.hold > tierlimit.MaxHold) {
		return usage(&tierlimit.FieldError{Field: "--hold", Value: f.hold.String(), Want: "a duration from 1s to 1h"})
	}
	if len(command) > 0 {
		if f.cost == 0 {
			return usage(&tierlimit.FieldError{Field: "--cost", Value: "0", Want: "1 or more with a command: 0 holds nothing"})
		}
		if f.peek {
			return usage(errors.New("--peek charges nothing: with a command it is of no use"))
		}
		if f.hold == 0 {
			f.hold = defaultHold
		}
		if _, err := exec.LookPath(command[0]); err != nil { // check before the charge
			return &codedError{code: exitNoCommand, cause: err}
		}
	}
	asked := map[string]any{"subject": subject, "scope": f.scope, "cost": f.cost, "hold_ms": f.hold.Milliseconds()}
	if len(f.costs) > 0 {
		asked["costs"] = f.costs
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	verb := "take"
	if f.peek {
		verb = "peek"
	}
	answer, err := ask(ctx, http.MethodPost, f.url, "/v1/"+verb, f.token, body)
	if err != nil {
		return err
	}
	var d tierlimit.Decision
	if err := json.Unmarshal(answer, &d); err != nil {
		return fmt.Errorf("read the decision: %w", err)
	}
	if d.Allowed && len(command) > 0 {
		return runHeld(ctx, s, f, d.ID, command)
	}
	if f.json {
		_, err = s.out.Write(answer)
	} else {
		err = printDecision(s.out, &d)
	}
	if err == nil && !d.Allowed {
		return &codedError{code: exitDenied}
	}
	return err
}

// ask sends a request to the public listener at server. body is nil for a GET.
func ask(ctx context.Context, method, server, path, token string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	url := strings.TrimSuffix(server, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, usage(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(method+" "+url, resp, answer, "the public listener: is --url "+strings.TrimSuffix(url, req.URL.Path)+"?")
	}
	return answer, nil
}

func printDecision(out io.Writer, d *tierlimit.Decision) error {
	verdict := "allowed"
	if !d.Allowed {
		verdict = "denied: " + string(d.Reason)
		if d.Limit != "" {
			verdict += " by " + d.Limit
		}
		if d.RetryAfter > 0 {
			verdict += ", retry in " + d.RetryAfter.String()
		}
	}
	fmt.Fprintf(out, "%s on %s: %s\n", d.Subject, d.Tier, verdict)
	switch {
	case d.Degraded && d.Source == tierlimit.SourceRedis:
		fmt.Fprintln(out, "degraded: the subject's tier could not be learned in time")
	case d.Degraded:
		fmt.Fprintf(out, "degraded: not counted in Redis, answered from %s\n", d.Source)
	}
	w := newTable(out)
	for _, x := range d.Windows {
		most := count(x.EffectiveMax)
		if x.EffectiveMax != x.Max {
			most += " (of " + count(x.Max) + ", load x" + strconv.FormatFloat(d.Multiplier, 'g', -1, 64) + ")"
		}
		used, window, reset := usedOf(&x, most)
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", x.Limit, used, window, reset)
	}
	if d.ID != "" {
		fmt.Fprintf(w, "  held, to settle or renew as\t%s\n", d.ID)
	}
	return w.Flush()
}

// usedOf formats the usage of a limit: the count, the window, and when it resets.
func usedOf(x *tierlimit.WindowState, most string) (used, window, reset string) {
	used = fmt.Sprintf("used %d of %s", x.Used, most)
	if x.Held > 0 {
		used += fmt.Sprintf(" (%d held)", x.Held)
	}
	if x.Algorithm != tierlimit.Concurrent {
		if x.Reset == 0 { // nothing has begun it
			return used, "in " + x.Window.String(), "not begun"
		}
		return used, "in " + x.Window.String(), "resets in " + x.Reset.String()
	}
	if x.Used == 0 {
		return used, "at a time", "none is open"
	}
	return used, "at a time", "the first expires in " + x.Reset.String()
}

func count(n int64) string {
	if n == tierlimit.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}
