package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tierlimit/tierlimit"
)

// A tally is a line of the server's response to a bulk request.
type tally struct {
	DryRun    bool   `json:"dry_run"`
	Read      int    `json:"read"`
	Created   int    `json:"created"`
	Replaced  int    `json:"replaced"`
	Unchanged int    `json:"unchanged"`
	Done      bool   `json:"done"`
	Line      int    `json:"line"`
	Subject   string `json:"subject"`
	Error     string `json:"error"`
	Errors    []struct{ Detail string }
}

func importSubjectsCommand(s streams) *cobra.Command {
	var dryRun, atomic bool
	cmd := adminCommand(s, "import FILE", "Create or replace many subjects: one JSON object a line, - for standard input", cobra.ExactArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			in, size := c.in, int64(0)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return usage(err)
				}
				defer func() { _ = f.Close() }() // it was only read
				if info, err := f.Stat(); err == nil {
					size = info.Size()
				}
				in = f
			}
			query := url.Values{}
			if dryRun {
				query.Set("dry_run", "true")
			}
			if atomic {
				query.Set("atomic", "true")
			}
			counted := &countedReader{Reader: in}
			return c.bulk(ctx, "/subjects:import", query, counted, func(t *tally) string {
				if size > 0 {
					return fmt.Sprintf("%3d %%  %d subjects", 100*counted.n/size, t.Read)
				}
				return fmt.Sprintf("%d subjects", t.Read)
			})
		})
	cmd.Long = "Create or replace many subjects, with their overrides: one JSON object a line, as export writes them.\n" +
		"What is so already is left as it is: to import a file again is safe, and ends what was interrupted."
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&atomic, "atomic", false, "all or nothing, of at most 100,000 subjects")
	return cmd
}

func exportSubjectsCommand(s streams) *cobra.Command {
	var filters func() url.Values
	cmd := adminCommand(s, "export", "Write all subjects with their overrides, one JSON object a line", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			resp, err := c.stream(ctx, http.MethodGet, "/subjects:export", filters(), nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if _, err := io.Copy(c.out, resp.Body); err != nil {
				return fmt.Errorf("not all subjects were read: %w", err)
			}
			return nil
		})
	filters = subjectFilters(cmd)
	return cmd
}

func moveSubjectsCommand(s streams) *cobra.Command {
	var dryRun, everybody bool
	var to, at string
	var filters func() url.Values
	cmd := adminCommand(s, "move", "Move many subjects to another tier", cobra.NoArgs,
		func(ctx context.Context, c *client, _ []string) error {
			query := filters()
			if to == "" {
				return usage(&tierlimit.FieldError{Field: "--to", Want: "given: the key of a tier"})
			}
			if len(query) == 0 && !everybody {
				return usage(errors.New("who is meant? give --tier, --status or --prefix, or --everybody"))
			}
			if everybody {
				query.Set("everybody", "true")
			}
			query.Set("to", to)
			if at != "" {
				query.Set("at", at)
			}
			if dryRun {
				query.Set("dry_run", "true")
			}
			return c.bulk(ctx, "/subjects:move", query, nil, func(t *tally) string { return fmt.Sprintf("%d subjects", t.Read) })
		})
	filters = subjectFilters(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the tier they will be on")
	cmd.Flags().StringVar(&at, "at", "", "when, such as 2027-01-01T00:00:00Z; now if it is left out")
	cmd.Flags().BoolVar(&everybody, "everybody", false, "every subject")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say how many would be moved, and move none")
	return cmd
}

func deleteSubjectCommand(s streams) *cobra.Command {
	return removal{
		use: "delete ID", short: "Delete a subject, with its overrides and keys", args: 1, versioned: true,
		path: func(args []string) string { return "/subjects/" + url.PathEscape(args[0]) }, done: did("deleted"),
	}.command(s)
}

// subjectFilters adds the flags that select subjects to a command. The returned function
// returns the query.
func subjectFilters(cmd *cobra.Command) func() url.Values {
	flags := make(map[string]*string)
	for name, text := range map[string]string{
		"tier": "only subjects on this tier; an export also writes those that try it or will be on it", "status": "only those of this status", "prefix": "only those whose id begins so",
	} {
		flags[name] = cmd.Flags().String(name, "", text)
	}
	return func() url.Values {
		query := make(url.Values)
		for name, value := range flags {
			if cmd.Flags().Changed(name) { // the server refuses an empty one
				query.Set(name, *value)
			}
		}
		return query
	}
}

// bulk sends a bulk request, shows the progress on a terminal, and prints the result.
func (c *client) bulk(ctx context.Context, path string, query url.Values, body io.Reader, progress func(*tally) string) error {
	resp, err := c.stream(ctx, http.MethodPost, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	bar := newProgress(c.errs)
	defer bar.end()
	var last tally
	var text []byte
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text, last = append(text[:0], lines.Bytes()...), tally{}
		if err := json.Unmarshal(text, &last); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		bar.show(progress(&last))
	}
	bar.end()
	done := fmt.Sprintf("%d created, %d replaced, %d unchanged", last.Created, last.Replaced, last.Unchanged)
	if last.DryRun {
		done = fmt.Sprintf("would be: %s; nothing was changed", done)
	}
	switch {
	case last.Error != "":
		where := ""
		if last.Line > 0 {
			where = fmt.Sprintf("line %d: ", last.Line)
		}
		if last.Subject != "" {
			where += fmt.Sprintf("subject %q: ", last.Subject)
		}
		before := "before it: " + done
		if last.Read == 0 {
			before = "nothing was changed"
		}
		return fmt.Errorf("%s%s\n%s", where, last.Error, before)
	case !last.Done:
		return fmt.Errorf("the answer ended too early: %w\nso far: %s", errors.Join(lines.Err(), io.ErrUnexpectedEOF), done)
	case c.json:
		_, err = fmt.Fprintln(c.out, string(text))
	default:
		_, err = fmt.Fprintln(c.out, done)
	}
	return err
}

// stream sends a request without a timeout and returns the response.
func (c *client) stream(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	where := c.base + "/admin/v1" + path
	if len(query) > 0 {
		where += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return nil, usage(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return nil, errors.Join(c.refused(method, path, resp, text), err)
	}
	return resp, nil
}

// A countedReader counts the bytes read.
type countedReader struct {
	io.Reader
	n int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

// A progress rewrites one line of a terminal. It writes nothing if w is nil.
type progress struct {
	w    io.Writer // nil if the output is not a terminal
	last time.Time
	open bool
}

func newProgress(w io.Writer) *progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &progress{w: w}
	}
	return &progress{}
}

func (p *progress) show(text string) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.open = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
}

func (p *progress) end() {
	if p.open {
		p.open = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
