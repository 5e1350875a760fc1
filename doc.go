// Package tierlimit decides whether a customer's request fits the plan the
// customer pays for.
//
// A subject is on a tier, a tier is a set of limits, and a limit is a max over
// a window. [Limiter.Take] charges one request against all its windows in one
// atomic step, or against none of them:
//
//	lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: resolver})
//	...
//	d, err := lim.Take(ctx, tierlimit.Request{Subject: "acct_42"})
//	if !d.Allowed {
//		// d.Reason says why, d.RetryAfter when to come back.
//	}
//
// Most programs need [New], [Limiter.Take] and a [Decision]; programs that
// serve HTTP need only [New] and package httplimit. [Store], [Resolver] and
// [Load] are for those who bring their own counters, tiers or load signal.
//
// A request flows through three questions, each answered behind an interface:
//
//	Resolver: which plan is this subject on?      (tiers, tiers/pgtiers)
//	Load:     how far are its limits scaled now?  (load)
//	Store:    does the charge fit every window?   (store/redisstore, store/memstore)
//
// The package depends on the standard library only. It is not a load shedder
// for one process (it limits customers, not concurrency) and not a billing
// ledger: counters live as long as their windows.
package tierlimit
