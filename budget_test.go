package tierlimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
)

// A deriver is a resolver that gives itself less time than it gets, as one that
// asks a server would, and keeps the context for later.
type deriver struct {
	plan *tierlimit.Plan
	last context.Context //nolint:containedctx // to see what becomes of it
}

func (d *deriver) Resolve(ctx context.Context, _ string) (*tierlimit.Plan, error) {
	derived, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	d.last = ctx
	return d.plan, derived.Err()
}

// A context whose Done is closed while its Err is nil makes package context
// panic in a goroutine of its own.
func TestContextsAreDerivedFromADecisionsInPeace(t *testing.T) {
	d := &deriver{plan: &tierlimit.Plan{Tier: "free", Limits: []tierlimit.Limit{perMinute(5)}}}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: d})
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"}); err != nil {
			t.Fatal(err)
		}
		if err := d.last.Err(); err == nil {
			t.Fatal("the decision is over, its context is not")
		}
		<-d.last.Done()
		_, cancel := context.WithCancel(d.last)
		cancel()
	}
}

func TestADecisionsContextEndsWithItsBudgetOrItsCaller(t *testing.T) {
	for name, c := range map[string]struct {
		caller time.Duration // 0: no deadline
		most   time.Duration
	}{
		"the budget":   {0, 20 * time.Millisecond},
		"the caller's": {5 * time.Millisecond, 5 * time.Millisecond},
	} {
		var left time.Duration
		var ended error
		resolver := resolverFunc(func(ctx context.Context) (*tierlimit.Plan, error) {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			<-ctx.Done()
			ended = ctx.Err()
			return nil, ended
		})
		lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Budget: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.caller > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.caller)
			defer cancel()
		}
		d, err := lim.Take(ctx, tierlimit.Request{Subject: "acct_42"})
		if d.Allowed || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(ended, context.DeadlineExceeded) || left > c.most {
			t.Errorf("%s: %+v, %v; ended with %v, %v left at first", name, d, err, ended, left)
		}
	}
}

type resolverFunc func(ctx context.Context) (*tierlimit.Plan, error)

func (f resolverFunc) Resolve(ctx context.Context, _ string) (*tierlimit.Plan, error) { return f(ctx) }
