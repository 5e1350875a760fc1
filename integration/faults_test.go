package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/rig"
)

// The fault matrix: what may fail around the service, what is promised then, and what
// was measured. `make faults` prints it.

var (
	matrixFile = flag.String("matrix", "", "a file that the fault matrix is written to")
	faultSeed  = flag.Uint64("seed", 1, "of what is left to chance in the fault matrix")
)

// A fault is a row of the matrix.
type fault struct {
	name    string
	promise string
	config  rig.Config
	alone   bool // it needs no rig
	steady  bool // no answer may be degraded
	run     func(*field)
}

// A field is where a fault is tried.
type field struct {
	*testing.T
	*rig.Rig
	*entry
	random *rand.Rand
}

// An entry is what the matrix says of a fault.
type entry struct {
	name, promise string
	measured      []string
	held          bool
}

// matrix is what this run has measured; tests that are not of [TestFaultMatrix] may add
// to it.
var matrix []*entry

// record adds a test to the matrix, once it has ended.
func record(t *testing.T, name, promise string) *entry {
	e := &entry{name: name, promise: promise}
	t.Cleanup(func() {
		e.held = !t.Failed()
		matrix = append(matrix, e)
	})
	return e
}

// tell adds to what was measured.
func (e *entry) tell(format string, v ...any) {
	e.measured = append(e.measured, fmt.Sprintf(format, v...))
}

const (
	faultBudget = 100 * time.Millisecond
	// steadyBudget is for rows in which no answer may be degraded, on a machine that may
	// be busy.
	steadyBudget = 500 * time.Millisecond
	// slack is what a machine of two cores may add, that runs the clients, the
	// replicas and the servers too.
	slack = 300 * time.Millisecond
)

// onTime fails the row unless a promise about time is held, where such are asked for.
func (f *field) onTime(ok bool, format string, v ...any) {
	f.Helper()
	f.hold(ok || !*onTime, format, v...)
}

// Await returns once something holds, or an error that says what does not.
func (f *field) Await(within time.Duration, what string, holds func() bool) error {
	return f.Rig.Await(patience(within), what, holds)
}

// hold fails the row unless a promise is held.
func (f *field) hold(ok bool, format string, v ...any) {
	f.Helper()
	if !ok {
		f.Errorf(format, v...)
	}
}

func (f *field) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// The subjects of a field's clients, each on the tier of its name. Those that have a max
// are asked for more often: far beyond what any row may admit.
func (f *field) subjects() []string {
	f.Helper()
	metered, opens, closed := f.subject(rig.Metered, "0"), f.subject(rig.Open, "0"), f.subject(rig.Closed, "0")
	list := []string{opens}
	for i := range 6 {
		list = append(list, metered, f.subject(rig.Counted, fmt.Sprint(i)), closed)
	}
	return list
}

// subject makes one on a tier.
func (f *field) subject(tier, name string) string {
	f.Helper()
	id := tier + "-" + name
	f.must(f.AddSubject(id, tier))
	return id
}

// An account is what clients were told before, during and after a fault.
type account struct {
	*field
	answers     []rig.Answer
	lost        []rig.Answer // of those who died with a replica
	began, over time.Time
	patience    time.Duration // beside the budget; default slack
}

// through puts clients on the replicas, lets the fault happen, and heals it; then waits
// until all is as before.
func (f *field) through(length time.Duration, fail, heal func()) *account {
	f.Helper()
	run := f.Start(rig.Load{Rate: 300, Subjects: f.subjects()})
	time.Sleep(500*time.Millisecond + time.Duration(f.random.IntN(200))*time.Millisecond)
	a := &account{field: f, began: time.Now()}
	fail()
	time.Sleep(length + time.Duration(f.random.IntN(200))*time.Millisecond)
	heal()
	a.over = time.Now()
	f.must(f.Await(30*time.Second, "it is as before", func() bool {
		answers := run.Answers()
		last := answers[max(0, len(answers)-100):]
		return len(last) == 100 && last[0].Due.After(a.over) &&
			!slices.ContainsFunc(last, func(a rig.Answer) bool { return a.Degraded || a.Err != nil })
	}))
	a.answers = run.Stop()
	return a
}

