package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// Bulk requests change many subjects. Requests and responses are NDJSON, one JSON object a
// line: https://github.com/ndjson/ndjson-spec. The response is streamed to show progress: one
// line for each part that was written, then a line with "done".

const (
	ndjson = "application/x-ndjson"
	// bulkPart is the number of subjects in one command. Other writers get their turn between
	// two commands, after some milliseconds.
	bulkPart = 500
	// maxAtomic is the most subjects of an atomic request. All other writers wait for the end
	// of its one transaction.
	maxAtomic      = 100_000
	maxAtomicBytes = 64 << 20
	// bulkPartOperations is the number of operations after which a command takes no further
	// subject: a subject may have many overrides.
	bulkPartOperations = 2000
	// maxLine is the maximum length of a line, in bytes. A subject with tiers.MaxOverrides
	// overrides fits in it, also if JSON escapes all characters of the reasons.
	maxLine = 256 << 10
	// bulkPatience is how long a client may take to send or receive the next part.
	bulkPatience = 30 * time.Second
)

// A bulkTally counts the changes of a bulk request so far. Each response line is one.
type bulkTally struct {
	DryRun    bool            `json:"dry_run,omitempty"`
	Read      int             `json:"read"`
	Created   int             `json:"created"`
	Replaced  int             `json:"replaced"`
	Unchanged int             `json:"unchanged"`
	Done      bool            `json:"done"`
	Line      int             `json:"line,omitempty"`    // that was refused
	Subject   string          `json:"subject,omitempty"` // that was refused
	Error     string          `json:"error,omitempty"`
	Errors    []problem.Field `json:"errors,omitempty"`
}

// add counts the changes in r by subject: a subject and its overrides count as one.
func (b *bulkTally) add(operations []tiers.Operation, r *tiers.Result) {
	const (
		unchanged = iota
		replaced
		created
	)
	what := make(map[string]int)
	for i := range operations {
		ref := operations[i].Ref
		did := unchanged
		if made, changed := r.Made(i); changed {
			did = replaced
			if made.Before == nil && ref.Kind == tiers.KindSubject {
				did = created
			}
		}
		what[ref.Object] = max(what[ref.Object], did)
	}
	for _, did := range what {
		switch did {
		case created:
			b.Created++
		case replaced:
			b.Replaced++
		default:
			b.Unchanged++
		}
	}
	b.Read += len(what)
}

// A stream writes a response line by line.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	return &stream{w: w, control: http.NewResponseController(w)}
}

// extend moves the read and write deadlines: the server's timeouts suit only short requests.
func (s *stream) extend() {
	deadline := time.Now().Add(bulkPatience)
	_ = s.control.SetReadDeadline(deadline) // httptest.ResponseRecorder has no deadlines
	_ = s.control.SetWriteDeadline(deadline)
}

func (s *stream) line(v any) error {
	data, err := json.Marshal(v)
	s.extend() // what the line reports may have taken longer than the last deadline
	if err == nil {
		_, err = s.w.Write(append(data, '\n'))
	}
	if err == nil {
		_ = s.control.Flush()
	}
	return err
}

