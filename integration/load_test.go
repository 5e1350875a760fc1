package integration

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/load"
)

// Of many that replace one text at once, one wins. An expired text is as none.
func TestOneOfManyReplacesAText(t *testing.T) {
	store := newStore(t, newClient(t, redisServer.URL, 5*time.Second))
	topic := store.Topic("replace", newSubject(t))
	compete := func(previous string) int64 {
		var won atomic.Int64
		var running sync.WaitGroup
		for i := range 20 {
			running.Go(func() {
				ok, err := store.Replace(t.Context(), topic, "agreed", previous, fmt.Sprintf("%s:%d\n", previous, i), time.Minute)
				if err != nil {
					t.Error(err)
				}
				if ok {
					won.Add(1)
				}
			})
		}
		running.Wait()
		return won.Load()
	}
	for round, previous := 0, ""; round < 5; round++ {
		if n := compete(previous); n != 1 {
			t.Fatalf("%d replaced %q", n, previous)
		}
		notices, err := store.Notices(t.Context(), topic)
		must(t, err)
		last := notices["agreed"]
		if last.Text == previous || last.Left <= 0 || last.Left > time.Minute {
			t.Fatalf("%+v", last)
		}
		previous = last.Text
	}
	if n := compete(""); n != 0 {
		t.Errorf("%d replaced a text as if there were none", n)
	}
	must(t, store.Publish(t.Context(), topic, "gone", "text", time.Millisecond))
	eventually(t, time.Minute, "an expired text is as none", func() bool {
		ok, err := store.Replace(t.Context(), topic, "gone", "", "new", time.Minute)
		must(t, err)
		return ok
	})
}

// A dial is a load.Meter that reads what the test sets.
type dial struct{ percent atomic.Int64 }

func (d *dial) Read(time.Time) (float64, bool, error) {
	return float64(d.percent.Load()) / 100, true, nil
}
func (*dial) Source() string    { return "dial" }
func (*dial) Capacity() float64 { return 4 }

// reportTo has a service report to a replica until the test ends.
func reportTo(t *testing.T, r *replica, source string, percent int64) *dial {
	t.Helper()
	d := new(dial)
	d.percent.Store(percent)
	reporter, err := load.Report(load.ReporterConfig{URL: r.public, Token: adminToken, Source: source, Meter: d, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(reporter.Close)
	return d
}

func loadOf(r *replica) (s load.Status) {
	r.Helper()
	_, body := r.want(http.StatusOK, "GET", r.public+"/v1/load", "")
	if err := json.Unmarshal(body, &s); err != nil {
		r.Fatal(err)
	}
	return s
}

// Two services report to a replica each, one of them nearly idle and one nearly full. Both replicas
// apply the multiplier of the mean: a client that asks them in turn is allowed exactly what the
// scaled limit says, and once it is denied it stays denied. Whatever the load does then, both
// have the same multipliers at the same step; one goes on when the other is killed.
func TestReplicasAgreeOnTheLoadOfWhatIsProtected(t *testing.T) {
	own, err := servers.Redis() // the replicas of other tests would agree too
	must(t, err)
	defer own.Stop()
	database := newDatabase(t)
	start := func() *replica {
		return startReplica(t, own.URL, database, "--load-mode", "enforce", "--load-sources", "api-*")
	}
	a, b := start(), start()
	a.want(http.StatusCreated, "POST", a.admin+"/admin/v1/tiers",
		`{"key":"scaled","priority":1,"load":{"start":0.3,"full":0.8,"floor":0.1},"limits":{"per_hour":{"max":400,"window":"1h","adaptive":true}}}`)
	one, two := reportTo(t, a, "api-1", 75), reportTo(t, b, "api-2", 75)
	reportTo(t, b, "batch", 100) // a bystander

	for _, r := range []*replica{a, b} {
		eventually(t, time.Minute, "every replica shows every reading", func() bool {
			counts := make(map[string]bool)
			for _, reading := range loadOf(r).Readings {
				if reading.Kind == load.KindReport {
					counts[reading.Source] = reading.Counts
				}
			}
			return reflect.DeepEqual(counts, map[string]bool{"api-1": true, "api-2": true, "batch": false})
		})
	}
	two.percent.Store(95)
	for _, r := range []*replica{a, b} {
		eventually(t, time.Minute, "the multiplier is that of 85 %, which of 75 % would be .15", func() bool {
			s := loadOf(r)
			return s.Agreed && s.CPU == 0.85 && s.Tiers["scaled"].Multiplier == 0.1
		})
	}

	subject := newSubject(t)
	a.want(http.StatusCreated, "POST", a.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"scaled"}`, subject))
	eventually(t, time.Minute, "both know the subject", func() bool {
		return a.must("peek", subject).Tier == "scaled" && b.must("peek", subject).Tier == "scaled"
	})
	allowed, flips, denied := 0, 0, false
	for i := range 300 {
		d := []*replica{a, b}[i%2].must("take", subject)
		if d.Degraded || d.Multiplier != 0.1 {
			t.Fatalf("%+v", d)
		}
		if d.Allowed {
			allowed++
		}
		if d.Allowed && denied {
			flips++
		}
		denied = !d.Allowed
	}
	if allowed != 40 || flips != 0 {
		t.Errorf("allowed %d with %d flips, want 40 of 400 without one", allowed, flips)
	}

	seen := make(map[int64]map[string]load.TierStatus) // by step
	look := func(r *replica) load.Status {
		s := loadOf(r)
		if was := seen[s.Step]; s.Agreed && was != nil && !reflect.DeepEqual(was, s.Tiers) {
			t.Fatalf("step %d is %v and %v", s.Step, was, s.Tiers)
		}
		if s.Agreed {
			seen[s.Step] = s.Tiers
		}
		return s
	}
	one.percent.Store(20)
	two.percent.Store(20)
	eventually(t, time.Minute, "multipliers rise", func() bool {
		return look(a).Tiers["scaled"].Multiplier >= 0.4 && look(b).Tiers["scaled"].Multiplier >= 0.4
	})
	must(t, a.process.Kill())
	last := look(b).Step
	two.percent.Store(100)
	eventually(t, time.Minute, "b goes on without a", func() bool {
		s := look(b)
		return s.Agreed && s.Step > last && s.Tiers["scaled"].Multiplier <= 0.3
	})
}
