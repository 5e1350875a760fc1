package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A roll knows how many replicas are alive.
type roll interface {
	SeenAlive(ctx context.Context, id string, within time.Duration) (alive int, err error)
	Gone(ctx context.Context, id string) error
}

// A replica that has not said for aliveFor that it is alive is not.
const (
	sayAlive = time.Second
	aliveFor = 5 * sayAlive
)

// replicas keeps the number of those that are alive, which share each max while
// they count for themselves. While the roll cannot be asked it stays as it was.
type replicas struct {
	roll    roll
	id      string
	alive   atomic.Int64
	stop    context.CancelFunc
	running sync.WaitGroup
}

func countReplicas(ctx context.Context, r roll, log *slog.Logger) *replicas {
	c := &replicas{roll: r, id: rand.Text()}
	c.alive.Store(1)
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	if alive, err := r.SeenAlive(ctx, c.id, aliveFor); err == nil {
		c.alive.Store(int64(alive))
	}
	c.running.Go(func() { c.run(ctx, log) })
	return c
}

func (c *replicas) run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(sayAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		alive, err := c.roll.SeenAlive(ctx, c.id, aliveFor)
		if err != nil {
			continue // whoever follows the catalogue says that Postgres is away
		}
		if was := c.alive.Swap(int64(alive)); was != int64(alive) {
			log.Info("replicas alive", "now", alive, "before", was)
		}
	}
}

// count is how many are alive, this one among them.
func (c *replicas) count() int { return int(c.alive.Load()) }

func (c *replicas) close() {
	c.stop()
	c.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.roll.Gone(ctx, c.id) // else it is missed soon
}
