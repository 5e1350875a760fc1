package httplimit

import (
	"context"
	"math/rand/v2"
	"net/http"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/problem"
)

// A Planner knows the plan of a subject without waiting; *tierlimit.Limiter does. With Config.Guard
// the Limiter of a Gate must be a Planner.
type Planner interface {
	Plan(ctx context.Context, subject string) (*tierlimit.Plan, error)
}

// admit asks the guard about a request of subject and sets a.permit, or a.problem if the guard
// refuses the request. A subject without a plan is left to the limiter, which answers an error.
func (g *Gate) admit(ctx context.Context, subject string, a *answer) {
	plan, err := g.planner.Plan(ctx, subject)
	if err != nil {
		return
	}
	if a.permit = g.cfg.Guard.Acquire(plan.Tier(), plan.Priority(), subject); a.permit == nil {
		a.problem = &problem.Problem{
			Type: problem.TemporaryReducedCapacity, Status: http.StatusServiceUnavailable, Title: "Temporary reduced capacity",
			Detail:     "The service is at its capacity and refuses some requests for the time being.",
			RetryAfter: 1 + rand.IntN(mostRetry), //nolint:gosec // no secret
		}
	}
}

// mostRetry is the greatest Retry-After of a request that the guard refuses, in seconds. The time is
// random, so that not all clients come back at once.
const mostRetry = 3

// leave tells the guard that the request has ended. If its response has begun, the guard knows that
// already.
func (a *answer) leave(r *http.Request) {
	if !a.decision.Allowed || r.Context().Err() != nil { // nothing was served, or nobody waited for it
		a.permit.Dropped()
	}
	a.permit.Answered()
}
