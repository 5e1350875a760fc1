package console

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// windowPieces returns the fields of the API that a typed window is made of.
func windowPieces(name string) func(string) map[string]any {
	return func(value string) map[string]any {
		all := map[string]any{name + ".window": nil, name + ".period": nil, name + ".concurrent": nil}
		switch value {
		case "":
		case "concurrent":
			all[name+".concurrent"] = true
		case "day", "week", "month":
			all[name+".period"] = value
		default:
			all[name+".window"] = value
		}
		return all
	}
}

// limitFields are the fields of one limit of a tier.
func limitFields(name, group string, l *tiers.Limit, isNew bool) []*field {
	path := "limits." + name
	most, window := "", ""
	if !isNew {
		most, window = maximum(l.Max), windowText(*l)
	}
	fields := []*field{
		{Name: path + ".max", Label: "Max", Kind: maxField, Values: []string{most}, Help: "A whole number, or unlimited."},
		{
			Name: path + ".window", Label: "Window", Kind: textField, Values: []string{window}, pieces: windowPieces(path),
			Also: []string{path + ".period", path + ".concurrent", path}, Help: "60s, 1h, day, week, month or concurrent.",
		},
		{Name: path + ".scope", Label: "Scope", Kind: textField, Values: []string{l.Scope}, Help: "Empty: all requests."},
		{Minor: true, Name: path + ".algorithm", Label: "Algorithm", Kind: chooseField, Values: []string{sliding(l)}, Options: []option{{"", "Fixed window"}, {"sliding", "Sliding window"}}},
		{Minor: true, Name: path + ".anchor", Label: "Period begins", Kind: chooseField, Values: []string{string(l.Anchor)}, Options: []option{
			{"", "With the calendar's"}, {string(tiers.AnchorBilling), "With the billing"}, {string(tiers.AnchorSpread), "Spread over the customers"},
		}},
		{Minor: true, Name: path + ".on_expiry", Label: "An expired hold", Kind: chooseField, Values: []string{onExpiry(l)}, Options: []option{{"", "Stays charged"}, {"release", "Is given back"}}},
		{Minor: true, Name: path + ".alerts", Label: "Events at", Kind: textField, Values: []string{alertsText(l.Alerts, "none")}, pieces: alertsPiece(path + ".alerts"), Help: alertsHelp},
		{Name: path + ".adaptive", Label: "Scaled by load", Kind: boxField, Values: []string{strconv.FormatBool(l.Adaptive)}},
		{Name: path + ".shadow", Label: "Shadow: never denies", Kind: boxField, Values: []string{strconv.FormatBool(l.Shadow)}},
	}
	for _, f := range fields {
		f.Group = group
		if !isNew { // which show by themselves what may be typed
			f.Help = ""
		}
	}
	return fields
}

func sliding(l *tiers.Limit) string {
	if l.Algorithm == tierlimit.Sliding {
		return string(l.Algorithm)
	}
	return ""
}

func onExpiry(l *tiers.Limit) string {
	if l.OnExpiry == tierlimit.ReleaseOnExpiry {
		return string(l.OnExpiry)
	}
	return ""
}

// alertsHelp says what the thresholds of a limit may be.
const alertsHelp = "Percent of the max. Empty: those of the tier. none: no event."

// alertsText writes thresholds; none is what stands for an empty list.
func alertsText(list []int, none string) string {
	if list != nil && len(list) == 0 {
		return none
	}
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ", ")
}

// alertsPiece returns what a field of thresholds is in JSON. What is no number stays text, for the
// API to say what is wrong with it.
func alertsPiece(name string) func(string) map[string]any {
	return func(text string) map[string]any {
		if text == "" {
			return map[string]any{name: nil}
		}
		list := []any{}
		for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' || r == '%' }) {
			switch n, err := strconv.Atoi(part); {
			case err == nil:
				list = append(list, n)
			case part != "none":
				list = append(list, part)
			}
		}
		return map[string]any{name: list}
	}
}

// tierFields are the fields of a tier beside its limits.
func tierFields(t *tiers.Tier) []*field {
	var curve [3]string
	if t.Load != nil {
		for i, part := range []float64{t.Load.Start, t.Load.Full, t.Load.Floor} {
			curve[i] = strconv.FormatFloat(part, 'g', -1, 64)
		}
	}
	const load = "Load"
	return []*field{
		{Name: "name", Label: "Name", Kind: textField, Values: []string{t.Name}},
		{Name: "priority", Label: "Priority", Kind: numberField, Values: []string{strconv.Itoa(t.Priority)}, Help: "0 to 1000. Under load a lower one gives way first."},
		{Name: "on_store_error", Label: "While Redis is away", Kind: chooseField, Values: []string{string(t.OnStoreError)}, Options: []option{
			{"local", "Count in each replica"}, {"open", "Allow everything"}, {"closed", "Deny everything"},
		}},
		{Name: "denials", Label: "A denial shows", Kind: chooseField, Values: []string{string(t.Denials)}, Options: []option{
			{"full", "Everything"}, {"plain", "Status, Retry-After and limit"},
		}},
		{Name: "alerts", Label: "Events at", Kind: textField, Values: []string{alertsText(t.Alerts, "")}, pieces: alertsPiece("alerts"), Help: "Percent of each limit with a window, such as 80, 100: webhooks are told who reaches it."},
		{Name: "default", Label: "Default tier, of whoever is not a subject", Kind: boxField, Values: []string{strconv.FormatBool(t.Default)}},
		{Name: "load.start", Label: "Scaled from a CPU load of", Kind: numberField, Values: []string{curve[0]}, Group: load, Help: "0 to 1, such as 0.7."},
		{Name: "load.full", Label: "At the floor from", Kind: numberField, Values: []string{curve[1]}, Group: load, Help: "0 to 1, such as 0.9."},
		{Name: "load.floor", Label: "Floor", Kind: numberField, Values: []string{curve[2]}, Group: load, Help: "The multiplier at full load, 0.05 to 1. All three empty: no curve.", Also: []string{"load"}},
	}
}