// bulkOperations returns the bulk operations under path.
func (a *admin) bulkOperations(path string) []operation {
	dry := parameter{name: "dry_run", description: "true answers what would be done, and does nothing", schema: oneOf("true", "false")}
	filters := []parameter{
		{name: "tier", description: "only subjects on this tier; an export also writes those that try it or will be on it", schema: ofName},
		{name: "status", description: "only those of this status", schema: oneOf("active", "past_due", "suspended")},
		{name: "prefix", description: "only those whose id begins so", schema: ofText},
	}
	change, down := []access.Right{access.Change}, http.StatusServiceUnavailable
	return []operation{
		{
			method: http.MethodPost, path: path + ":import", id: "import-subjects", summary: "Create or replace many subjects, with their overrides", tag: "Subjects",
			rights: change, lines: "Record", answerLines: "BulkTally", query: []parameter{
				dry, {name: "atomic", description: "true makes all or nothing, of at most 100,000 subjects; else the first that is refused ends it, and those before it are made", schema: oneOf("true", "false")},
			}, serve: a.importSubjects,
		},
		{
			method: http.MethodGet, path: path + ":export", id: "export-subjects", summary: "Read all subjects, with their overrides, as import takes them", tag: "Subjects",
			rights: []access.Right{access.Read}, answerLines: "Record", query: filters, fails: []int{down}, serve: a.exportSubjects,
		},
		{
			method: http.MethodPost, path: path + ":move", id: "move-subjects", summary: "Move many subjects to another tier", tag: "Subjects",
			rights: change, answerLines: "BulkTally", query: append([]parameter{
				dry,
				{name: "to", description: "the tier", schema: ofName},
				{name: "everybody", description: "true where no filter says who is meant", schema: oneOf("true", "false")},
				{name: "at", description: "when; now if it is left out", schema: map[string]any{"type": "string", "format": "date-time"}},
			}, filters...), fails: []int{down}, serve: a.moveSubjects,
		},
	}
}

// flag parses a boolean parameter.
func flag(q url.Values, name string) (bool, error) {
	switch values := q[name]; {
	case len(values) == 0 || len(values) == 1 && values[0] == "false":
		return false, nil
	case len(values) == 1 && values[0] == "true":
		return true, nil
	default:
		return false, &tierlimit.FieldError{Field: name, Value: strings.Join(values, ", "), Want: "true or false, once"}
	}
}

// A part is a list of operations for one command, with the input line of each.
type part struct {
	operations []tiers.Operation
	lines      []int
}

func (p *part) add(line int, operations ...tiers.Operation) {
	for _, o := range operations {
		p.operations, p.lines = append(p.operations, o), append(p.lines, line)
	}
}

// before returns the operations of the lines before line.
func (p *part) before(line int) part {
	n, _ := slices.BinarySearch(p.lines, line)
	return part{p.operations[:n], p.lines[:n]}
}

// importSubjects creates or replaces a subject for each line of the body.
func (a *admin) importSubjects(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "dry_run", "atomic")
	if err != nil {
		return err
	}
	dry, err := flag(q, "dry_run")
	if err != nil {
		return err
	}
	atomic, err := flag(q, "atomic")
	if err != nil {
		return err
	}
	out := newStream(w)
	out.extend()
	_ = out.control.EnableFullDuplex() // else the server stops reading at the first line of the response
	body := io.Reader(r.Body)
	if atomic {
		body = http.MaxBytesReader(w, r.Body, maxAtomicBytes)
	}
	in := lineReader{r: bufio.NewReaderSize(body, maxLine), seen: make(map[uint64]bool), seed: maphash.MakeSeed(), wait: out.extend}
	most, operations := bulkPart, bulkPartOperations
	if atomic {
		most, operations = maxAtomic+1, math.MaxInt
	}
	tally := bulkTally{DryRun: dry}
	for {
		p, n, end, refusal := in.part(most, operations)
		if atomic && n > maxAtomic {
			refusal = &bulkError{line: in.line, err: &tierlimit.FieldError{
				Field: "atomic", Value: "true", Want: "left out for more than " + strconv.Itoa(maxAtomic) + " subjects",
			}}
		}
		if atomic && refusal != nil {
			return out.refuse(&tally, refusal)
		}
		if refused := a.doPart(r, out, &tally, p, dry); refused != nil {
			if !atomic && refused.line > 0 { // write the operations before the refused line
				if again := a.doPart(r, out, &tally, p.before(refused.line), dry); again != nil {
					refused = again
				}
			}
			return out.refuse(&tally, refused)
		}
		if refusal != nil {
			return out.refuse(&tally, refusal)
		}
		if tally.Done = end; tally.Done {
			return out.line(tally)
		}
		if err := out.line(tally); err != nil {
			return nil //nolint:nilerr // the client is gone
		}
	}
}

