package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/listen"
)

// A client speaks to a running server's admin listener, so that roles and the audit
// log hold for the command line too.
type client struct {
	base, token string
	given       string // as the setting has it
	http        *http.Client
	json        bool // print what the server answers
	in          io.Reader
	out, errs   io.Writer
}

// adminCommand is a command that runs with a client.
func adminCommand(s streams, use, short string, args cobra.PositionalArgs, run func(context.Context, *client, []string) error) *cobra.Command {
	c := &client{in: s.in, out: s.out, errs: s.err}
	opts := options{
		{
			name: "admin-url", usage: "the server's admin listener", fallback: "http://127.0.0.1:8081",
			want:  "http:// or https:// and a host, such as http://127.0.0.1:8081, or unix: and the path of a socket",
			parse: c.parseURL,
		},
		tokenOption(&c.token, "TIERLIMIT_ADMIN_TOKEN"),
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkGiven(use, args); err != nil {
				return usage(err)
			}
			if err := opts.resolve(cmd.Flags(), s.env); err != nil {
				return usage(err)
			}
			if err := serverToken(&c.token, cmd.Flags(), s.env, "admin-token"); err != nil {
				return usage(err)
			}
			return run(cmd.Context(), c, args)
		},
	}
	opts.flags(cmd.Flags())
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, for scripts")
	return cmd
}

// checkGiven returns an error if an argument is empty. use names the arguments.
func checkGiven(use string, args []string) error {
	names := strings.Fields(use)[1:]
	for i, arg := range args {
		if arg == "" && i < len(names) {
			return &tierlimit.FieldError{Field: names[i], Want: "given, not empty"}
		}
	}
	return nil
}

// tokenOption is the bearer token of a command that talks to a server.
func tokenOption(into *string, fallbacks string) *option {
	return &option{
		name: "token", usage: "bearer token; default that of " + fallbacks, secret: true,
		want: "16 to 256 characters without spaces", parse: token(into),
	}
}

// serverToken sets *into to a token of the environment, unless *into is set already: the token of
// the first option in names that has one.
func serverToken(into *string, fs *pflag.FlagSet, env func(string) (string, bool), names ...string) error {
	for _, name := range names {
		if *into != "" {
			return nil
		}
		own := options{{name: name, secret: true, want: tokensWanted, parse: func(v string) error {
			var list []string
			err := tokens(&list)(v)
			if err == nil {
				*into = list[0] // during a rotation two are set, and both are valid
			}
			return err
		}}}
		if err := own.resolve(fs, env); err != nil {
			return err
		}
	}
	return nil
}

// A removal is a command that deletes one object, or resets it. It accepts --dry-run.
type removal struct {
	use, short string
	args       int
	path       func(args []string) string
	query      func() url.Values         // may be nil
	versioned  bool                      // the thing has an ETag, which a DELETE must send
	check      func(args []string) error // may be nil
	done       func(context.Context, *client, []string) error
}

func (r removal) command(s streams) *cobra.Command {
	var dryRun bool
	cmd := adminCommand(s, r.use, r.short, cobra.ExactArgs(r.args), func(ctx context.Context, c *client, args []string) error {
		if r.check != nil {
			if err := r.check(args); err != nil {
				return usage(err)
			}
		}
		path, query, etag := r.path(args), url.Values{}, ""
		if r.query != nil {
			query = r.query()
		}
		if r.versioned {
			old, err := c.get(ctx, path, nil)
			if err != nil {
				return err
			}
			etag = old.etag
		}
		if dryRun {
			query.Set("dry_run", "true")
		}
		a, err := c.ask(ctx, http.MethodDelete, path, query, etag, nil)
		switch {
		case err != nil:
			return err
		case dryRun:
			return c.show(a.body, func(w io.Writer) { printEffect(w, a.body) })
		}
		return r.done(ctx, c, args)
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what it would do, and change nothing")
	return cmd
}

// did returns a done function for a removal that prints verb and the last argument.
func did(verb string) func(context.Context, *client, []string) error {
	return func(_ context.Context, c *client, args []string) error {
		what := args[len(args)-1]
		return c.show(map[string]string{verb: what}, func(w io.Writer) { fmt.Fprintln(w, verb, what) })
	}
}

// A refusal is an answer that is no success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func isStatus(err error, status int) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == status
}

// An answered is what a server answered.
type answered struct {
	etag string
	body json.RawMessage
}

func (c *client) get(ctx context.Context, path string, query url.Values) (answered, error) {
	return c.ask(ctx, http.MethodGet, path, query, "", nil)
}

// parseURL reads where the admin listener is.
func (c *client) parseURL(v string) error {
	c.given, c.base, c.http = v, strings.TrimSuffix(v, "/"), http.DefaultClient
	path, isUnix := strings.CutPrefix(v, listen.UnixPrefix)
	if !isUnix {
		return checkURL("", v)
	}
	c.base, c.http = "http://localhost", &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	return check(path != "")
}

// ask sends a request. A body is sent as JSON.
func (c *client) ask(ctx context.Context, method, path string, query url.Values, etag string, body any) (a answered, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return a, err
		}
	}
	where := c.base + "/admin/v1" + path
	if len(query) > 0 {
		where += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, where, bytes.NewReader(text))
	if err != nil {
		return a, usage(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.etag = resp.Header.Get("Etag")
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20)); err != nil {
		return a, err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return a, c.refused(method, path, resp, a.body)
	}
	return a, nil
}

func (c *client) refused(method, path string, resp *http.Response, body []byte) error {
	return refused(method+" "+path, resp, body, "the admin listener: is --admin-url "+c.given+"?")
}

// refused returns a problem response as an error, with each invalid field on its own line. A
// response of 404 without a problem comes from another listener than meant.
func refused(asked string, resp *http.Response, body []byte, meant string) error {
	var p struct {
		Detail string
		Errors []struct{ Detail string }
	}
	_ = json.Unmarshal(body, &p) // an answer that is no problem leaves the status to tell
	text := strings.TrimSuffix(asked+": "+resp.Status+": "+p.Detail, ": ")
	if len(p.Errors) > 1 {
		for _, e := range p.Errors {
			text += "\n  " + e.Detail
		}
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		text += " Give one by --token or TIERLIMIT_TOKEN."
	case resp.StatusCode == http.StatusNotFound && p.Detail == "":
		text += ". This path belongs to " + meant
	}
	return &refusal{resp.StatusCode, text}
}

// A page is a list as the server answers it.
type page[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

// all reads a list to its end.
func all[T any](ctx context.Context, c *client, path string, query url.Values) (list []T, err error) {
	if query == nil {
		query = make(url.Values)
	}
	for {
		a, err := c.get(ctx, path, query)
		if err != nil {
			return nil, err
		}
		var p page[T]
		if err := json.Unmarshal(a.body, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		list = append(list, p.Data...)
		if !p.HasMore {
			return list, nil
		}
		query.Set("limit", "500")
		query.Set("cursor", p.NextCursor)
	}
}

// show prints v as JSON if --json is set, else calls rows.
func (c *client) show(v any, rows func(w io.Writer)) error {
	if c.json {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, string(text))
		return err
	}
	w := newTable(c.out)
	rows(w)
	return w.Flush()
}

func orDash(s string) string { return cmp.Or(s, "-") }

func instantOrDash(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
