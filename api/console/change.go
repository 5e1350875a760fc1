package console

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
)

// A change has three steps, all on the page "change": a form that shows what is there, a review
// that shows the API's dry run of what was typed, and the change itself. A change without fields
// begins with its review. When it is made, the browser is sent to the page of what was changed,
// which offers to undo it.

// A form is a change that a person can make.
type form struct {
	Title  string
	Lead   string // what it does, in a sentence
	Verb   string // what the last button says
	Stern  bool   // it takes something away
	Final  string // why it cannot be undone; "" if it can
	Fields []*field

	// Hidden are the values that say what is changed, and that came with what was shown.
	Hidden url.Values
	Back   string // the page of what is changed
	kind   string // of the event in the audit log
	// request returns the request to the API that makes the change.
	request func(url.Values) request
	after   func(request) string // the page to show afterwards; nil: Back
}

// A maker makes the form of a change to what the values name, filled with what is there.
type maker struct {
	right access.Right
	make  func(*visit, url.Values) (*form, error)
}

// makerOf returns the maker of a change by its name in the URL.
func makerOf(name string) (m maker, ok bool) {
	m, ok = map[string]maker{
		"create-subject":  {access.Change, newSubject},
		"plan":            {access.Change, changePlan},
		"trial":           {access.Change, changeTrial},
		"schedule":        {access.Change, changeSchedule},
		"status":          {access.Change, changeStatus},
		"block":           {access.Change, changeBlock},
		"billing":         {access.Change, changeBilling},
		"delete-subject":  {access.Change, deleteSubject},
		"reset":           {access.Change, resetUsage},
		"release":         {access.Change, releaseHold},
		"create-override": {access.Change, newOverride},
		"override":        {access.Change, changeOverride},
		"delete-override": {access.Change, deleteOverride},
		"create-key":      {access.Change, newKey},
		"key":             {access.Change, changeKey},
		"delete-key":      {access.Change, deleteKey},
		"create-token":    {access.Govern, newToken},
		"token":           {access.Govern, changeToken},
		"delete-token":    {access.Govern, deleteToken},
		"create-tier":     {access.Govern, newTier},
		"tier":            {access.Govern, changeTier},
		"delete-tier":     {access.Govern, deleteTier},
		"create-webhook":  {access.Govern, newWebhook},
		"webhook":         {access.Govern, changeWebhook},
		"delete-webhook":  {access.Govern, deleteWebhook},
		"load-mode":       {access.Govern, changeMode},
		"pin":             {access.Govern, changePin},
		"unpin":           {access.Govern, deletePin},
		"undo":            {access.Change, undo},
	}[name]
	return m, ok
}

// An effect is the API's answer to a dry run.
type effect struct {
	Changes []jsondiff.Change `json:"changes"`
	Along   *struct {
		Changes int `json:"changes"`
		Sample  []struct {
			Action string `json:"action"`
			Object string `json:"object"`
			Detail string `json:"detail"`
		} `json:"sample"`
	} `json:"along"`
	Affected struct {
		Subjects int      `json:"subjects"`
		Sample   []string `json:"sample"`
		Unknown  bool     `json:"unknown"`
		Refused  string   `json:"refused"`
		Checked  int      `json:"checked"`
		Denied   []struct {
			Subject string `json:"subject"`
			Limit   string `json:"limit"`
			Used    int64  `json:"used"`
			Max     int64  `json:"max"`
			Over    int64  `json:"over"`
		} `json:"denied"`
		Limits []limitEffect `json:"limits"`
	} `json:"affected"`
}

type limitEffect struct {
	Limit  string `json:"limit"`
	Before *most  `json:"before"`
	After  *most  `json:"after"`
	Used   *int64 `json:"used"`
	Denies *bool  `json:"denies"`
}

type most struct {
	Max *int64 `json:"max"`
}

// Text writes a max.
func (m *most) Text() string {
	switch {
	case m == nil:
		return "none"
	case m.Max == nil:
		return "unlimited"
	}
	return number(*m.Max)
}

