package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A client speaks to a running server's admin listener, so that roles and the audit
// log hold for the command line too.
type client struct {
	base, token string
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
			want: "http:// or https:// and a host, such as http://127.0.0.1:8081",
			parse: func(v string) error {
				c.base = strings.TrimSuffix(v, "/")
				return checkURL("", v)
			},
		},
		{
			name: "token", usage: "bearer token; default that of TIERLIMIT_ADMIN_TOKEN", secret: true,
			want: "16 to 256 characters without spaces", parse: token(&c.token),
		},
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.resolve(cmd.Flags(), s.env); err != nil {
				return usage(err)
			}
			if c.token == "" { // whoever runs a server by itself has that one
				owner := options{{name: "admin-token", secret: true, want: tokensWanted, parse: func(v string) error {
					var list []string
					err := tokens(&list)(v)
					if err == nil {
						c.token = list[0]
					}
					return err
				}}}
				if err := owner.resolve(cmd.Flags(), s.env); err != nil {
					return usage(err)
				}
			}
			return run(cmd.Context(), c, args)
		},
	}
	opts.flags(cmd.Flags())
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, for scripts")
	return cmd
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
	resp, err := http.DefaultClient.Do(req)
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
	return refused(method+" "+path, resp, body, "the admin listener: is --admin-url "+c.base+"?")
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
