// Package tierlimit decides whether a customer's request fits the plan the customer pays
// for.
//
// A subject is on a tier, a tier is a set of limits, and a limit is a max over a window.
// [Limiter.Take] charges one request against all its windows in one atomic step, or
// against none of them:
//
//	lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: resolver})
//	...
//	d, err := lim.Take(ctx, tierlimit.Request{Subject: "acct_42"})
//	if !d.Allowed {
//		// d.Reason says why, d.RetryAfter when to come back.
//	}
//
// Most programs need [New], [Limiter.Take], [Limiter.Peek], [Limiter.Usage],
// [Limiter.Reset] and a [Decision]; programs that serve HTTP need only [New] and package
// httplimit. [Resolver], [Plan] and [Load] are for programs that bring their own tiers or
// load signal. [Store], [LocalStore], [Charge], [Ceilings], [Outcome] and [Count] are for
// those who write a store; package window has the arithmetic they need.
//
// A decision asks three questions, each answered behind an interface:
//
//	Resolver: which plan is this subject on?      (tiers, tiers/pgtiers)
//	Load:     how far are its limits scaled now?  (load)
//	Store:    does the charge fit every window?   (store/redisstore, store/memstore)
//
// # Words
//
//	subject   who is limited, such as an account or an address
//	tier      a named plan: free, pro
//	limit     a named max over a window, inside a tier ([Limit])
//	plan      what holds for one subject now ([Plan])
//	scope     the part of an API that a limit guards
//	charge    what one request costs, as a store is asked for it ([Charge])
//	ceiling   a limit as a store sees it: its max after load, overrides and shadow mode ([Ceiling])
//	count     what a store answers for one ceiling ([Count])
//	outcome   what a store answers for a charge ([Outcome])
//	hold      a charge that can still be corrected ([Limiter.Settle])
//	threshold a part of a max; a [Crossing] is a window that has reached it
//	decision  what the caller is told ([Decision]); a [WindowState] is one limit in it
//
// The package depends on the standard library and package window only. It is not a load
// shedder for one process (it limits customers, not requests in flight) and not a billing
// ledger: counters live as long as their windows.
package tierlimit
