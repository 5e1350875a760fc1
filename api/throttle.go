package api

import (
	"context"
	"crypto/rand"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
)

// mostFailures is how many wrong tokens one client may bring within a minute. From
// then on none of its tokens is looked at until the minute is over, but those that
// were right before: a neighbour who guesses must not lock out who works.
const mostFailures = 20

// shared is how many counts the addresses share that there is no room for.
const shared = 4096

// A throttle slows down who guesses tokens. It counts in memory, by the client's
// address as the limits do: it holds while Redis and Postgres are away, and each
// replica counts for itself.
type throttle struct {
	client   httplimit.SubjectFunc
	failures *memstore.Store
	overflow *memstore.Store // for addresses that failures has no room for
	seed     maphash.Seed
	right    [1024]places
}

// Places are for hashes of a client and a token that was right. Those that come to the
// same places and find them taken put one out.
type places [8]atomic.Uint64

func (p *places) has(hash uint64) bool { return p.find(hash) != nil }

func (p *places) find(hash uint64) *atomic.Uint64 {
	for i := range p {
		if p[i].Load() == hash {
			return &p[i]
		}
	}
	return nil
}

func (p *places) put(hash uint64) {
	switch free := p.find(0); {
	case p.has(hash):
	case free != nil:
		free.CompareAndSwap(0, hash)
	default:
		p[hash>>61].Store(hash)
	}
}

func newThrottle(trusted []netip.Prefix) *throttle {
	return &throttle{
		client:   httplimit.ByAddress(httplimit.AddressConfig{Trusted: trusted}),
		failures: memstore.New(memstore.Config{MaxSubjects: 100_000}),
		overflow: memstore.New(memstore.Config{}),
		seed:     maphash.MakeSeed(),
	}
}

// A guess is a token that a client brings, right or wrong.
type guess struct {
	*throttle
	client   string
	hash     uint64
	takeBack func() // that it was counted as wrong; nil if it was not
}

func (t *throttle) guess(r *http.Request, token string) guess {
	client, _ := t.client(r) // who has no address shares a count with all who have none
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(client)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(token)
	return guess{throttle: t, client: client, hash: h.Sum64() | 1}
}

// refused returns how long the token is not looked at; 0 if it is. One that was not right
// before counts as wrong until it has been: many at once must not all be looked at.
func (g *guess) refused() time.Duration {
	if g.places().has(g.hash) {
		return 0
	}
	return g.count()
}

func (g *guess) succeeded() {
	g.places().put(g.hash)
	g.undecided()
}

// undecided takes back what was counted: it is not known to be wrong.
func (g *guess) undecided() {
	if g.takeBack != nil {
		g.takeBack()
	}
}

func (g *guess) failed() {
	if was := g.places().find(g.hash); was != nil { // it was right, and has been revoked
		was.CompareAndSwap(g.hash, 0)
		_ = g.count()
	}
}

// places are where the guess would stand if it was right before.
func (g *guess) places() *places { return &g.right[g.hash%uint64(len(g.right))] }

// failures is how many wrong tokens an address may bring.
var failures = func() *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: "failures", Max: mostFailures, Window: tierlimit.Window{Length: time.Minute}})
	if err != nil {
		panic(err)
	}
	return c
}()

// count counts one more as wrong, or returns how long there is no room for more.
func (g *guess) count() time.Duration {
	c := tierlimit.Charge{Subject: "client " + g.client, Cost: 1, Ceilings: failures, Hold: &tierlimit.Hold{For: time.Minute}}
	_, _ = rand.Read(c.Hold.ID[:]) // crypto/rand: Read never fails
	store := g.failures
	o, err := store.Take(context.Background(), c)
	if err != nil { // more addresses than there is room for: those that are new share what there is
		store, c.Subject = g.overflow, "others "+strconv.FormatUint(maphash.String(g.seed, g.client)%shared, 10)
		if o, err = store.Take(context.Background(), c); err != nil {
			return time.Minute
		}
	}
	if !o.Allowed {
		return time.Duration(o.Counts[0].Reset) * time.Millisecond
	}
	g.takeBack = func() {
		_, _ = store.Settle(context.Background(), tierlimit.Correction{Subject: c.Subject, ID: c.Hold.ID}) // memory does not fail
	}
	return 0
}
