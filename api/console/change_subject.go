package console

import (
	"net/http"
	"net/url"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// tierOptions returns the tiers to choose from. empty, if not "", labels the choice of none.
func (v *visit) tierOptions(empty string) ([]option, error) {
	list, err := v.tierList()
	if err != nil {
		return nil, err
	}
	var all []option
	if empty != "" {
		all = append(all, option{"", empty})
	}
	for i := range list {
		label := list[i].Name
		if label != list[i].Key {
			label += " (" + list[i].Key + ")"
		}
		all = append(all, option{list[i].Key, label})
	}
	return all, nil
}

func newSubject(v *visit, q url.Values) (*form, error) {
	options, err := v.tierOptions("")
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: "New subject", Lead: "Put a customer on a tier. Whoever is not created is on the default tier.", Verb: "Create subject",
		Hidden: attempt(), Back: "subjects", kind: tiers.KindSubject,
		Fields: []*field{
			{Name: "id", Label: "Id", Kind: textField, Values: []string{q.Get("id")}, Required: true, Help: "As your requests name the customer: acct_42"},
			{Name: "tier", Label: "Tier", Kind: chooseField, Options: options, Values: []string{q.Get("tier")}},
			{Name: "billing_anchor", Label: "Billing since", Kind: timeField, Help: "Billing periods begin on this day of the month. Empty: with the calendar's."},
		},
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPost, path: "/admin/v1/subjects", header: once(values), body: withoutNull(bodyOf(f.Fields, values))}
	}
	f.after = func(q request) string {
		id, _ := q.body.(map[string]any)["id"].(string)
		return link("subject", "id", id)
	}
	return f, nil
}

// subjectForm returns a form that changes some fields of a subject. fields makes them.
func subjectForm(v *visit, q url.Values, title, lead string, fields func(s *tiers.Subject) []*field) (*form, error) {
	id := q.Get("id")
	s, etag, err := readTagged[tiers.Subject](v, subjectPath(id), nil)
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: title, Lead: lead, Verb: "Apply change", Fields: fields(&s),
		Hidden: url.Values{"id": {id}, "etag": {etag}}, Back: link("subject", "id", id), kind: tiers.KindSubject,
	}
	f.request = func(values url.Values) request {
		return request{method: http.MethodPatch, path: subjectPath(id), header: tagged(values), body: bodyOf(f.Fields, values)}
	}
	return f, nil
}

func changePlan(v *visit, q url.Values) (*form, error) {
	options, err := v.tierOptions("")
	if err != nil {
		return nil, err
	}
	return subjectForm(v, q, "Change the tier", "The next request is held to the new limits. What was used stays used.", func(s *tiers.Subject) []*field {
		return []*field{{Name: "tier", Label: "Tier", Kind: chooseField, Options: options, Values: []string{s.Tier}}}
	})
}

func changeTrial(v *visit, q url.Values) (*form, error) {
	options, err := v.tierOptions("No trial")
	if err != nil {
		return nil, err
	}
	return subjectForm(v, q, "Trial", "Until a trial ends, its tier is in force in the place of the subject's own.", func(s *tiers.Subject) []*field {
		var trial tiers.Trial
		if s.Trial != nil {
			trial = *s.Trial
		}
		return []*field{
			{Name: "trial.tier", Label: "Tier to try", Kind: chooseField, Options: options, Values: []string{trial.Tier}},
			{Name: "trial.ends_at", Label: "Ends", Kind: timeField, Values: []string{inputOf(&trial.EndsAt)}, Also: []string{"trial"}},
		}
	})
}

func changeSchedule(v *visit, q url.Values) (*form, error) {
	options, err := v.tierOptions("Nothing scheduled")
	if err != nil {
		return nil, err
	}
	return subjectForm(v, q, "Schedule a change of tier", "The change is made at that instant, also if nobody is there.", func(s *tiers.Subject) []*field {
		var next tiers.Change
		if s.Next != nil {
			next = *s.Next
		}
		return []*field{
			{Name: "next.tier", Label: "Next tier", Kind: chooseField, Options: options, Values: []string{next.Tier}},
			{Name: "next.at", Label: "From", Kind: timeField, Values: []string{inputOf(&next.At)}, Also: []string{"next"}},
		}
	})
}

