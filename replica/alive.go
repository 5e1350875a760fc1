package replica

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A registry of replicas knows how many are alive.
type registry interface {
	SeenAlive(ctx context.Context, id string, within time.Duration) (alive int, err error)
	Gone(ctx context.Context, id string) error
}

// A replica that has not reported within aliveFor is not alive.
const (
	reportEvery = time.Second
	aliveFor    = 5 * reportEvery
)

// A census counts the replicas that are alive. They share each max while they count without
// Redis. While the registry cannot be reached the count stays.
type census struct {
	registry registry
	id       string
	alive    atomic.Int64
	stop     context.CancelFunc
	running  sync.WaitGroup
}

func newCensus(ctx context.Context, r registry, log *slog.Logger) *census {
	c := &census{registry: r, id: rand.Text()}
	c.alive.Store(1)
	if alive, err := r.SeenAlive(ctx, c.id, aliveFor); err == nil {
		c.alive.Store(int64(alive))
	}
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.running.Go(func() { c.run(ctx, log) })
	return c
}

func (c *census) run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		alive, err := c.registry.SeenAlive(ctx, c.id, aliveFor)
		if err != nil {
			continue // the catalogue's follower logs that Postgres is away
		}
		if was := c.alive.Swap(int64(alive)); was != int64(alive) {
			log.Info("replicas alive", "now", alive, "before", was)
		}
	}
}

// count returns the number of replicas that are alive, this one included.
func (c *census) count() int { return int(c.alive.Load()) }

func (c *census) close() {
	c.stop()
	c.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.registry.Gone(ctx, c.id) // on failure the others notice after aliveFor
}
