package console

import (
	"bytes"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

// noTime is the modification time of the embedded files. Browsers compare their ETags instead.
var noTime time.Time

// A view is what the layout of all pages shows, and the page's own data.
type view struct {
	Title, Section string
	Who            identity
	Replica        string
	Data           any
}

// May reports whether whoever is signed in has a right.
func (v view) May(right string) bool { return v.Who.Role.May(access.Right(right)) }

// pages are the templates by name. html/template is in the binary in any case, as a dependency of
// gRPC runs it.
type pages map[string]*template.Template

// parsePages parses the layout with each page.
func parsePages() pages {
	layout := template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html"))
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err) // the pattern is well-formed
	}
	all := make(pages)
	for _, name := range names {
		page := template.Must(template.Must(layout.Clone()).ParseFS(files, name))
		all[strings.TrimSuffix(path.Base(name), ".html")] = page
	}
	return all
}

// render executes a template and writes the page. If the template fails, render writes an error
// instead of a part of the page.
func (v *visit) render(status int, name, title string, data any) {
	v.renderBlock(status, name, "layout", title, data)
}

// renderBlock answers with one block of a page.
func (v *visit) renderBlock(status int, name, block, title string, data any) {
	var b bytes.Buffer
	if err := v.console.pages[name].ExecuteTemplate(&b, block, v.view(name, title, data)); err != nil {
		v.console.cfg.Logger.Error("console: template failed", "page", name, "error", err)
		http.Error(v.w, "This page could not be made. The log of this replica says why.", http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(b.Bytes()) // the client may be gone
}

// sections are the entries of the navigation that pages belong to, if not of their own name.
var sections = map[string]string{"subject": "subjects", "tier": "tiers", "webhook": "webhooks"}

func (v *visit) view(name, title string, data any) view {
	section := name
	if of, ok := sections[name]; ok {
		section = of
	}
	if c, ok := data.(*changePage); ok {
		section = c.Section
	}
	return view{Title: title, Section: section, Who: v.who, Replica: v.console.cfg.Replica, Data: data}
}

// functions are those of the templates.
var functions = template.FuncMap{
	"number":        number,
	"maximum":       maximum,
	"percent":       percent,
	"instant":       instant,
	"moment":        moment,
	"lasts":         lasts,
	"shown":         shown,
	"words":         words,
	"fieldOf":       fieldLabel,
	"link":          link,
	"plural":        plural,
	"prose":         prose,
	"bar":           bar,
	"multiplierBar": multiplierBar,
	"list":          func(items ...any) []any { return items },
	"initials":      initials,
	"limitRows":     limitRows,
}
