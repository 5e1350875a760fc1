package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/rig"
)

// A site is what runs, and the load that is on it.
type site struct {
	*rig.Rig
	run    *rig.Run
	book   *book
	random *rand.Rand
	oldest *rig.Replica // which lives all the time
	memory []sample     // of the oldest
	kills  int          // of replicas
}

// A fault is one that loses no memory of Redis: what is charged must be there at the
// end.
type fault struct {
	name string
	fail func(context.Context, *site) error
	heal func(context.Context, *site) error
}

func wire(name string, fail, heal func(*site)) fault {
	return fault{
		name,
		func(_ context.Context, s *site) error { fail(s); return nil },
		func(_ context.Context, s *site) error { heal(s); return nil },
	}
}

func slow(d time.Duration) func(proxy.Reply) proxy.Fate {
	return func(proxy.Reply) proxy.Fate { return proxy.Fate{Delay: d} }
}

var faults = []fault{
	{
		"Redis is frozen",
		func(_ context.Context, s *site) error { return s.Redis.Freeze() },
		func(_ context.Context, s *site) error { return s.Redis.Thaw() },
	},
	wire("Redis is slower than the budget", func(s *site) { s.RedisWire.Replies(slow(3 * s.Budget)) }, func(s *site) { s.RedisWire.Replies(nil) }),
	wire("Redis is slow", func(s *site) { s.RedisWire.Replies(slow(s.Budget / 4)) }, func(s *site) { s.RedisWire.Replies(nil) }),
	wire("connections to Redis are refused", func(s *site) { s.RedisWire.Refuse(true) }, func(s *site) { s.RedisWire.Refuse(false) }),
	wire("replies are lost or torn", (*site).loseReplies, func(s *site) { s.RedisWire.Replies(nil) }),
	wire("Postgres is a black hole", func(s *site) { s.PostgresWire.Hole(true) }, func(s *site) { s.PostgresWire.Hole(false) }),
	wire("Postgres is refused", func(s *site) { s.PostgresWire.Refuse(true) }, func(s *site) { s.PostgresWire.Refuse(false) }),
	{"a replica is killed, and another started", kill, replace},
	{"a replica is told to stop, and another started", terminate, replace},
	{
		"the scripts are flushed",
		func(ctx context.Context, s *site) error { return s.Client.ScriptFlush(ctx).Err() },
		func(context.Context, *site) error { return nil },
	},
}

func (s *site) loseReplies() {
	var mu sync.Mutex
	s.RedisWire.Replies(func(r proxy.Reply) proxy.Fate {
		mu.Lock()
		defer mu.Unlock()
		n := s.random.IntN(40)
		return proxy.Fate{Lost: r.Script && n == 0, Torn: r.Script && n == 1}
	})
}

// youngest is who goes, so that the others live all the time.
func (s *site) youngest() *rig.Replica { return s.Replicas[len(s.Replicas)-1] }

// kill ends a replica as a crash does. Whoever shares the load out notices a moment
// later.
func kill(_ context.Context, s *site) error {
	gone := s.youngest()
	s.kills++
	gone.Kill()
	time.Sleep(20 * time.Millisecond)
	s.run.Skip(gone)
	s.Drop(gone)
	return nil
}

// terminate ends a replica as a deployment does: nobody is sent to it any more, and it
// answers whom it has accepted.
func terminate(_ context.Context, s *site) error {
	leaving := s.youngest()
	s.run.Skip(leaving)
	s.Drop(leaving)
	return leaving.Terminate()
}

func replace(_ context.Context, s *site) error {
	if err := s.AddReplica(); err != nil {
		return err
	}
	s.run.Add(s.youngest())
	return nil
}

// schedule is which faults come, in which order: all before one comes again.
func schedule(o *options) ([]fault, error) {
	if o.every > 0 && o.lasting >= o.every {
		return nil, fmt.Errorf("-lasting %s: must be shorter than -every %s: one thing fails at a time", o.lasting, o.every)
	}
	list := faults
	if o.only != "" {
		list = nil
		var names []string
		for _, f := range faults {
			names = append(names, f.name)
			if f.name == o.only {
				list = []fault{f}
			}
		}
		if list == nil {
			return nil, fmt.Errorf("-fault %q: must be one of %s", o.only, strings.Join(names, "; "))
		}
	}
	r := rand.New(rand.NewPCG(o.seed, 0))
	var plan []fault
	for o.every > 0 && time.Duration(len(plan)) <= o.duration/o.every {
		for _, i := range r.Perm(len(list)) {
			plan = append(plan, list[i])
		}
	}
	return plan, nil
}
