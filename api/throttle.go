package api

import (
	"context"
	"hash/maphash"
	"net/http"
	"net/netip"
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

// A throttle slows down who guesses tokens. It counts in memory, by the client's
// address as the limits do: it holds while Redis and Postgres are away, and each
// replica counts for itself.
type throttle struct {
	client   httplimit.SubjectFunc
	failures *memstore.Store
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
		seed:     maphash.MakeSeed(),
	}
}

// A guess is a token that a client brings, right or wrong.
type guess struct {
	*throttle
	client string
	hash   uint64
}

func (t *throttle) guess(r *http.Request, token string) guess {
	client, _ := t.client(r) // who has no address shares a count with all who have none
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(client)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(token)
	return guess{throttle: t, client: "client " + client, hash: h.Sum64() | 1}
}

// refused returns how long the token is not looked at; 0 if it is.
func (g *guess) refused() time.Duration {
	if g.places().has(g.hash) {
		return 0
	}
	used, reset := g.count(0)
	if used < mostFailures {
		return 0
	}
	return reset
}

func (g *guess) succeeded() { g.places().put(g.hash) }

func (g *guess) failed() {
	if was := g.places().find(g.hash); was != nil { // it has been revoked
		was.CompareAndSwap(g.hash, 0)
	}
	g.count(1)
}

// places are where the guess would stand if it was right before.
func (g *guess) places() *places { return &g.right[g.hash%uint64(len(g.right))] }

func (g *guess) count(cost int64) (used int64, reset time.Duration) {
	o, err := g.failures.Take(context.Background(), tierlimit.Charge{
		Subject: g.client, Cost: cost,
		Ceilings: []tierlimit.Ceiling{{Name: "failures", Max: mostFailures, Window: tierlimit.Window{Length: time.Minute}}},
	})
	if err != nil { // more addresses than it has room for: those that are new are not slowed down
		return 0, 0
	}
	return o.Counts[0].Used, o.Counts[0].Reset
}