// A tierForm's limits stand in groups, which the values name: a limit can be added and removed
// without a script.
func changeTier(v *visit, q url.Values) (*form, error) {
	key := q.Get("key")
	t, etag, err := readTagged[tiers.Tier](v, tierPath(key), nil)
	if err != nil {
		return nil, err
	}
	f := &form{
		Title: "Edit " + t.Name, Lead: "The next request of every customer on this tier is held to the new limits. What was used stays used.", Verb: "Apply change",
		Fields: tierFields(&t), Hidden: url.Values{"key": {key}, "etag": {etag}}, Back: link("tier", "key", key), kind: tiers.KindTier,
	}
	var removals []*field
	for _, row := range limitRows(t.Limits) {
		fields := limitFields(row.Name, "Limit "+row.Name, &row.Limit, false)
		remove := &field{Name: "remove." + row.Name, Label: "Remove this limit", Kind: boxField, Group: "Limit " + row.Name}
		removals = append(removals, remove)
		f.Fields = append(append(f.Fields, fields...), remove)
	}
	added := newLimit()
	f.Fields = append(f.Fields, added...)
	f.request = func(values url.Values) request {
		body := bodyOf(f.Fields, values)
		limits, _ := body["limits"].(map[string]any)
		body["limits"] = withNewLimit(limits, values)
		for _, one := range removals {
			if values.Get(one.Name) == "true" {
				set(body, []string{"limits", one.Name[len("remove."):]}, nil)
			}
		}
		delete(body, "remove")
		delete(body, newLimitName)
		return request{method: http.MethodPatch, path: tierPath(key), header: tagged(values), body: body}
	}
	return f, nil
}

// newLimitName is the field that names a limit to add. It is no name of a limit.
const newLimitName = "new_limit"

// newLimit are the fields of a limit to add.
func newLimit() []*field {
	const group = "Add a limit"
	name := &field{Name: newLimitName, Label: "Name", Kind: textField, Group: group, Help: "Such as per_minute. Empty: none is added."}
	fields := limitFields("+", group, new(tiers.Limit), true)
	return append([]*field{name}, fields...)
}

// withNewLimit moves the limit to add under its name.
func withNewLimit(limits map[string]any, values url.Values) map[string]any {
	if limits == nil {
		return nil
	}
	added := limits["+"]
	delete(limits, "+")
	if name := values.Get(newLimitName); name != "" {
		limits[name] = added
	}
	return limits
}

func newTier(_ *visit, q url.Values) (*form, error) {
	t := tiers.Tier{OnStoreError: tierlimit.Local, Denials: tierlimit.DenialsFull}
	f := &form{
		Title: "New tier", Lead: "A named set of limits. Further limits are added by editing it.", Verb: "Create tier", Hidden: attempt(), Back: "tiers", kind: tiers.KindTier,
		Fields: append([]*field{{Name: "key", Label: "Key", Kind: textField, Values: []string{q.Get("key")}, Required: true, Help: "Small letters, digits, _ and -. It cannot be changed."}}, tierFields(&t)...),
	}
	added := newLimit()
	f.Fields = append(f.Fields, added...)
	f.Fields[len(f.Fields)-len(added)].Help = "Such as per_minute."
	f.request = func(values url.Values) request {
		body := bodyOf(f.Fields, values)
		limits, _ := body["limits"].(map[string]any)
		body["limits"] = withNewLimit(limits, values)
		delete(body, newLimitName)
		return request{method: http.MethodPost, path: "/admin/v1/tiers", header: once(values), body: withoutNull(body)}
	}
	f.after = func(q request) string {
		key, _ := q.body.(map[string]any)["key"].(string)
		return link("tier", "key", key)
	}
	return f, nil
}

func deleteTier(v *visit, q url.Values) (*form, error) {
	key := q.Get("key")
	t, etag, err := readTagged[tiers.Tier](v, tierPath(key), nil)
	if err != nil {
		return nil, err
	}
	return &form{
		Title: "Delete " + t.Name, Lead: "A tier that a subject is on, tries or will be on cannot be deleted: move the subjects first.", Verb: "Delete tier", Stern: true,
		Hidden: url.Values{"key": {key}, "etag": {etag}}, Back: link("tier", "key", key), kind: tiers.KindTier,
		request: func(values url.Values) request {
			return request{method: http.MethodDelete, path: tierPath(key), header: tagged(values)}
		},
		after: func(request) string { return "tiers" },
	}, nil
}
