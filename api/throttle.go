package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
)

// mostFailures is how many invalid tokens a client may send within a minute. After that the
// client's tokens are not looked up until the minute ends. Tokens that need no look-up
// still work.
const mostFailures = 20

// maxGuessers is the most clients whose invalid tokens are counted. Further clients are not
// throttled, but their look-ups are batched.
const maxGuessers = 1 << 14

// A throttle slows down clients that guess tokens. It counts by client address, in memory:
// it works while Redis and Postgres are down, and each replica counts separately.
type throttle struct {
	client   httplimit.SubjectFunc
	failures *memstore.Store
}

func newThrottle(address httplimit.AddressConfig) *throttle {
	return &throttle{
		client:   httplimit.ByAddress(address),
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

// count counts an invalid token of the client. takeBack undoes that. If the client has sent
// too many, count returns a *waitError. A token counts as invalid during its look-up, which
// bounds concurrent look-ups.
func (t *throttle) count(r *http.Request) (takeBack func(), err error) {
	client, _ := t.client(r) // clients without an address share a count
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
