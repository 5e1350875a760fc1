package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
)

type takeFlags struct {
	url, token, scope string
	cost              int64
	peek, json        bool
}

func takeCommand(s streams) *cobra.Command {
	var f takeFlags
	cmd := &cobra.Command{
		Use:   "take SUBJECT",
		Short: "Charge a subject through a running server and show the decision",
		Long:  "Charge a subject through a running server and show the decision.\nExits with 0 when allowed, 3 when denied, 1 when the server could not be asked.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return take(cmd.Context(), s, f, args[0])
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.url, "url", envOr(s, "TIERLIMIT_URL", "http://127.0.0.1:8080"), "the server's public listener [TIERLIMIT_URL]")
	fs.StringVar(&f.token, "token", envOr(s, "TIERLIMIT_SERVICE_TOKEN", envOr(s, "TIERLIMIT_ADMIN_TOKEN", "")), "bearer token [TIERLIMIT_SERVICE_TOKEN or TIERLIMIT_ADMIN_TOKEN]")
	fs.Lookup("token").DefValue = "" // a secret does not belong into the help
	fs.StringVar(&f.scope, "scope", "", "the part of the API asked for")
	fs.Int64Var(&f.cost, "cost", 1, "what to charge")
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

func take(ctx context.Context, s streams, f takeFlags, subject string) error {
	if err := checkURL("--url", f.url); err != nil {
		return usage(err)
	}
	body, err := json.Marshal(map[string]any{"subject": subject, "scope": f.scope, "cost": f.cost})
	if err != nil {
		return err
	}
	verb := "take"
	if f.peek {
		verb = "peek"
	}
	answer, err := post(ctx, strings.TrimSuffix(f.url, "/")+"/v1/"+verb, f.token, body)
	if err != nil {
		return err
	}
	var d tierlimit.Decision
	if err := json.Unmarshal(answer, &d); err != nil {
		return fmt.Errorf("read the decision: %w", err)
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

func post(ctx context.Context, url, token string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, usage(err)
	}
	req.Header.Set("Content-Type", "application/json")
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
		var p struct{ Title, Detail string }
		_ = json.Unmarshal(answer, &p) // an answer that is no problem leaves the status to tell
		return nil, errors.New(strings.TrimSuffix(url+": "+resp.Status+": "+p.Detail, ": "))
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
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, x := range d.Windows {
		most := count(x.EffectiveMax)
		if x.EffectiveMax != x.Max {
			most += " (of " + count(x.Max) + ", load x" + strconv.FormatFloat(d.Multiplier, 'g', -1, 64) + ")"
		}
		fmt.Fprintf(w, "  %s\tused %d of %s\tin %s\tresets in %s\n", x.Limit, x.Used, most, x.Window, x.Reset)
	}
	return w.Flush()
}

func count(n int64) string {
	if n == tierlimit.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}