// doPart runs the operations of p as one command and adds the result to tally.
func (a *admin) doPart(r *http.Request, out *stream, tally *bulkTally, p part, dry bool) *bulkError {
	if len(p.operations) == 0 {
		return nil
	}
	out.extend()
	result, err := a.catalogue.Do(context.WithoutCancel(r.Context()), tiers.Command{Actor: actorOf(r), DryRun: dry, Operations: p.operations})
	if err != nil {
		refusal := &bulkError{err: err}
		var at *tiers.OperationError
		switch {
		case errors.As(err, &at):
			refusal.line, refusal.subject, refusal.err = p.lines[at.Index], p.operations[at.Index].Object, at.Err
		case len(p.operations) == 1:
			refusal.line, refusal.subject = p.lines[0], p.operations[0].Object
		}
		if statusOf(refusal.err) == http.StatusInternalServerError {
			a.log.Error("api: a part of many subjects failed", "path", r.URL.Path, "error", err)
		}
		return refusal
	}
	tally.add(p.operations, &result)
	return nil
}

// A bulkError is the error of one line of a bulk request.
type bulkError struct {
	line    int // 0: none in particular
	subject string
	err     error
}

// refuse writes the last line of a response whose request failed.
func (s *stream) refuse(tally *bulkTally, refusal *bulkError) error {
	tally.Line, tally.Subject = refusal.line, refusal.subject
	tally.Errors = fieldErrors(refusal.err)
	switch status := statusOf(refusal.err); {
	case len(tally.Errors) > 0:
		tally.Error = tally.Errors[0].Detail
		tally.Errors = tally.Errors[:min(len(tally.Errors), maxFields)]
	case status == http.StatusInternalServerError:
		tally.Error = "Internal error."
	case status == http.StatusServiceUnavailable:
		tally.Error = "A server that is needed for this does not answer now."
	default:
		tally.Error = refusal.err.Error()
	}
	_ = s.line(tally) // the client may be gone
	return nil
}

// A lineReader reads subjects from NDJSON.
type lineReader struct {
	r    *bufio.Reader
	line int       // number of the last line read
	wait func()    // extends the client's deadline
	last time.Time // when wait was last called

	// Hashes of the ids read so far. A repeated id is an error: a dry run, which writes no
	// part, would count the subject twice.
	seen map[uint64]bool
	seed maphash.Seed
}

// part reads up to most subjects, and no more once they have that many operations; end reports
// whether there are no more. If a line is invalid, part returns the operations before the line,
// and refusal.
func (l *lineReader) part(most, operations int) (p part, n int, end bool, refusal *bulkError) {
	for ; n < most && len(p.operations) < operations; n++ {
		record, err := l.next()
		if errors.Is(err, io.EOF) {
			return p, n, true, nil
		}
		if err != nil {
			return p, n, false, &bulkError{line: l.line, err: err}
		}
		p.add(l.line, record.Operations()...)
	}
	return p, n, false, nil
}

// next returns the next subject, or io.EOF after the last.
func (l *lineReader) next() (*tiers.Record, error) {
	for {
		if now := time.Now(); now.Sub(l.last) > bulkPatience/10 {
			l.last = now
			l.wait()
		}
		text, err := l.r.ReadSlice('\n')
		if len(text) == 0 && errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		l.line++
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, bodyError("lines of at most 256 KiB")
		case errors.As(err, new(*http.MaxBytesError)):
			return nil, bodyError("at most 64 MiB, where all or nothing is made")
		case err != nil && !errors.Is(err, io.EOF): // the line was cut off
			return nil, bodyError("complete")
		}
		if text = bytes.TrimSpace(text); l.line == 1 {
			text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff")))
		}
		if len(text) == 0 {
			continue
		}
		if !utf8.Valid(text) {
			return nil, bodyError("UTF-8")
		}
		var record tiers.Record
		if err := decodeJSON(text, &record); err != nil {
			return nil, strictjson.Also(err, &record.Subject)
		}
		id := maphash.String(l.seed, record.ID)
		if l.seen[id] {
			return nil, &tierlimit.FieldError{Field: "id", Value: record.ID, Want: "on one line alone"}
		}
		l.seen[id] = true
		return &record, nil
	}
}

