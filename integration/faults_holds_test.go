package integration

import (
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// holdFaults are the faults that concern holds.
var holdFaults = []fault{
	{
		name: "Redis is killed and started again, empty, while holds are open", promise: "no hold from before can be settled, nor give anything back; at most the max of a concurrent limit once more", steady: true,
		run: func(f *field) {
			id := f.subject(rig.Together, "0")
			before := f.fillPlaces(id)
			f.must(f.Redis.Kill())
			f.must(f.Redis.Start())
			f.reachable()
			f.lost(id, before)
		},
	},
	{
		name: "failover to a replica that lags, while holds are open", promise: "what the replica had heard of is settled, nothing else; at most the max of a concurrent limit once more", steady: true,
		run: func(f *field) {
			heard := f.openHold(f.subject(rig.Together, "heard"))
			replica, link := f.replica()
			f.must(f.Await(10*time.Second, "the replica knows the hold", func() bool {
				n, err := link.HLen(f.Context(), redisstore.Key(rig.Together+"-heard")+":holds").Result()
				return err == nil && n == 2 // the hold and the field with the totals
			}))
			f.must(link.ReplicaOf(f.Context(), "127.0.0.1", "1").Err()) // stops the replication
			id := f.subject(rig.Together, "0")
			before := f.fillPlaces(id)
			f.must(f.Redis.Kill())
			f.must(link.ReplicaOf(f.Context(), "no", "one").Err())
			f.RedisWire.Upstream(replica.Addr)
			f.reachable()
			f.hold(f.settled(f.Replicas[0], heard.ID, 1), "a hold that the replica had heard of is not found")
			f.lost(id, before)
		},
	},
	{
		name: "a replica is killed with kill -9 while holds are open", promise: "another one settles each of its holds, once", steady: true, config: rig.Config{Direct: true},
		run: func(f *field) {
			id := f.subject(rig.Counted, "holds")
			var ids []string
			for range 20 {
				ids = append(ids, f.openHold(id).ID)
			}
			f.Replicas[0].Kill()
			for _, hold := range ids {
				for i := range 2 {
					f.hold(f.settled(f.Replicas[1], hold, 3) == (i == 0), "settlement %d of a hold", i+1)
				}
			}
			used, err := f.Used(id)
			f.must(err)
			f.hold(used == int64(3*len(ids)), "%d used, want 3 for each hold", used)
			f.tell("%d holds of 1 settled to 3: %d counted", len(ids), used)
		},
	},
	{
		name: "a client is killed while its hold is open", promise: "its place is free when the hold expires, not sooner, and nobody else's is",
		run: func(f *field) {
			id := f.subject(rig.Together, "killed")
			var others []string
			for range rig.TogetherMax - 1 {
				others = append(others, f.openHold(id).ID)
			}
			began := time.Now()
			killed, err := f.Replicas[0].Hold(id, time.Second) // its client is killed: it is never settled
			f.must(err)
			f.hold(killed.Allowed, "%+v", killed)
			var d tierlimit.Decision
			f.must(f.Await(10*time.Second, "its place is free", func() bool {
				d, err = f.Replicas[1].Hold(id, time.Minute)
				return err == nil && d.Allowed
			}))
			freed := time.Since(began)
			f.hold(freed >= time.Second, "its place was free after %v", freed)
			f.hold(!f.settled(f.Replicas[0], killed.ID, 0), "a hold that had expired was settled")
			for _, hold := range append(others, d.ID) {
				f.hold(f.settled(f.Replicas[1], hold, 1), "somebody else's hold is gone")
			}
			f.tell("a hold of 1,000 ms: its place was free after %d ms", freed.Milliseconds())
		},
	},
	{
		name: "Redis is lost while holds are open", promise: "under `open` and `closed` there is no hold, and the answer says so; under `local` holds are of the process; what was held in Redis is settled when Redis is back", config: rig.Config{Replicas: 1},
		run: func(f *field) {
			r := f.Replicas[0]
			opens, closes, local := f.subject(rig.Open, "held"), f.subject(rig.Closed, "held"), f.subject(rig.Metered, "held")
			before := f.openHold(local)
			f.RedisWire.Refuse(true)
			for subject, allowed := range map[string]bool{opens: true, closes: false, local: true} {
				d, err := r.Hold(subject, time.Minute)
				f.must(err)
				f.hold(d.Degraded && d.Allowed == allowed && (d.ID != "") == (subject == local), "without Redis: %+v", d)
				if d.ID != "" {
					f.hold(f.settled(r, d.ID, 0) && !f.settled(r, d.ID, 0), "a local hold is settled once")
				}
			}
			_, err := r.Settle(before.ID, 0)
			f.hold(err != nil, "a hold in Redis was settled without Redis")
			f.RedisWire.Refuse(false)
			f.reachable()
			f.hold(f.settled(r, before.ID, 0), "a hold from before cannot be settled")
			used, err := f.Used(local)
			f.must(err)
			f.hold(used == 0, "%d used, and everything was given back", used)
			f.tell("1 held in Redis before, settled after; 1 held and settled locally")
		},
	},
}

// openHold charges 1 with a hold in Redis, through a random replica.
func (f *field) openHold(subject string) tierlimit.Decision {
	f.Helper()
	d, err := f.Replicas[f.random.IntN(len(f.Replicas))].Hold(subject, time.Minute)
	f.must(err)
	f.hold(d.Allowed && !d.Degraded && d.ID != "", "%s: %+v", subject, d)
	return d
}

// fillPlaces opens the maximum number of holds and checks that one more is denied.
func (f *field) fillPlaces(id string) (ids []string) {
	f.Helper()
	for range rig.TogetherMax {
		ids = append(ids, f.openHold(id).ID)
	}
	d, err := f.Replicas[0].Hold(id, time.Minute)
	f.must(err)
	f.hold(!d.Allowed && d.Reason == tierlimit.Exceeded, "one more than the max: %+v", d)
	return ids
}

// lost checks that Redis has lost the holds in before: the subject can open the maximum
// number of holds again, and settling a lost hold changes nothing.
func (f *field) lost(id string, before []string) {
	f.Helper()
	after := f.fillPlaces(id)
	for _, hold := range before {
		f.hold(!f.settled(f.Replicas[0], hold, 0), "a hold that Redis has lost was settled")
	}
	d, err := f.Replicas[0].Decide("peek", id)
	f.must(err)
	for _, w := range d.Windows {
		f.hold(!d.Degraded && w.Used == int64(len(after)), "%d used of %s after %d holds", w.Used, w.Limit, len(after))
	}
	f.tell("%d holds lost, none settled; %d held at once afterwards, of a max of %d", len(before), len(after), rig.TogetherMax)
}

// settled settles a hold and reports whether the hold was open.
func (f *field) settled(r *rig.Replica, id string, cost int64) bool {
	f.Helper()
	found, err := r.Settle(id, cost)
	f.must(err)
	return found
}

// reachable waits until every replica decides in Redis.
func (f *field) reachable() {
	f.Helper()
	f.must(f.Await(10*time.Second, "Redis is asked", func() bool {
		for _, r := range f.Replicas {
			if d, err := r.Decide("peek", rig.Counted+"-nobody"); err != nil || d.Degraded {
				return false
			}
		}
		return true
	}))
}
