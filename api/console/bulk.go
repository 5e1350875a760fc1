package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

const (
	// maxUpload bounds an import through the console, which is kept in memory. The command line
	// imports files of any size.
	maxUpload = 32 << 20
	// uploadPatience is how long an upload may take.
	uploadPatience = 5 * time.Minute
	// maxKept is the most text that a page keeps for the next step.
	maxKept = 1 << 20
)

// A tally counts what came of a bulk request so far.
type tally struct {
	DryRun    bool         `json:"dry_run"`
	Read      int          `json:"read"`
	Created   int          `json:"created"`
	Replaced  int          `json:"replaced"`
	Unchanged int          `json:"unchanged"`
	Done      bool         `json:"done"`
	Line      int          `json:"line"`
	Subject   string       `json:"subject"`
	Error     string       `json:"error"`
	Errors    []fieldError `json:"errors"`
}

// A bulkPage moves or imports many subjects.
type bulkPage struct {
	Tiers []tiers.Tier

	To, At, Tier, Status, Prefix string // of a move
	Everybody                    bool
	Text                         string // of an import
	Atomic                       bool

	MoveErrors, ImportErrors []string
	MoveCheck, ImportCheck   *tally // what a dry run says
	Chosen                   bool   // the text of the import was a file, which a page cannot keep
	What                     string // what runs: "Move" or "Import"
}

// Bound is the size of an upload in MiB.
func (p *bulkPage) Bound() int { return maxUpload >> 20 }

func (v *visit) bulk() error {
	q := v.r.URL.Query()
	return v.showBulk(http.StatusOK, &bulkPage{Tier: q.Get("tier"), Prefix: q.Get("prefix"), Status: q.Get("status")})
}

func (v *visit) showBulk(status int, p *bulkPage) (err error) {
	if p.Tiers, err = v.tierList(); err != nil {
		return err
	}
	v.render(status, "bulk", "Move and import", p)
	return nil
}

// move moves the subjects that a filter selects: first a dry run, then the move itself.
func (v *visit) move() error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return &problem{Status: http.StatusBadRequest, Detail: "The form could not be read."}
	}
	get := v.r.PostForm.Get
	p := &bulkPage{
		What: "Move", To: get("to"), At: get("at"), Tier: get("tier"), Status: get("status"), Prefix: get("prefix"), Everybody: get("everybody") == "true",
	}
	q := url.Values{"to": {p.To}}
	for name, value := range map[string]string{"at": instantOf(p.At), "tier": p.Tier, "status": p.Status, "prefix": p.Prefix} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if p.Everybody {
		q.Set("everybody", "true")
	}
	move := request{method: http.MethodPost, path: "/admin/v1/subjects:move", query: q}
	if get("step") == "apply" {
		return v.stream(p, move, &p.MoveErrors)
	}
	p.MoveCheck, p.MoveErrors = v.tried(move)
	return v.showBulk(statusOf(p.MoveErrors), p)
}

// importSubjects creates or replaces the subjects of a file or of typed text.
func (v *visit) importSubjects() error {
	_ = http.NewResponseController(v.w).SetReadDeadline(time.Now().Add(uploadPatience)) // a test's recorder has none
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxUpload)
	err := v.r.ParseMultipartForm(maxUpload)
	if errors.As(err, new(*http.MaxBytesError)) {
		p := &bulkPage{ImportErrors: []string{"The file is larger than this page takes. Import it with: tierlimit subjects import FILE"}}
		return v.showBulk(http.StatusRequestEntityTooLarge, p)
	}
	if err != nil {
		return &problem{Status: http.StatusBadRequest, Detail: "The form could not be read."}
	}
	p := &bulkPage{What: "Import", Text: v.r.PostFormValue("text"), Atomic: v.r.PostFormValue("atomic") == "true"}
	text, err := v.uploaded(p)
	if err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		p.ImportErrors = []string{"There is nothing to import: choose a file, or paste subjects, one JSON object a line."}
		return v.showBulk(http.StatusUnprocessableEntity, p)
	}
	q := make(url.Values)
	if p.Atomic {
		q.Set("atomic", "true")
	}
	send := request{method: http.MethodPost, path: "/admin/v1/subjects:import", query: q, body: strings.NewReader(text)}
	if v.r.PostFormValue("step") == "apply" {
		return v.stream(p, send, &p.ImportErrors)
	}
	p.ImportCheck, p.ImportErrors = v.tried(send)
	return v.showBulk(statusOf(p.ImportErrors), p)
}

