package redisstore

import (
	"testing"
	"time"
)

// A lease that the sweep forgot just before it asked was filled where nobody
// would look for it: its share stayed charged.
func TestAForgottenLeaseIsNotFilled(t *testing.T) {
	ls := &leases{began: time.Now().Add(-time.Hour)}
	ls.sweeping = true // not by itself
	c := chargeOf("a")
	c.Ceilings[0].Lease = true
	l := ls.add(c, hashOf("a"))
	l.seen, l.served, l.since = true, 1000, ls.now()-3*maxLease
	ls.collect(func(*lease) bool { return true })
	e := &entry{ceilings: c.Ceilings, runs: []run{{cost: 1, came: 1}}}
	if l.ask(e, ls.now()); e.leased || e.share != 0 {
		t.Errorf("a forgotten lease asks for %d", e.share)
	}
	if again := ls.add(c, hashOf("a")); again == l || ls.count.Load() != 1 {
		t.Errorf("%d leases are held", ls.count.Load())
	}
}