// answered holds that everybody was told a decision within the budget, and tells how
// many were degraded and how long it took to recover.
func (a *account) answered() *account {
	a.Helper()
	var worst, recovery time.Duration
	degraded := 0
	for i := range a.answers {
		ans := &a.answers[i]
		a.hold(ans.Err == nil, "%s was told: %v", ans.Subject, ans.Err)
		worst = max(worst, ans.Took)
		if ans.Degraded {
			degraded++
			recovery = max(recovery, ans.Due.Sub(a.over))
		}
		if a.Failed() {
			return a
		}
	}
	a.onTime(recovery <= 2500*time.Millisecond, "it took %v until no answer was degraded", recovery)
	a.onTime(worst <= a.Budget+max(slack, a.patience), "the slowest answer took %v, the budget is %v", worst, a.Budget)
	a.tell("%d answers, slowest %d ms, %d degraded", len(a.answers), worst.Milliseconds(), degraded)
	if degraded > 0 {
		a.tell("as before %d ms after it was over", recovery.Milliseconds())
	}
	return a
}

// undisturbed holds that no answer was degraded.
func (a *account) undisturbed() *account {
	a.Helper()
	n := 0
	for i := range a.answers {
		if a.answers[i].Degraded {
			n++
		}
	}
	a.hold(n == 0, "%d answers were degraded", n)
	return a
}

// disturbed holds that some answers were degraded: else nothing was shown.
func (a *account) disturbed() *account {
	a.Helper()
	a.hold(slices.ContainsFunc(a.answers, func(a rig.Answer) bool { return a.Degraded }), "no answer was degraded: the fault did not happen")
	return a
}

// accounted holds that what Redis counted is what clients were told: each charge that
// was confirmed, and of those nothing is known of at most all, once.
func (a *account) accounted() *account {
	a.Helper()
	var total, confirmed, open int64
	for i := range 6 {
		id := fmt.Sprint(rig.Counted, "-", i)
		told, unknown := a.told(id)
		used, err := a.Used(id)
		a.must(err)
		a.hold(told <= used && used <= told+unknown, "%s: %d counted, %d confirmed, %d unknown", id, used, told, unknown)
		total, confirmed, open = total+used, confirmed+told, open+unknown
	}
	a.tell("%d confirmed, %d unknown, %d counted", confirmed, open, total)
	return a
}

func (a *account) told(id string) (confirmed, unknown int64) {
	all := slices.Concat(a.answers, a.lost)
	for i := range all {
		switch ans := &all[i]; {
		case ans.Subject != id:
		case ans.Counted():
			confirmed++
		case ans.Err != nil || ans.Degraded:
			unknown++
		}
	}
	return confirmed, unknown
}

func (a *account) asked(id string) (n int64) {
	for i := range a.answers {
		if a.answers[i].Subject == id {
			n++
		}
	}
	return n
}

func (a *account) admitted(id string) (n int64) {
	for i := range a.answers {
		if ans := &a.answers[i]; ans.Subject == id && ans.Allowed {
			n++
		}
	}
	return n
}

// bounded holds that no more than so many times the max was admitted under local, of
// more that was asked for.
func (a *account) bounded(times int64) *account {
	a.Helper()
	const id = rig.Metered + "-0"
	asked, metered, closed := a.asked(id), a.admitted(id), a.admitted(rig.Closed+"-0")
	limit := times * rig.MeteredMax
	a.hold(asked > limit, "only %d were asked for, %d may be admitted: this shows nothing", asked, limit)
	a.hold(metered <= limit, "%d admitted locally or in Redis, want %d at most", metered, limit)
	a.tell("of a max of %d: %d admitted under local, %d under closed, %d asked for", rig.MeteredMax, metered, closed, asked)
	return a
}

