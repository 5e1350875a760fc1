package integration

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

var processFaults = []fault{
	{
		name: "a replica is killed with kill -9", promise: "the others do not notice; what it had confirmed stays counted, and nothing is counted twice", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			dead := f.Replicas[1]
			a := f.ending(dead, func() { dead.Kill() })
			failed := 0
			a.answers = slices.DeleteFunc(a.answers, func(ans rig.Answer) bool {
				if ans.Replica == dead && ans.Err != nil {
					failed++
					a.lost = append(a.lost, ans)
				}
				return ans.Replica == dead && ans.Err != nil
			})
			f.tell("%d requests died with it", failed)
			a.answered().undisturbed().accounted().bounded(1)
		},
	},
	{
		name: "a replica is told to stop", promise: "every request that it accepted is answered, and it ends with 0", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			leaving := f.Replicas[1]
			a := f.ending(leaving, func() { f.hold(leaving.Terminate() == nil, "it ended with: %v", leaving.Log()) })
			a.answered().undisturbed().accounted().bounded(1)
		},
	},
	{
		name: "callers give up", promise: "each charge is counted at most once, and nobody else notices", steady: true,
		run: func(f *field) {
			f.RedisWire.Replies(delayed(5 * time.Millisecond))
			hasty := f.Start(rig.Load{Rate: 150, Subjects: []string{f.subject(rig.Counted, "hasty")}, Patience: 4 * time.Millisecond})
			a := f.through(time.Second, func() {}, func() {})
			gone, told := 0, int64(0)
			for _, ans := range hasty.Stop() {
				if ans.Err != nil {
					gone++
				} else if ans.Counted() {
					told++
				}
			}
			used, err := f.Used("counted-hasty")
			f.must(err)
			f.hold(gone > 0, "nobody gave up: the test shows nothing")
			f.hold(told <= used && used <= told+int64(gone), "%d counted, %d confirmed, %d gave up", used, told, gone)
			f.tell("%d gave up, %d of them counted", gone, used-told)
			a.answered().undisturbed().accounted().bounded(1)
		},
	},
	{
		name: "the CPU is saturated", promise: "every request is answered with a decision; each charge is counted at most once",
		run: func(f *field) {
			var burners []*exec.Cmd
			a := f.through(2*time.Second, func() {
				for range 2 * runtime.NumCPU() {
					c := exec.Command("sh", "-c", "while :; do :; done")
					c.SysProcAttr = servers.EndWithParent(nil)
					f.must(c.Start())
					burners = append(burners, c)
				}
			}, func() {
				for _, c := range burners {
					_ = c.Process.Kill()
					_ = c.Wait()
				}
			})
			a.patience = 2 * time.Second
			if !*onTime { // a client whose headers come late, of a busy machine, is hung up on
				a.answers = slices.DeleteFunc(a.answers, func(ans rig.Answer) bool {
					if ans.Err != nil {
						a.lost = append(a.lost, ans)
					}
					return ans.Err != nil
				})
			}
			a.answered().accounted().bounded(2).closedHolds()
		},
	},
	{
		name: "600 clients ask without a pause, Redis is well", promise: "a process that is late does not take Redis for lost: a customer who has used the quota up gets nothing", config: rig.Config{Replicas: 1, Direct: true},
		run: overloaded,
	},
	{
		name: "the configuration is wrong", promise: "the service does not start, and names every variable, its value and what is allowed", alone: true,
		run: func(f *field) {
			out := refusesToStart(f.T, "--budget", "-1s", "--redis-mode", "many", "--trusted-proxies", "everybody", "--addr", "nowhere")
			for _, want := range []string{"--budget", "-1s", "--redis-mode", "many", "--trusted-proxies", "everybody", "--addr", "nowhere"} {
				f.hold(strings.Contains(out, want), "it does not name %s: %s", want, out)
			}
			f.tell("%d wrong values, all named", 4)
		},
	},
}

// overloaded has far more clients ask, each as soon as it is answered, than two cores
// can serve within a budget.
func overloaded(f *field) {
	const clients, length = 600, 4 * time.Second
	r, full := f.Replicas[0], f.subject(rig.Metered, "full")
	for range rig.MeteredMax {
		d, err := r.Decide("take", full)
		f.must(err)
		f.hold(d.Allowed && !d.Degraded, "%+v", d)
	}
	var subjects []string
	for i := range 20 {
		subjects = append(subjects, f.subject(rig.Counted, fmt.Sprint("crowd-", i)))
	}
	ask, hangUp := r.Asker(clients)
	defer hangUp()
	var answered, degraded, late, admitted, failed atomic.Int64
	over := time.Now().Add(length)
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for n := client; time.Now().Before(over); n++ {
				subject := subjects[n%len(subjects)]
				if n%10 == 0 {
					subject = full
				}
				d, err := ask(subject)
				switch {
				case err != nil:
					failed.Add(1)
				case subject == full && d.Allowed:
					admitted.Add(1)
				}
				answered.Add(1)
				if d.Degraded {
					degraded.Add(1)
				}
				if d.Reason == tierlimit.StoreDown {
					late.Add(1)
				}
			}
		})
	}
	wg.Wait()
	f.hold(admitted.Load() == 0, "a customer who had used the quota up got %d more", admitted.Load())
	f.hold(failed.Load() == 0, "%d requests were told no decision", failed.Load())
	// On a busy machine Redis itself may get no CPU for longer than the budget.
	f.onTime(!strings.Contains(r.Log(), toldOfLoss), "Redis was taken for lost: %s", r.Log())
	f.tell("%d answers in %v, %d degraded, of which %d were told that the service is overloaded", answered.Load(), length, degraded.Load(), late.Load())
}

// ending puts clients on the replicas while one of them ends; they are told of it
// before it has.
func (f *field) ending(leaving *rig.Replica, end func()) *account {
	f.Helper()
	run := f.Start(rig.Load{Rate: 300, Subjects: f.subjects()})
	time.Sleep(700 * time.Millisecond)
	a := &account{field: f, began: time.Now()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	time.Sleep(50 * time.Millisecond)
	run.Skip(leaving)
	<-ended
	a.over = time.Now()
	time.Sleep(500 * time.Millisecond)
	a.answers = run.Stop()
	f.Drop(leaving)
	return a
}
