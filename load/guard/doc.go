// Package guard refuses requests that a saturated service could not answer in time.
//
// A Guard stands before everything else that a request needs, also before the limiter's store.
// While requests are answered without a standing queue it admits all of them. Once a queue stands,
// it admits as many requests a second as the service completes, and refuses the rest: lower
// priorities first, within a priority the subjects that asked most in the last seconds first, and
// among equal subjects by a hash of the subject and the hour, so that nobody is always last.
//
// Nothing is configured. What the service can do is learned from three observations: how long
// goroutines of this process wait for a processor, how many requests are in flight, and how
// fast requests are answered. The first finds a process that is short of CPU, the others find
// a saturated service behind a proxy.
//
// A Guard bounds the rate of admissions and not only their number in flight, because the handlers
// of a Go server that is short of CPU run one after the other: few requests are in flight, and the
// queue is in the scheduler, ahead of every middleware.
//
// The package is not a limiter: it knows no quotas, and what it decides holds for this process
// alone. It imports the standard library only.
package guard
