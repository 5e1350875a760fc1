package cache

import (
	"context"
	"strconv"
	"testing"
)

// Names can be made up without end, while the database does not answer.
func TestLookUpsQueueUpToABound(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var l lookups[int]
	l.start(ctx, func(context.Context, []string) (map[string]int, error) {
		<-ctx.Done() // longer than any query
		return nil, ctx.Err()
	})
	for i := range lookupQueue {
		if l.ask(strconv.Itoa(i)) == nil {
			t.Fatalf("%d of %d wait", i, lookupQueue)
		}
	}
	if l.ask("one_more") != nil {
		t.Error("one more waits")
	}
	if l.ask("0") == nil {
		t.Error("who is asked for already is not awaited")
	}
	cancel()
	l.wait()
}
