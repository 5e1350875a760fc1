package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
)

// mostFailures is how many wrong tokens one client may bring within a minute. From then on no
// token is looked up for the client until the minute is over. A token that needs no look-up
// is never refused for what others bring.
const mostFailures = 20

// maxGuessers is of how many clients wrong tokens are counted. Where there are more, those
// who come later are not slowed down: their look-ups are batched all the same.
const maxGuessers = 1 << 14

// A throttle slows down who guesses tokens. It counts in memory, by the client's address as
// the limits do: it holds while Redis and Postgres are away, and each replica counts for
// itself.
type throttle struct {
	client   httplimit.SubjectFunc
	failures *memstore.Store
}

func newThrottle(trusted []netip.Prefix) *throttle {
	return &throttle{
		client:   httplimit.ByAddress(httplimit.AddressConfig{Trusted: trusted}),
		failures: memstore.New(memstore.Config{MaxSubjects: maxGuessers}),
	}
}

// failures is how many wrong tokens an address may bring.
var failures = func() *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: "failures", Max: mostFailures, Window: tierlimit.Window{Length: time.Minute}})
	if err != nil {
		panic(err)
	}
	return c
}()

// count counts a token as wrong, and returns how to take that back; or a *waitError if the
// client has brought too many. A token that is looked up counts as wrong until it turns out
// to be right: many at once must not all be looked up.
func (t *throttle) count(r *http.Request) (takeBack func(), err error) {
	client, _ := t.client(r) // who has no address shares a count with all who have none
	c := tierlimit.Charge{Subject: "client " + client, Cost: 1, Ceilings: failures, Hold: &tierlimit.Hold{For: time.Minute}}
	_, _ = rand.Read(c.Hold.ID[:]) // crypto/rand: Read never fails
	o, err := t.failures.Take(context.Background(), c)
	if err != nil {
		return func() {}, nil //nolint:nilerr // there is no room to count for the client
	}
	if !o.Allowed {
		return nil, &waitError{time.Duration(o.Counts[0].Reset) * time.Millisecond}
	}
	return func() {
		_, _ = t.failures.Settle(context.Background(), tierlimit.Correction{Subject: c.Subject, ID: c.Hold.ID}) // memory does not fail
	}, nil
}
