package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What docs/guarantees.md names exists: the tests, the rows of the matrix, and what is
// asked of every row.
func TestTheGuaranteesNameWhatHoldsThem(t *testing.T) {
	text, err := os.ReadFile("../docs/guarantees.md")
	must(t, err)
	var source strings.Builder
	must(t, filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			var code []byte
			if code, err = os.ReadFile(path); err == nil {
				source.Write(code)
			}
		}
		return err
	}))
	var faults []string
	for _, f := range slices.Concat(redisFaults, topologyFaults, postgresFaults, processFaults) {
		faults = append(faults, f.name)
	}
	names := 0
	for _, match := range regexp.MustCompile(`(?m)^\| \d+ \|.*\| (.*) \|$`).FindAllSubmatch(text, -1) {
		for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllSubmatch(match[1], -1) {
			name := string(quoted[1])
			switch {
			case strings.HasPrefix(name, "make "), strings.Contains(name, "/"): // a command, or where a test is
			case strings.HasPrefix(name, "Test"), strings.HasPrefix(name, "Fuzz"):
				names++
				if !strings.Contains(source.String(), "\nfunc "+name+"(") {
					t.Errorf("there is no %s", name)
				}
			case slices.Contains(faults, name):
				names++
			case strings.Contains(source.String(), ") "+name+"("): // what rows are held to
			case name == "api", name == "events", name == "httplimit":
			default:
				t.Errorf("%q is no test and no fault", name)
			}
		}
	}
	if names < 40 {
		t.Errorf("only %d names were found: the test shows nothing", names)
	}
}