// DeniesNow reports whether the limit would deny the next request, and does not now.
func (l limitEffect) DeniesNow() bool { return l.Denies != nil && *l.Denies }

// A changePage is a step of a change.
type changePage struct {
	*form
	Section  string
	Values   url.Values // as typed
	Problems []string   // what is wrong beside the fields
	InTheWay []string
	Review   *effect // nil: the form is shown
	current  string  // the ETag of what is there now
	Secret   string  // of a credential that was made: shown once
	SecretOf string
}

// maxForm bounds what is read of a form.
const maxForm = 256 << 10

// changeForm shows the form of a change, or the review of one without fields.
func (v *visit) changeForm() error {
	p, err := v.changePage(v.r.URL.Query())
	if err != nil {
		return err
	}
	if len(p.Fields) == 0 {
		v.review(p)
	}
	v.show(p)
	return nil
}

// makeChange shows the review of a change, or makes it.
func (v *visit) makeChange() error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return &problem{Status: http.StatusBadRequest, Detail: "The form could not be read."}
	}
	typed := v.r.PostForm
	p, err := v.changePage(typed)
	if err != nil {
		return err
	}
	p.fill(typed)
	switch typed.Get("step") {
	case "edit":
	case "apply":
		return v.apply(p)
	default:
		v.review(p)
	}
	v.show(p)
	return nil
}

// changePage makes the form that the values name.
func (v *visit) changePage(values url.Values) (*changePage, error) {
	name := values.Get("do")
	one, ok := makerOf(name)
	if !ok {
		return nil, &problem{Status: http.StatusNotFound, Detail: "There is no such change."}
	}
	if !v.who.Role.May(one.right) {
		return nil, &problem{Status: http.StatusForbidden, Detail: "Your role, " + string(v.who.Role) + ", does not allow this change."}
	}
	f, err := one.make(v, values)
	if err != nil {
		return nil, err
	}
	if f.Hidden == nil {
		f.Hidden = make(url.Values)
	}
	f.Hidden.Set("do", name)
	p := &changePage{form: f, Section: sectionOf(f.Back), Values: make(url.Values)}
	for key, list := range f.Hidden {
		p.Values[key] = list
	}
	for _, one := range f.Fields {
		p.Values[one.Name] = one.Values
	}
	return p, nil
}

// sectionOf returns the entry of the navigation that a page belongs to.
func sectionOf(page string) string {
	name, _, _ := strings.Cut(page, "?")
	if of, ok := sections[name]; ok {
		return of
	}
	return name
}

// fill puts what was typed in the place of what is there, and the version it was typed for.
func (p *changePage) fill(typed url.Values) {
	for _, one := range p.Fields {
		one.Values = typed[one.Name]
		p.Values[one.Name] = one.Values
	}
	p.current = p.Hidden.Get("etag")
	for _, name := range []string{"etag", "attempt"} {
		if typed.Has(name) {
			p.Hidden.Set(name, typed.Get(name))
			p.Values.Set(name, typed.Get(name))
		}
	}
}

// review asks the API what the change would do. What is wrong is kept beside the fields.
func (v *visit) review(p *changePage) {
	q := p.request(p.Values)
	if q.query == nil {
		q.query = make(url.Values)
	}
	q.query.Set("dry_run", "true")
	a, err := v.ask(q)
	if err != nil {
		p.refuse(err)
		return
	}
	p.Review = new(effect)
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.UseNumber()
	if err := dec.Decode(p.Review); err != nil {
		p.refuse(err)
	}
}

// apply makes the change.
func (v *visit) apply(p *changePage) error {
	q := p.request(p.Values)
	a, err := v.ask(q)
	if err != nil {
		p.refuse(err)
		v.show(p)
		return nil
	}
	var made struct{ Name, Secret string }
	if len(a.body) > 0 {
		_ = json.Unmarshal(a.body, &made) // an answer without a secret is not looked at
	}
	if made.Secret != "" { // it must not stand in a URL, so this is the only page that shows it
		p.Secret, p.SecretOf = made.Secret, made.Name
		v.show(p)
		return nil
	}
	to := p.Back
	if p.after != nil {
		to = p.after(q)
	}
	v.redirect(v.afterwards(to, p.kind))
	return nil
}