// forgot holds that Redis had forgotten something, and that who closes without it got
// no more than so many times the max.
func (a *account) forgot(times int64) *account {
	a.Helper()
	n := a.admitted(rig.Closed + "-0")
	a.hold(n > rig.MeteredMax, "%d admitted under closed: nothing was forgotten, and nothing is shown", n)
	a.hold(n <= times*rig.MeteredMax, "%d admitted under closed, want %d at most", n, times*rig.MeteredMax)
	return a
}

// closedHolds holds that who closes without Redis never gets more than the max.
func (a *account) closedHolds() *account {
	a.Helper()
	n := a.admitted(rig.Closed + "-0")
	a.hold(n <= rig.MeteredMax, "%d admitted under closed, want %d at most", n, rig.MeteredMax)
	return a
}

// descriptors is how many files and connections each replica has open.
func (f *field) descriptors() map[*rig.Replica]int {
	open := make(map[*rig.Replica]int)
	for _, r := range f.Replicas {
		open[r] = r.Descriptors()
	}
	return open
}

// fewMore is how many connections to Redis and Postgres a replica may keep that it had
// no use for before.
const fewMore = 24

// leavesNothingOpen holds that what a fault made a replica open it closes again.
func (f *field) leavesNothingOpen(before map[*rig.Replica]int) {
	f.Helper()
	for i, r := range f.Replicas {
		was, there := before[r]
		if !there {
			continue
		}
		err := f.Await(10*time.Second, "it is closed", func() bool { return r.Descriptors() <= was+fewMore })
		f.hold(err == nil, "replica %d has %d files and connections open, and had %d", i, r.Descriptors(), was)
	}
}

// said holds that each replica said something in its log a few times at most.
func (a *account) said(what string, most int) *account {
	a.Helper()
	for i, r := range a.Replicas {
		_ = a.Await(5*time.Second, "it is said", func() bool { // whoever is not asked does not look
			_, _ = r.Decide("take", rig.Counted+"-said")
			return strings.Contains(r.Log(), what)
		})
		n := strings.Count(r.Log(), what)
		a.hold(n >= 1 && n <= most, "replica %d said %q %d times", i, what, n)
	}
	return a
}

func delayed(d time.Duration) func(proxy.Reply) proxy.Fate {
	return func(proxy.Reply) proxy.Fate { return proxy.Fate{Delay: d} }
}

func TestFaultMatrix(t *testing.T) {
	file, err := binary()
	must(t, err)
	for i, one := range slices.Concat(redisFaults, holdFaults, topologyFaults, postgresFaults, processFaults) {
		t.Run(one.name, func(t *testing.T) {
			f := &field{T: t, entry: record(t, one.name, one.promise), random: rand.New(rand.NewPCG(*faultSeed, uint64(i)))}
			if one.alone {
				one.run(f)
				return
			}
			cfg := one.config
			cfg.Binary, cfg.Database, cfg.Budget = file, newDatabase(t), faultBudget
			if one.steady && !*onTime {
				cfg.Budget = steadyBudget
			}
			f.Rig, err = rig.New(cfg)
			f.must(err)
			defer f.Close()
			before := f.descriptors()
			one.run(f)
			f.leavesNothingOpen(before)
		})
	}
}

// writeMatrix writes the matrix as a table of Markdown, if a file is given.
func writeMatrix() error {
	if *matrixFile == "" {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# What fails, and what happens then\n\nWritten by `make faults` (seed %d) on a machine with %d cores, which the clients, the replicas,\nRedis and Postgres share: 300 requests a second on two replicas with a budget of %v, before,\nduring and after each fault. *Confirmed* are charges that a client was told of, *unknown* those whose\nanswer was degraded or lost, *counted* is what Redis has in the end. What is promised is\nsaid in full in [guarantees.md](guarantees.md).\n\n", *faultSeed, runtime.NumCPU(), faultBudget)
	b.WriteString("| fault | promise | measured | |\n|---|---|---|---|\n")
	for _, e := range matrix {
		held := "held"
		if !e.held {
			held = "NOT HELD"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", e.name, e.promise, strings.Join(e.measured, "; "), held)
	}
	return os.WriteFile(*matrixFile, []byte(b.String()), 0o644)
}
