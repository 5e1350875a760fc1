// Command mutants puts known defects into the code, one by one, and shows the test that
// sees each. It exits with 1 if a defect is seen by no test, or by fewer than -rate of
// the list.
//
// A list holds defects, each as
//
//	defect: what a user would suffer
//	test: <package> [<regular expression of tests>]
//	file: <path>
//	<<<<
//	text that stands in the file exactly once
//	====
//	text in its place
//	>>>>
//
// with more than one file, or more than one text, where it takes that. The code itself is
// not touched: go test reads the changed files through -overlay.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// A mutant is one defect.
type mutant struct {
	defect  string
	pkg     string
	tests   string
	changes []change
}

// A change puts one text in the place of another in a file.
type change struct{ file, from, to string }

func run() error {
	rate := flag.Float64("rate", 1, "the part of the list that must be seen")
	only := flag.String("only", "", "a regular expression of the defects to put in (default all)")
	at := flag.Int("at-a-time", 2, "how many are tried at once")
	flag.Parse()
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	var list []mutant
	for _, name := range flag.Args() {
		found, err := read(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, m := range found {
			if chosen.MatchString(m.defect) {
				list = append(list, m)
			}
		}
	}
	scratch, err := os.MkdirTemp("", "tierlimit-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	results := make([]result, len(list))
	places := make(chan struct{}, *at)
	var wg sync.WaitGroup
	for i := range list {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			results[i] = list[i].try(filepath.Join(scratch, fmt.Sprint(i)))
			fmt.Fprintf(os.Stdout, "%-76.76s %s\n", list[i].defect, results[i])
		})
	}
	wg.Wait()
	seen := 0
	for _, r := range results {
		if r.seen {
			seen++
		}
	}
	fmt.Printf("%d of %d seen\n", seen, len(list))
	if len(list) == 0 || float64(seen) < *rate*float64(len(list)) {
		return fmt.Errorf("at least %.0f%% must be seen", *rate*100)
	}
	return nil
}

// read returns the mutants of a list.
func read(name string) (list []mutant, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var file string
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		key, value, _ := strings.Cut(line, ": ")
		if line != "" && !strings.HasPrefix(line, "#") && key != "defect" && len(list) == 0 {
			return nil, fmt.Errorf("line %d: %q before the first defect", n, line)
		}
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case key == "defect":
			list = append(list, mutant{defect: value})
		case key == "test":
			last := &list[len(list)-1]
			last.pkg, last.tests, _ = strings.Cut(value, " ")
		case key == "file":
			file = value
		case line == "<<<<":
			c := change{file: file}
			from, ended := until(lines, "====")
			to, closed := until(lines, ">>>>")
			if !ended || !closed {
				return nil, fmt.Errorf("line %d: no ==== and >>>> after <<<<", n)
			}
			n += strings.Count(from, "\n") + strings.Count(to, "\n") + 4
			c.from, c.to = from, to
			list[len(list)-1].changes = append(list[len(list)-1].changes, c)
		default:
			return nil, fmt.Errorf("line %d: %q", n, line)
		}
	}
	return list, lines.Err()
}

func until(lines *bufio.Scanner, mark string) (text string, found bool) {
	var b []string
	for lines.Scan() {
		if lines.Text() == mark {
			return strings.Join(b, "\n"), true
		}
		b = append(b, lines.Text())
	}
	return "", false
}

// A result is what became of a mutant.
type result struct {
	seen bool
	by   string // the test that saw it, or why it was not seen
}

func (r result) String() string {
	if r.seen {
		return r.by
	}
	return "NOT SEEN: " + r.by
}

// try puts m in, and runs its tests.
func (m *mutant) try(dir string) result {
	overlay, err := m.overlay(dir)
	if err != nil {
		return result{by: err.Error()}
	}
	args := []string{"test", "-count=1", "-timeout=5m", "-vet=off", "-overlay=" + overlay}
	if m.tests != "" {
		args = append(args, "-run="+m.tests)
	}
	out, err := exec.Command("go", append(args, m.pkg)...).CombinedOutput()
	if err == nil {
		return result{by: "the tests pass"}
	}
	if match := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`).FindAllSubmatch(out, -1); match != nil {
		return result{seen: true, by: string(match[len(match)-1][1])}
	}
	if strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "[setup failed]") {
		return result{by: "it does not compile: " + firstLines(out)}
	}
	return result{seen: true, by: "the tests end: " + firstLines(out)} // a panic, a deadlock, a timeout
}

func firstLines(out []byte) string {
	text := strings.Join(strings.Split(string(out), "\n")[:min(3, strings.Count(string(out), "\n"))], " ")
	return text[:min(len(text), 160)]
}

// overlay writes the changed files, and the file that names them to go test.
func (m *mutant) overlay(dir string) (name string, err error) {
	if m.pkg == "" || len(m.changes) == 0 {
		return "", fmt.Errorf("a defect needs a test and a change")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	changed := make(map[string]string)
	for _, c := range m.changes {
		path, err := filepath.Abs(c.file)
		if err != nil {
			return "", err
		}
		if _, again := changed[path]; !again {
			text, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			changed[path] = string(text)
		}
		if n := strings.Count(changed[path], c.from); n != 1 {
			return "", fmt.Errorf("the text stands %d times in %s", n, c.file)
		}
		changed[path] = strings.Replace(changed[path], c.from, c.to, 1)
	}
	replace := make(map[string]string)
	for path, text := range changed {
		copied := filepath.Join(dir, fmt.Sprint(len(replace), filepath.Ext(path)))
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[path] = copied
	}
	return writeJSON(filepath.Join(dir, "overlay.json"), map[string]any{"Replace": replace})
}

func writeJSON(name string, v any) (string, error) {
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	return name, encode(f, v)
}

func encode(f io.WriteCloser, v any) error {
	err := json.NewEncoder(f).Encode(v)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
