package load

import (
	"errors"
	"slices"
	"strings"

	"github.com/tierlimit/tierlimit"
)

// Sources says which readings are of what is protected. The others are shown and do not count. The
// zero Sources chooses none.
type Sources struct {
	Own   bool     // this replica's own CPU: what is protected runs in this process or on this machine
	Names []string // sources of reports: names, or the beginning of names and *
}

// AllSources chooses a replica's own CPU and all reports.
var AllSources = Sources{Own: true, Names: []string{"*"}}

// SourcesRule is what ParseSources allows, as a FieldError says it.
const SourcesRule = "own, names of sources and beginnings of names with *, between commas, such as own,api-*; * is all that report"

// ownWord is the word for Sources.Own. No report may have it as its source.
const ownWord = "own"

var errSources = errors.New("not a list of sources")

// ParseSources reads a list such as "own,api-*". An error means that SourcesRule is broken.
func ParseSources(text string) (Sources, error) {
	var s Sources
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		beginning, open := strings.CutSuffix(part, "*")
		switch {
		case part == ownWord:
			s.Own = true
		case tierlimit.ValidName(beginning), open && beginning == "":
			s.Names = append(s.Names, part)
		default:
			return Sources{}, errSources
		}
	}
	return s, nil
}

// include reports whether reports of source count.
func (s Sources) include(source string) bool {
	return slices.ContainsFunc(s.Names, func(name string) bool {
		beginning, open := strings.CutSuffix(name, "*")
		return name == source || open && strings.HasPrefix(source, beginning)
	})
}