// uploaded returns the text to import: that of the file, if one was chosen. Text that is not too
// long is kept in the page, so that a file need not be chosen twice.
func (v *visit) uploaded(p *bulkPage) (string, error) {
	file, _, err := v.r.FormFile("file")
	if errors.Is(err, http.ErrMissingFile) {
		return p.Text, nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil || len(data) == 0 {
		return p.Text, err
	}
	if p.Text, p.Chosen = string(data), len(data) > maxKept; p.Chosen {
		p.Text = ""
	}
	return string(data), nil
}

func statusOf(problems []string) int {
	if len(problems) > 0 {
		return http.StatusUnprocessableEntity
	}
	return http.StatusOK
}

// tried asks for a dry run and returns its last line.
func (v *visit) tried(q request) (*tally, []string) {
	q.query.Set("dry_run", "true")
	a, err := v.ask(q)
	if err != nil {
		return nil, problemsOf(err)
	}
	lines := bytes.Split(bytes.TrimSpace(a.body), []byte("\n"))
	last := new(tally)
	if err := json.Unmarshal(lines[len(lines)-1], last); err != nil {
		return nil, []string{"The answer of the API could not be read."}
	}
	return last, nil
}

func problemsOf(err error) (all []string) {
	var p *problem
	if errors.As(err, &p) && len(p.Errors) > 0 {
		for _, e := range p.Errors {
			all = append(all, e.Detail)
		}
		return all
	}
	return []string{reasonOf(err)}
}

// stream makes a bulk change and writes the page as it proceeds.
func (v *visit) stream(p *bulkPage, q request, problems *[]string) error {
	w := &progress{visit: v, page: p, recorder: recorder{header: make(http.Header), status: http.StatusOK}}
	if err := v.send(w, q); err != nil {
		return err
	}
	if !w.begun {
		*problems = problemsOf(w.problem())
		return v.showBulk(http.StatusUnprocessableEntity, p)
	}
	w.block("end")
	return nil
}

// A progress turns the lines of a streamed response into lines of a page, as they come.
type progress struct {
	recorder
	visit *visit
	page  *bulkPage
	begun bool
	rest  []byte // of a line that is not complete
}

// Unwrap lets the API set deadlines on the connection and flush it.
func (w *progress) Unwrap() http.ResponseWriter { return w.visit.w }

// Write implements http.ResponseWriter.
func (w *progress) Write(b []byte) (int, error) {
	if w.status != http.StatusOK {
		return w.recorder.Write(b)
	}
	if !w.begun {
		w.begun = true
		w.visit.w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.block("begin")
	}
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.rest = rest
		var t tally
		if err := json.Unmarshal(line, &t); err != nil {
			return len(b), err
		}
		w.line(&t)
	}
}

func (w *progress) line(t *tally) {
	data := struct {
		tally
		What string
	}{*t, w.page.What}
	w.execute("progress", data)
}

// block writes the beginning or the end of the page.
func (w *progress) block(name string) { w.execute(name, w.visit.view("bulk", w.page.What, w.page)) }

func (w *progress) execute(block string, data any) {
	v := w.visit
	if err := v.console.pages["bulk"].ExecuteTemplate(v.w, block, data); err != nil {
		v.console.cfg.Logger.Debug("console: the client is gone", "error", err)
	}
}
