package integration

import (
	"fmt"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/rig"
)

var postgresFaults = []fault{
	{
		name: "Postgres is down when the service starts", promise: "it waits for `TIERLIMIT_START_TIMEOUT` (30 s), and says so once",
		run: func(f *field) {
			f.PostgresWire.Refuse(true)
			time.AfterFunc(time.Second, func() { f.PostgresWire.Refuse(false) })
			began := time.Now()
			f.must(f.AddReplica())
			late := f.Replicas[len(f.Replicas)-1]
			f.hold(strings.Count(late.Log(), "postgres cannot be reached") == 1, "it said: %s", late.Log())
			d, err := late.Decide("take", "acct_42")
			f.hold(err == nil && d.Allowed && !d.Degraded, "%+v, %v", d, err)
			f.tell("it served after %d ms, Postgres was there after 1,000", time.Since(began).Milliseconds())
		},
	},
	{
		name: "Postgres is killed", promise: "known subjects do not notice; unknown ones are on the default tier, flagged, within the budget; a change acts within 10 s of its return", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			f.through(2*time.Second, func() { f.PostgresWire.Refuse(true); f.strangers() }, func() { f.PostgresWire.Refuse(false) }).
				answered().undisturbed().accounted().bounded(1)
			f.changesAct(10 * time.Second)
		},
	},
	{
		name: "Postgres is slow", promise: "known subjects do not notice; unknown ones are answered within the budget", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			f.through(2*time.Second, func() { f.PostgresWire.Replies(delayed(300 * time.Millisecond)); f.strangers() }, func() { f.PostgresWire.Replies(nil) }).
				answered().undisturbed().accounted().bounded(1)
			f.changesAct(10 * time.Second)
		},
	},
	{
		name: "Postgres is a black hole", promise: "known subjects do not notice; unknown ones are answered within the budget; a change acts within 10 s of its return", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			f.through(3*time.Second, func() { f.PostgresWire.Hole(true); f.strangers() }, func() { f.PostgresWire.Hole(false) }).
				answered().undisturbed().accounted().bounded(1)
			f.changesAct(10 * time.Second)
		},
	},
	{
		name: "connections to Postgres are half open, the one that listens too", promise: "known subjects do not notice; a change acts within 10 s", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			f.through(time.Second, f.PostgresWire.Strand, func() {}).
				answered().undisturbed().accounted().bounded(1)
			f.changesAct(10 * time.Second)
		},
	},
	{
		name: "notifications are lost", promise: "a change acts within 10 s",
		run: func(f *field) {
			f.must(execute(f.Context(), f.Database, `DO $$ BEGIN EXECUTE replace(pg_get_functiondef('tierlimit.next_version'::regproc), 'pg_notify(''tierlimit'', '''')', 'length('''')'); END $$`))
			f.changesAct(10 * time.Second)
		},
	},
	{
		name: "a row that no release would write", promise: "what it concerns stays as it was, the log names it, and everything else goes on",
		run: func(f *field) {
			f.must(f.AddSubject("acct_before", rig.Metered)) // so that the tier is in force
			f.must(execute(f.Context(), f.Database, `
				DO $$ DECLARE c text; BEGIN
					FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'tierlimit.limits'::regclass AND contype = 'c' LOOP
						EXECUTE format('ALTER TABLE tierlimit.limits DROP CONSTRAINT %I', c);
					END LOOP;
				END $$;
				UPDATE tierlimit.limits SET max = -5, window_ms = -1 WHERE tier = 'metered'`))
			f.must(f.Await(10*time.Second, "the log names it", func() bool {
				for _, r := range f.Replicas {
					if !strings.Contains(r.Log(), `stays as it was","tier":"metered"`) {
						return false
					}
				}
				return true
			}))
			f.must(f.AddSubject("acct_bad", rig.Metered))
			for _, r := range f.Replicas {
				d, err := r.Decide("take", "acct_bad")
				f.hold(err == nil && d.Allowed && len(d.Windows) == 1 && d.Windows[0].Max == rig.MeteredMax, "%+v, %v", d, err)
			}
			f.changesAct(10 * time.Second)
		},
	},
}

// strangers are asked for while Postgres cannot say who they are.
func (f *field) strangers() {
	f.Helper()
	var slowest time.Duration
	for i := range 20 {
		began := time.Now()
		d, err := f.Replicas[i%len(f.Replicas)].Decide("take", fmt.Sprint("stranger-", i))
		slowest = max(slowest, time.Since(began))
		f.hold(err == nil && d.Tier == "free" && d.Degraded && d.Allowed && d.Windows[0].From == tierlimit.FromFallback, "a stranger: %+v, %v", d, err)
	}
	f.onTime(slowest <= f.Budget+slack, "a stranger was answered after %v", slowest)
	f.tell("20 strangers on the default tier, the slowest after %d ms", slowest.Milliseconds())
}

// changesAct holds that a change in the database acts on every replica in time.
func (f *field) changesAct(within time.Duration) {
	f.Helper()
	id := fmt.Sprint("acct_changed_", f.random.Uint32())
	for _, r := range f.Replicas { // so that each remembers how it was
		_, err := r.Decide("peek", id)
		f.must(err)
	}
	began := time.Now()
	f.must(execute(f.Context(), f.Database, fmt.Sprintf(`INSERT INTO tierlimit.subjects (id, tier) VALUES ('%s', '%s')`, id, rig.Counted)))
	err := f.Await(within, "a change acts everywhere", func() bool {
		for _, r := range f.Replicas {
			if d, _ := r.Decide("peek", id); d.Tier != rig.Counted {
				return false
			}
		}
		return true
	})
	f.hold(err == nil, "%v", err)
	f.tell("a change acted after %d ms", time.Since(began).Milliseconds())
}
