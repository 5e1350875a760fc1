// Package httplimit holds the requests of a net/http server to their plans.
//
//	limit, err := httplimit.New(lim, httplimit.Config{})
//	http.ListenAndServe(":8080", limit(mux))
//
// New returns a func(http.Handler) http.Handler, which every router takes. The
// zero Config limits by client address; [Config.Subject] says who else is
// asking. The middleware answers 429 itself and leaves the decision in the
// request's context for those it lets through: tierlimit.FromContext.
//
// It never reads a request's body.
package httplimit