// afterwards adds to a page the event of the change of a kind that was just made.
func (v *visit) afterwards(page, kind string) string {
	l, err := read[list[event]](v, "/admin/v1/audit", url.Values{"actor": {v.who.Actor}, "kind": {kind}, "limit": {"1"}})
	if err != nil || len(l.Data) == 0 {
		return page // the change is made all the same
	}
	path, query, _ := strings.Cut(page, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return page
	}
	q.Set("done", strconv.FormatInt(l.Data[0].ID, 10))
	return path + "?" + q.Encode()
}

// A group is a set of fields that a form shows under one heading.
type group struct {
	Name   string
	Fields []*field
	Boxes  []*field
	Minor  []*field
}

// Open reports whether the minor fields are to be seen: something is wrong with one of them.
func (g *group) Open() bool {
	return slices.ContainsFunc(g.Minor, func(f *field) bool { return f.Error != "" })
}

// Groups returns the fields by group, in their order.
func (f *form) Groups() (all []group) {
	for _, one := range f.Fields {
		if len(all) == 0 || all[len(all)-1].Name != one.Group {
			all = append(all, group{Name: one.Group})
		}
		last := &all[len(all)-1]
		switch {
		case one.Minor:
			last.Minor = append(last.Minor, one)
		case one.Kind == boxField:
			last.Boxes = append(last.Boxes, one)
		default:
			last.Fields = append(last.Fields, one)
		}
	}
	return all
}

// refuse keeps why the API refused: each error beside its field, and the others above the form.
func (p *changePage) refuse(err error) {
	var refused *problem
	if !errors.As(err, &refused) {
		p.Problems = append(p.Problems, reasonOf(err))
		return
	}
	p.InTheWay = refused.InTheWay
	switch refused.Status {
	case http.StatusPreconditionFailed:
		p.Hidden.Set("etag", p.current)
		p.Problems = append(p.Problems, "Somebody else has changed it since you opened this form. What you typed is kept: look at what is there now, and review again.")
		return
	case http.StatusNotFound:
		p.Problems = append(p.Problems, "It is no longer there: "+refused.Detail)
		return
	}
	if len(refused.Errors) == 0 {
		p.Problems = append(p.Problems, refused.Detail)
	}
	for _, e := range refused.Errors {
		if f := p.fieldOf(e.Field); f != nil && f.Error == "" {
			f.Error = besideField(e.Detail)
			continue
		}
		p.Problems = append(p.Problems, e.Detail)
	}
}

// besideField returns an error of the API as it stands beside its field: without the field and the
// value, and with what is typed for no limit.
func besideField(detail string) string {
	_, want, found := strings.Cut(detail, ": must be ")
	if !found {
		return detail
	}
	return "Must be " + strings.Replace(want, "null for unlimited", "unlimited", 1) + "."
}

// fieldOf returns the field of the form that a field of the API is typed in.
func (p *changePage) fieldOf(name string) *field {
	for _, f := range p.Fields {
		if f.Name == name || f.covers(name) {
			return f
		}
	}
	return nil
}

// show answers with the step.
func (v *visit) show(p *changePage) {
	status := http.StatusOK
	for _, f := range p.Fields {
		if f.Error != "" {
			status = http.StatusUnprocessableEntity
		}
	}
	if len(p.Problems) > 0 {
		status = http.StatusUnprocessableEntity
	}
	v.render(status, "change", p.Title, p)
}

// tagged returns the header of a change to the version that was shown.
func tagged(values url.Values) map[string]string {
	return map[string]string{"If-Match": cmp.Or(values.Get("etag"), "*")}
}

// once returns the header that keeps a form that is sent twice from creating two things.
func once(values url.Values) map[string]string {
	return map[string]string{"Idempotency-Key": values.Get("attempt")}
}

// attempt returns the hidden values of a form that creates something.
func attempt(pairs ...string) url.Values {
	h := url.Values{"attempt": {rand.Text()}}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}
