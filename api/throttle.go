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
	right    [4096]atomic.Uint64 // hashes of a client and a token that was right; one of another takes its place
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
	if g.place().Load() == g.hash {
		return 0
	}
	used, reset := g.count(0)
	if used < mostFailures {
		return 0
	}
	return reset
}

func (g *guess) succeeded() { g.place().Store(g.hash) }

func (g *guess) failed() {
	g.place().CompareAndSwap(g.hash, 0) // it was right, and has been revoked
	g.count(1)
}

// place is where the guess would stand if it was right before.
func (g *guess) place() *atomic.Uint64 { return &g.right[g.hash%uint64(len(g.right))] }

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