// exportSubjects writes all subjects that match a filter, one a line.
func (a *admin) exportSubjects(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "tier", "status", "prefix")
	if err != nil {
		return err
	}
	f, err := subjectFilter(q)
	if err != nil {
		return err
	}
	f.Most = bulkPart
	page, err := a.catalogue.Subjects(r.Context(), f) // before the answer begins
	if err != nil {
		return err
	}
	out := newStream(w)
	for len(page) > 0 {
		out.extend()
		for i := range page {
			if err := out.line(tiers.Record{Subject: page[i]}); err != nil {
				return nil //nolint:nilerr // the client is gone
			}
		}
		if len(page) < bulkPart {
			break
		}
		f.After = page[len(page)-1].ID
		if page, err = a.catalogue.Subjects(r.Context(), f); err != nil {
			panic(http.ErrAbortHandler) // abort, or the client takes the response for complete
		}
	}
	return nil
}

// moveSubjects moves the subjects that match a filter to another tier, now or at an instant.
func (a *admin) moveSubjects(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "dry_run", "to", "at", "tier", "status", "prefix", "everybody")
	if err != nil {
		return err
	}
	if body, err := readBody(w, r); err != nil || len(body) > 0 {
		return errors.Join(err, bodyError("left out: what is meant stands in the query"))
	}
	everybody, err := flag(q, "everybody")
	if err != nil {
		return err
	}
	dry, err := flag(q, "dry_run")
	if err != nil {
		return err
	}
	f, err := subjectFilter(q)
	if err != nil {
		return err
	}
	if f == (tiers.SubjectFilter{}) != everybody {
		return &tierlimit.FieldError{Field: "everybody", Value: q.Get("everybody"), Want: "true, or a tier, a status or a prefix given that says who is meant; not both"}
	}
	to := q.Get("to")
	if !tierlimit.ValidName(to) {
		return &tierlimit.FieldError{Field: "to", Value: to, Want: "the key of a tier"}
	}
	patch := fmt.Appendf(nil, `{"tier":%q,"next":null}`, to)
	if at := q.Get("at"); at != "" {
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			return &tierlimit.FieldError{Field: "at", Value: at, Want: "an instant such as 2026-12-01T00:00:00Z"}
		}
		patch = fmt.Appendf(nil, `{"next":{"tier":%q,"at":%q}}`, to, at)
	}
	for _, key := range []string{to, f.Tier} {
		if key == "" {
			continue
		}
		if _, err := a.catalogue.Tier(r.Context(), key); err != nil {
			return err
		}
	}
	f.Most = bulkPart
	out := newStream(w)
	tally := bulkTally{DryRun: dry}
	for stale := 0; ; {
		page, err := a.catalogue.Subjects(r.Context(), f)
		if err != nil {
			return out.refuse(&tally, &bulkError{err: err})
		}
		var p part
		for i := range page {
			if f.Tier != "" && page[i].Tier != f.Tier { // only tries it, or will be on it
				continue
			}
			p.add(0, tiers.Operation{Ref: tiers.SubjectRef(page[i].ID), Expect: tiers.Version(page[i].Version), Patch: patch})
		}
		refusal := a.doPart(r, out, &tally, p, dry)
		const tries = 10 // somebody else changes the same subjects
		if refusal != nil && (errors.Is(refusal.err, tiers.ErrStale) || errors.Is(refusal.err, tiers.ErrNotFound)) && stale < tries {
			stale++
			continue
		}
		if refusal != nil {
			return out.refuse(&tally, refusal)
		}
		if tally.Done = len(page) < bulkPart; tally.Done {
			return out.line(tally)
		}
		if err := out.line(tally); err != nil {
			return nil //nolint:nilerr // the client is gone
		}
		f.After, stale = page[len(page)-1].ID, 0
	}
}
