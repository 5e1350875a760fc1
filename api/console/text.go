package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
)

// number groups the digits of a whole number.
func number(n any) string {
	if p, ok := n.(*int64); ok {
		n = *p
	}
	text := fmt.Sprint(n)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < '0' || r > '9' }) {
		return sign + text
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}

// maximum writes a max.
func maximum(n int64) string {
	if n == tierlimit.Unlimited {
		return "unlimited"
	}
	return number(n)
}

// percent writes a part of 1.
func percent(part float64) string { return strconv.FormatFloat(part*100, 'f', 0, 64) + " %" }

// share returns the part of max that is used, 0 to 1.
func share(used, most int64) float64 {
	if most <= 0 {
		return 0
	}
	return min(float64(used)/float64(most), 1)
}

// instant writes a time in UTC; a script writes it again in the zone of the reader.
func instant(t any) template.HTML { return timeElement(t, "2 Jan 2006 15:04", "full") }

// moment is instant with seconds, for what has just been.
func moment(t any) template.HTML { return timeElement(t, "15:04:05", "moment") }

func timeElement(t any, layout, kind string) template.HTML {
	var at time.Time
	switch t := t.(type) {
	case time.Time:
		at = t
	case *time.Time:
		if t == nil {
			return ""
		}
		at = *t
	}
	if at.IsZero() {
		return ""
	}
	at = at.UTC()
	return template.HTML(`<time datetime="` + at.Format(time.RFC3339) + `" data-time="` + kind + `">` + at.Format(layout) + ` UTC</time>`) //nolint:gosec // nothing in it needs to be escaped
}

// lasts writes a duration in its two largest units.
func lasts(d time.Duration) string {
	const day = 24 * time.Hour
	two := func(large time.Duration, largeName string, small time.Duration, smallName string) string {
		text := strconv.Itoa(int(d/large)) + " " + largeName
		if rest := d % large / small; rest > 0 {
			text += " " + strconv.Itoa(int(rest)) + " " + smallName
		}
		return text
	}
	switch {
	case d <= 0:
		return "now"
	case d < time.Minute:
		return strconv.Itoa(max(1, int(d.Seconds()))) + " s"
	case d < time.Hour:
		return two(time.Minute, "min", time.Second, "s")
	case d < day:
		return two(time.Hour, "h", time.Minute, "min")
	}
	return two(day, "d", time.Hour, "h")
}

// Instants and long numbers in a sentence of the API.
var (
	instantsInText = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	numbersInText  = regexp.MustCompile(`\b\d{5,}\b`)
)

// prose writes a sentence of a step of an explanation with its instants and numbers as everywhere
// else. Other steps may name ids and reasons, whose digits are no numbers.
func prose(step, text string) template.HTML {
	text = template.HTMLEscapeString(text)
	if step == "limit" || step == "load" {
		text = numbersInText.ReplaceAllStringFunc(text, func(n string) string { return number(n) })
	}
	text = instantsInText.ReplaceAllStringFunc(text, func(t string) string {
		at, err := time.Parse(time.RFC3339, t)
		if err != nil {
			return t
		}
		return string(instant(at))
	})
	return template.HTML(text) //nolint:gosec // it was escaped
}

// shown writes a value of JSON for people.
func shown(value any) template.HTML {
	escape := template.HTMLEscapeString
	switch value := value.(type) {
	case nil:
		return `<span class="none">none</span>`
	case bool:
		if value {
			return "yes"
		}
		return "no"
	case json.Number:
		return template.HTML(escape(number(value))) //nolint:gosec // it is escaped
	case string:
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			return instant(at)
		}
		if value == "" {
			return `<span class="none">empty</span>`
		}
		return template.HTML(escape(value)) //nolint:gosec // it is escaped
	case map[string]any:
		return shownObject(value)
	default:
		return template.HTML(escape(fmt.Sprint(value))) //nolint:gosec // it is escaped
	}
}

// shownObject writes an object in a line. The names of objects in it are those of limits or tiers.
func shownObject(object map[string]any) template.HTML {
	var parts []string
	for _, name := range sortedKeys(object) {
		value := object[name]
		if value == nil || value == "" || value == false {
			continue
		}
		label := template.HTMLEscapeString(words(name))
		text := string(shown(value))
		if _, nested := value.(map[string]any); nested {
			label, text = "<code>"+template.HTMLEscapeString(name)+"</code>", "("+text+")"
		}
		parts = append(parts, label+" "+text)
	}
	return template.HTML(strings.Join(parts, ", ")) //nolint:gosec // its parts are escaped
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// words writes a name of the API as words.
func words(name any) string {
	return strings.NewReplacer("_", " ").Replace(fmt.Sprint(name))
}

// link returns a relative link with a query of names and values.
func link(page string, pairs ...any) string {
	q := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		if value := fmt.Sprint(pairs[i+1]); value != "" {
			q.Add(fmt.Sprint(pairs[i]), value)
		}
	}
	if len(q) == 0 {
		return page
	}
	return page + "?" + q.Encode()
}

// plural writes a count with its noun.
func plural(n any, noun string) string {
	if fmt.Sprint(n) == "1" {
		return "1 " + noun
	}
	return number(n) + " " + noun + "s"
}

// initials returns the first letter of a name, for the badge of whoever is signed in.
func initials(name string) string {
	_, after, found := strings.Cut(name, ":")
	if !found {
		after = name
	}
	for _, r := range after {
		return strings.ToUpper(string(r))
	}
	return "?"
}
