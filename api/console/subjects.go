package console

import (
	"net/http"
	"net/url"

	"github.com/tierlimit/tierlimit/tiers"
)

// A subjectsPage is a page of the list of subjects.
type subjectsPage struct {
	Prefix, Tier, Status string
	Tiers                []tiers.Tier
	List                 list[tiers.Subject]
	Problem              string
	Next                 string // the link to the next page; "" for none
	Later                bool   // whether it is not the first page
}

// Filtered reports whether not all subjects are meant.
func (p *subjectsPage) Filtered() bool { return p.Prefix != "" || p.Tier != "" || p.Status != "" }

// subjects lists subjects. An id that is there is shown at once.
func (v *visit) subjects() error {
	q := v.r.URL.Query()
	p := &subjectsPage{Prefix: q.Get("prefix"), Tier: q.Get("tier"), Status: q.Get("status"), Later: q.Get("cursor") != ""}
	if q.Get("find") != "" && p.Prefix != "" {
		if _, err := v.ask(request{method: http.MethodGet, path: subjectPath(p.Prefix)}); err == nil {
			v.redirect(link("subject", "id", p.Prefix))
			return nil
		}
	}
	filter := make(url.Values)
	for name, value := range map[string]string{"prefix": p.Prefix, "tier": p.Tier, "status": p.Status, "cursor": q.Get("cursor")} {
		if value != "" {
			filter.Set(name, value)
		}
	}
	var err error
	if p.Tiers, err = v.tierList(); err != nil {
		return err
	}
	if p.List, err = read[list[tiers.Subject]](v, "/admin/v1/subjects", filter); err != nil {
		if !isStatus(err, http.StatusBadRequest) {
			return err
		}
		p.Problem = reasonOf(err)
	}
	if p.List.HasMore {
		p.Next = link("subjects", "prefix", p.Prefix, "tier", p.Tier, "status", p.Status, "cursor", p.List.NextCursor)
	}
	v.render(http.StatusOK, "subjects", "Subjects", p)
	return nil
}

// tierList returns all tiers, by priority.
func (v *visit) tierList() ([]tiers.Tier, error) {
	l, err := read[list[tiers.Tier]](v, "/admin/v1/tiers", nil)
	return l.Data, err
}
