package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
)

//go:embed docs.html
var docsHTML string

// docsPolicy lets the page be itself and load nothing: it works without a network
// and runs no script.
const docsPolicy = "default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docs is the page and what it may load.
type docs struct {
	html   []byte
	policy string
}

func (d docs) serve(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", d.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(d.html) // the client may be gone
}

// A docsSection is the operations of one tag.
type docsSection struct {
	Tag        string
	Operations []docsOperation
}

type docsOperation struct {
	Method, Path, ID, Summary, Listener string
	Roles                               []string
	Parameters                          []docsParameter
	Body, Answer                        string
	Success                             int
	Failures                            []docsFailure
}

type docsParameter struct{ Name, In, Description string }

type docsFailure struct {
	Status int
	Text   string
}

type docsSchema struct{ Name, Text string }

func writeDocs() docs {
	public, admin := documented()
	var sections []docsSection
	for listener, ops := range [][]operation{public, admin} {
		for i := range ops {
			sections = addToDocs(sections, &ops[i], []string{"public", "admin"}[listener])
		}
	}
	all := documentSchemas()
	var list []docsSchema
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data, err := json.MarshalIndent(all[name], "", "  ")
		if err != nil {
			panic(err) // it is ours
		}
		list = append(list, docsSchema{name, string(data)})
	}
	var out bytes.Buffer
	page := template.Must(template.New("docs").Parse(docsHTML))
	if err := page.Execute(&out, map[string]any{"Sections": sections, "Schemas": list, "Version": moduleVersion()}); err != nil {
		panic(err)
	}
	return docs{html: out.Bytes(), policy: policyFor(out.Bytes())}
}

// policyFor allows the one style element of a page by its hash.
func policyFor(page []byte) string {
	_, rest, _ := bytes.Cut(page, []byte("<style>"))
	style, _, _ := bytes.Cut(rest, []byte("</style>"))
	sum := sha256.Sum256(style)
	return fmt.Sprintf(docsPolicy, base64.StdEncoding.EncodeToString(sum[:]))
}

func addToDocs(sections []docsSection, o *operation, listener string) []docsSection {
	one := docsOperation{
		Method: o.method, Path: o.path, ID: o.id, Summary: o.summary, Listener: listener, Roles: o.roles(),
		Body: o.bodySchema(), Success: max(o.status, http.StatusOK),
	}
	if _, ok := documentSchemas()[o.answer]; ok {
		one.Answer = o.answer
	}
	for _, p := range o.parameters() {
		name, _ := p["name"].(string)
		in, _ := p["in"].(string)
		description, _ := p["description"].(string)
		one.Parameters = append(one.Parameters, docsParameter{name, in, description})
	}
	for _, code := range o.failures() {
		one.Failures = append(one.Failures, docsFailure{code, http.StatusText(code)})
	}
	i := slices.IndexFunc(sections, func(s docsSection) bool { return s.Tag == o.tag })
	if i < 0 {
		i = len(sections)
		sections = append(sections, docsSection{Tag: o.tag})
	}
	sections[i].Operations = append(sections[i].Operations, one)
	return sections
}
