package api

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

//go:embed docs_head.html
var docsHead string // HTML up to the body, with styles and without scripts

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

// A docsPage builds the page and escapes all values. html/template would add a third to the
// size of the binary.
type docsPage struct{ bytes.Buffer }

// write formats like fmt.Fprintf, with values escaped as HTML.
func (p *docsPage) write(format string, values ...string) {
	escaped := make([]any, len(values))
	for i, v := range values {
		escaped[i] = html.EscapeString(v)
	}
	_, _ = fmt.Fprintf(p, format, escaped...) // a buffer does not fail
}

func writeDocs() docs {
	public, admin := documented()
	listeners := map[string]string{}
	var tags []string
	for listener, ops := range map[string][]operation{"public": public, "admin": admin} {
		for i := range ops {
			listeners[ops[i].id] = listener
		}
	}
	all := slices.Concat(public, admin)
	for i := range all {
		if !slices.Contains(tags, all[i].tag) {
			tags = append(tags, all[i].tag)
		}
	}
	p := &docsPage{}
	p.WriteString(docsHead)
	p.write("<h1>tierlimit API</h1>\n<p>Version %s. The public listener decides, the admin listener manages. The same as <a href=\"/openapi.json\">OpenAPI 3.1</a>.</p>\n<nav>", moduleVersion())
	for _, tag := range append(slices.Clone(tags), "Schemas") {
		p.write("<a href=\"#%s\">%s</a>", tag, tag)
	}
	p.write("</nav>\n")
	for _, tag := range tags {
		p.write("\n<h2 id=\"%s\">%s</h2>\n", tag, tag)
		for i := range all {
			if all[i].tag == tag {
				p.operation(&all[i], listeners[all[i].id])
			}
		}
	}
	p.schemas()
	p.write("</body>\n</html>\n")
	return docs{html: p.Bytes(), policy: policyFor(p.Bytes())}
}

func (p *docsPage) operation(o *operation, listener string) {
	who := strings.Join(o.roles(), ", ")
	if len(o.rights) == 0 {
		who = "everybody"
	}
	p.write("<details id=\"%s\">\n<summary><b>%s</b><code>%s</code><span>%s</span></summary>\n<div><dl>\n", o.id, o.method, o.path, o.summary)
	p.write("<dt>Listener</dt><dd>%s</dd>\n<dt>Who may</dt><dd>%s</dd>\n", listener, who)
	for _, one := range o.parameters() {
		p.write("<dt><code>%s</code></dt><dd>%s (%s)</dd>\n", fmt.Sprint(one["name"]), fmt.Sprint(one["description"]), fmt.Sprint(one["in"]))
	}
	for _, body := range []string{o.bodySchema(), o.lines} {
		if body != "" {
			p.write("<dt>Body</dt><dd><a href=\"#schema-%s\">%s</a></dd>\n", body, body)
		}
	}
	p.write("<dt>%s</dt><dd>", strconv.Itoa(max(o.status, http.StatusOK)))
	answer := cmp.Or(o.answerLines, o.answer)
	if _, ok := documentSchemas()[answer]; ok {
		p.write("<a href=\"#schema-%s\">%s</a></dd>\n", answer, answer)
	} else {
		p.write("done</dd>\n")
	}
	for _, code := range o.failures() {
		p.write("<dt>%s</dt><dd>%s (<a href=\"#schema-Problem\">Problem</a>)</dd>\n", strconv.Itoa(code), http.StatusText(code))
	}
	p.write("</dl></div>\n</details>\n")
}

func (p *docsPage) schemas() {
	p.write("\n<h2 id=\"Schemas\">Schemas</h2>\n")
	all := documentSchemas()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text, err := json.MarshalIndent(all[name], "", "  ")
		if err != nil {
			panic(err) // it is ours
		}
		p.write("<details>\n<summary><b></b><code>%s</code><span></span></summary>\n<div><pre id=\"schema-%s\">%s</pre></div>\n</details>\n", name, name, string(text))
	}
}

// policyFor allows the one style element of a page by its hash.
func policyFor(page []byte) string {
	_, rest, _ := bytes.Cut(page, []byte("<style>"))
	style, _, _ := bytes.Cut(rest, []byte("</style>"))
	sum := sha256.Sum256(style)
	return fmt.Sprintf(docsPolicy, base64.StdEncoding.EncodeToString(sum[:]))
}
