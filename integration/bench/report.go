package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A report is everything a run measured, as Markdown.
type report struct {
	rounds   int
	length   time.Duration
	tables   []*table
	ceilings map[string][]float64
	memory   [][3]string // contender, one window, three
	http     map[string][]httpResult
	cluster  *table
	valkey   *table // nil if Valkey is not on this machine
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, `# Benchmarks

What `+"`make bench`"+` wrote: %s, %d processors shared by Redis, the client and
the load; %s; Redis %s; loopback. Each contender takes each workload in turn,
%d rounds of %v; figures are medians, a ratio is the median over the rounds of
decisions a second to those of %s (over gRPC: of envoyproxy/ratelimit) in the same round. Absolute figures move from
machine to machine and from run to run: read the ratios. *Redis us* and *client us* are
CPU for a decision, of the server (INFO) and of this process (getrusage), what measures
it included.

![Decisions a second, as ratios to redis_rate](benchmarks.svg)
`, processor(), runtime.NumCPU(), runtime.Version(), redisVersion(), r.rounds, r.length, reference)
	for _, t := range r.tables {
		t.markdown(w)
	}
	r.writeCeilings(w)
	r.writeMemory(w)
	r.writeHTTP(w)
	if r.cluster != nil {
		r.cluster.markdown(w)
	}
	r.writeValkey(w)
}

func (r *report) addCeilings(b *bench) error {
	for _, c := range ceilings {
		n, err := b.measureCeiling(c)
		if err != nil {
			return err
		}
		r.ceilings[c.title] = append(r.ceilings[c.title], n)
	}
	return nil
}

// addMemory measures everybody with one window, and with three those who can.
func (r *report) addMemory(b *bench) error {
	for i, c := range contenders {
		row := [3]string{c.name}
		for column, windows := range [][]window{perMinute(100), threeWindows(100)} {
			if column == 1 && i > 1 {
				continue
			}
			bytes, err := b.measureMemory(c, windows)
			if err != nil {
				return err
			}
			row[column+1] = fmt.Sprintf("%.0f", bytes)
		}
		r.memory = append(r.memory, row)
	}
	bytes, err := b.measureMemory(contender{ours, openOursHolding}, perMinute(100))
	if err != nil {
		return err
	}
	r.memory = append(r.memory, [3]string{ours + ", with two open holds", fmt.Sprintf("%.0f", bytes)})
	return nil
}

func (r *report) save(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(folder, "benchmarks.md"))
	if err != nil {
		return err
	}
	r.write(f)
	if err := f.Close(); err != nil {
		return err
	}
	if len(r.drawn()) == 0 {
		return nil
	}
	return r.draw(filepath.Join(folder, "benchmarks.svg"))
}

func (t *table) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n## %s\n\n", strings.ToUpper(t.workload.title[:1])+t.workload.title[1:])
	fmt.Fprintln(w, "| callers | | decisions/s | ratio | p50 | p99 | Redis us | client us | allocs | most admitted | errors |")
	fmt.Fprintln(w, "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, n := range t.callers {
		for _, name := range t.names {
			fmt.Fprintf(w, "| %d | %s | %s | %s | %v | %v | %.2f | %.2f | %.1f | %d | %d |\n", n, name,
				thousands(median(t, name, n, func(r result) float64 { return r.PerSecond })),
				ratioText(t.ratio(name, t.workload.comparedWith(), n)),
				short(median(t, name, n, func(r result) time.Duration { return r.P50 })),
				short(median(t, name, n, func(r result) time.Duration { return r.P99 })),
				median(t, name, n, func(r result) float64 { return r.RedisUS }),
				median(t, name, n, func(r result) float64 { return r.ClientUS }),
				median(t, name, n, func(r result) float64 { return r.Allocs }),
				slices.Max(admitted(t, name, n)),
				median(t, name, n, func(r result) int64 { return r.Errors }))
		}
	}
}

func (r *report) writeCeilings(w io.Writer) {
	if len(r.ceilings) == 0 {
		return
	}
	fmt.Fprint(w, "\n## Against Redis' own ceiling\n\nredis-benchmark, one script call a decision, sent ahead of the replies; the\nratio is ours, 100,000 subjects alike with one window, to it.\n\n| | decisions/s | callers | ratio |\n|---|--:|--:|--:|\n")
	for _, c := range ceilings {
		most := middle(r.ceilings[c.title])
		own := 0.0
		for _, t := range r.tables {
			if t.workload.name == "uniform" {
				own = median(t, ours, c.callers, func(r result) float64 { return r.PerSecond })
			}
		}
		fmt.Fprintf(w, "| %s | %s | %d | %s |\n", c.title, thousands(most), c.callers, ratioText(own/most))
	}
}

func (r *report) writeMemory(w io.Writer) {
	if len(r.memory) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## Memory in Redis\n\nBytes for a subject with a name of %d characters, keys and tables included.\n\n| | one window | three |\n|---|--:|--:|\n", len(names[0]))
	for _, row := range r.memory {
		fmt.Fprintf(w, "| %s | %s | %s |\n", row[0], row[1], row[2])
	}
}

func (r *report) writeHTTP(w io.Writer) {
	r.writeGroup(w, overHTTP, unguarded, "Over HTTP", "wrk, 64 connections, on one chi route that answers 16 bytes. The ratio is to the\nsame server without a limiter in the same round.")
	r.writeGroup(w, throughProxy, bareProxy, "Through the proxy", "wrk, 64 connections, on a reverse proxy before an API in a process of its own that\nanswers 16 bytes. The ratio is to a bare httputil.ReverseProxy with the same pool of\nconnections in the same round. Each request has a hold.")
}

func (r *report) writeGroup(w io.Writer, group, baseline, title, text string) {
	if len(r.http[baseline]) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n| | requests/s | ratio | p50 | p99 | server CPU us |\n|---|--:|--:|--:|--:|--:|\n", title, text)
	for _, g := range guards {
		var perSecond, ratio, cpu []float64
		var p50, p99 []time.Duration
		if g.group != group || len(r.http[g.name]) == 0 {
			continue
		}
		for i, res := range r.http[g.name] {
			perSecond, cpu = append(perSecond, res.PerSecond), append(cpu, res.ServerUS)
			if i < len(r.http[baseline]) {
				ratio = append(ratio, res.PerSecond/r.http[baseline][i].PerSecond)
			}
			p50, p99 = append(p50, res.P50), append(p99, res.P99)
		}
		slices.Sort(p50)
		slices.Sort(p99)
		fmt.Fprintf(w, "| %s | %s | %s | %v | %v | %.1f |\n", g.name, thousands(middle(perSecond)), ratioText(middle(ratio)),
			short(p50[len(p50)/2]), short(p99[len(p99)/2]), middle(cpu))
	}
}

func (r *report) writeValkey(w io.Writer) {
	if r.valkey == nil {
		fmt.Fprint(w, "\n## On Valkey\n\nNot measured: valkey-server is not on this machine.\n")
		return
	}
	r.valkey.markdown(w)
}

// short keeps three digits.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

func ratioText(f float64) string {
	switch {
	case f == 0:
		return ""
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}

func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func redisVersion() string {
	out, err := exec.Command("redis-server", "--version").Output()
	if err != nil {
		return "(version unknown)"
	}
	for word := range strings.FieldsSeq(string(out)) {
		if v, ok := strings.CutPrefix(word, "v="); ok {
			return v
		}
	}
	return "(version unknown)"
}
