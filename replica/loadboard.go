package replica

import (
	"context"
	"time"

	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// A loadBoard is the topic of a Redis under which replicas agree on load.
type loadBoard struct{ store *redisstore.Store }

const loadTopic = "load"

func (b loadBoard) Publish(ctx context.Context, name, text string, keep time.Duration) error {
	return b.store.Publish(ctx, loadTopic, name, text, keep)
}

func (b loadBoard) Replace(ctx context.Context, name, previous, text string, keep time.Duration) (bool, error) {
	return b.store.Replace(ctx, loadTopic, name, previous, text, keep)
}

func (b loadBoard) Notices(ctx context.Context) (map[string]load.Notice, error) {
	list, err := b.store.Notices(ctx, loadTopic)
	notices := make(map[string]load.Notice, len(list))
	for name, n := range list {
		notices[name] = load.Notice(n)
	}
	return notices, err
}
