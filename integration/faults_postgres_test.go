package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

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
		name: "a transaction holds the catalogue, and eight administrators wait", promise: "who a replica has not met is on its own tier all the same", config: rig.Config{Args: []string{"--budget", "500ms"}},
		run: administratorsWait,
	},
	{
		name: "notifications are lost", promise: "a change acts within 10 s",
		run: func(f *field) {
			f.must(execute(f.Context(), f.Database, `DO $$ BEGIN EXECUTE replace(pg_get_functiondef('tierlimit.publish'::regproc), 'pg_notify(''tierlimit'', '''')', 'length('''')'); END $$`))
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

// administratorsWait checks that uncached subjects are looked up while administrators wait for
// a lock.
func administratorsWait(f *field) {
	conn, err := pgx.Connect(f.Context(), f.Database)
	f.must(err)
	defer conn.Close(context.Background())
	// Disable the triggers, so that no replica learns of these subjects.
	_, err = conn.Exec(f.Context(), `
		SET session_replication_role = replica;
		INSERT INTO tierlimit.subjects (id, tier) SELECT 'acct_unmet_' || n, 'enterprise' FROM generate_series(1, 12) AS n;
		SET session_replication_role = origin`)
	f.must(err)
	_, err = conn.Exec(f.Context(), `BEGIN; SELECT FROM tierlimit.catalogue FOR UPDATE`)
	f.must(err)
	var waiting sync.WaitGroup
	refused := make([]int, 8)
	for i := range refused {
		waiting.Go(func() {
			refused[i] = f.Replicas[i%len(f.Replicas)].Status("POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":"waiting_%d","tier":"pro"}`, i))
		})
	}
	f.must(f.Await(10*time.Second, "an administrator waits", func() bool {
		var n int
		err := conn.QueryRow(f.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&n)
		return err == nil && n > 0
	}))
	for i := range 12 {
		d, err := f.Replicas[i%len(f.Replicas)].Decide("take", fmt.Sprint("acct_unmet_", i+1))
		f.hold(err == nil && d.Tier == "enterprise" && !d.Degraded, "%+v, %v", d, err)
	}
	waiting.Wait()
	for _, status := range refused {
		f.hold(status == 503, "an administrator who waited was answered %d", status)
	}
	_, err = conn.Exec(f.Context(), `ROLLBACK`)
	f.must(err)
	f.tell("12 of 12 on their tier; 8 of 8 changes answered 503 after they had waited")
	f.changesAct(10 * time.Second)
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