func changeStatus(v *visit, q url.Values) (*form, error) {
	return subjectForm(v, q, "Change the status", "A suspended subject is denied. One that is past due is served until its grace ends.", func(s *tiers.Subject) []*field {
		return []*field{
			{Name: "status", Label: "Status", Kind: chooseField, Values: []string{string(s.Status)}, Options: []option{
				{string(tiers.Active), "Active"}, {string(tiers.PastDue), "Past due"}, {string(tiers.Suspended), "Suspended"},
			}},
			{Name: "grace_until", Label: "Grace until", Kind: timeField, Values: []string{inputOf(s.GraceUntil)}, Help: "Only of a subject that is past due."},
		}
	})
}

func changeBlock(v *visit, q url.Values) (*form, error) {
	return subjectForm(v, q, "Block for a while", "Every request is denied until then, whatever was used.", func(s *tiers.Subject) []*field {
		return []*field{{Name: "blocked_until", Label: "Blocked until", Kind: timeField, Values: []string{inputOf(s.BlockedUntil)}, Help: "Empty: not blocked."}}
	})
}

func changeBilling(v *visit, q url.Values) (*form, error) {
	return subjectForm(v, q, "Billing date", "Limits that follow the billing begin anew on this day of each month.", func(s *tiers.Subject) []*field {
		return []*field{{Name: "billing_anchor", Label: "Billing since", Kind: timeField, Values: []string{inputOf(s.BillingAnchor)}, Help: "Empty: with the calendar's months."}}
	})
}

func deleteSubject(v *visit, q url.Values) (*form, error) {
	id := q.Get("id")
	_, etag, err := readTagged[tiers.Subject](v, subjectPath(id), nil)
	if err != nil {
		return nil, err
	}
	return &form{
		Title: "Delete the subject", Lead: "Its requests are held to the default tier from then on. Its API keys stop working.", Verb: "Delete subject", Stern: true,
		Final:  "The subject and each override can be restored. Deleted API keys cannot: their secrets are not kept.",
		Hidden: url.Values{"id": {id}, "etag": {etag}}, Back: link("subject", "id", id), kind: tiers.KindSubject,
		request: func(values url.Values) request {
			return request{method: http.MethodDelete, path: subjectPath(id), header: tagged(values)}
		},
	}, nil
}

func resetUsage(v *visit, q url.Values) (*form, error) {
	id := q.Get("id")
	usage, err := read[tierlimit.Usage](v, subjectPath(id)+"/usage", nil)
	if err != nil {
		return nil, err
	}
	box := &field{Name: "limit", Label: "Limits", Kind: boxesField}
	for i := range usage.Windows {
		w := &usage.Windows[i]
		box.Options = append(box.Options, option{w.Limit, w.Limit + ", " + number(w.Used) + " used"})
		box.Values = append(box.Values, w.Limit)
	}
	return &form{
		Title: "Reset usage", Lead: "What the subject has used of these limits is forgotten. Open holds stay open.", Verb: "Reset usage", Stern: true,
		Final: "What was used cannot be restored.", Fields: []*field{box},
		Hidden: url.Values{"id": {id}}, Back: link("subject", "id", id), kind: tiers.KindUsage,
		request: func(values url.Values) request {
			limits := url.Values{"limit": values["limit"]}
			if len(values["limit"]) == 0 {
				limits["limit"] = []string{""} // the API says that it names no limit; without it all would be reset
			}
			return request{method: http.MethodDelete, path: subjectPath(id) + "/usage", query: limits}
		},
	}, nil
}

func releaseHold(_ *visit, q url.Values) (*form, error) {
	id, hold := q.Get("id"), q.Get("hold")
	return &form{
		Title: "Release the hold", Lead: "What the hold has charged is given back, and its place under concurrent limits is free.", Verb: "Release hold", Stern: true,
		Final: "A hold that was released cannot be opened again.", Hidden: url.Values{"id": {id}, "hold": {hold}}, Back: link("subject", "id", id), kind: tiers.KindUsage,
		request: func(url.Values) request {
			return request{method: http.MethodDelete, path: subjectPath(id) + "/holds/" + url.PathEscape(hold)}
		},
	}, nil
}
