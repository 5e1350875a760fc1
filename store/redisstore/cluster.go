package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
)

// A cluster is a Redis Cluster. Charges are on one line to each master, so that one
// that is stuck holds up nobody else's; a batch is a pipeline of one call for each
// subject, as a script may touch one slot. Where a slot has moved, or is moving, the
// client follows: a call that was redirected has not run.
type cluster struct {
	client  *redis.ClusterClient
	newLine func() *line
	timeout time.Duration // of asking who has which slots
	reached atomic.Bool   // it has told who has which slots: asking for that does not wait again

	mu    sync.RWMutex
	lines map[string]*line // guarded by mu: by the master's address
}

// manyLines is how many masters there have been when those nobody uses are forgotten:
// where servers come and go, so do their addresses.
const manyLines = 1000

func (c *cluster) lineTo(ctx context.Context, subject string) (*line, error) {
	addr, err := c.master(ctx, subject)
	if err != nil {
		return nil, err
	}
	c.mu.RLock()
	l := c.lines[addr]
	c.mu.RUnlock()
	if l != nil {
		return l, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l = c.lines[addr]; l == nil {
		if len(c.lines) >= manyLines {
			clear(c.lines) // who is on one stays there
		}
		l = c.newLine()
		c.lines[addr] = l
	}
	return l, nil
}

func (c *cluster) master(ctx context.Context, subject string) (addr string, err error) {
	if !c.reached.Load() { // it may have to be asked who has which slots
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	server, err := c.client.MasterForKey(ctx, Key(subject))
	if err != nil {
		return "", err
	}
	c.reached.Store(true)
	return server.Options().Addr, nil
}

func (c *cluster) name(subject string) string {
	if !c.reached.Load() {
		return ""
	}
	addr, _ := c.master(context.Background(), subject)
	return addr
}

func (c *cluster) process(ctx context.Context, cmd redis.Cmder) error {
	return c.client.Process(ctx, cmd)
}

func (c *cluster) each(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	return c.client.ForEachMaster(ctx, ask)
}

func (c *cluster) charge(ctx context.Context, b *batch) {
	unknown := c.take(ctx, b.call.all(), false)
	for len(unknown) > 0 { // each time the first is made, at least
		unknown = c.take(ctx, unknown, true)
	}
}

// take calls the script for each entry, and reads what came of it. It returns those
// whose server does not know the script: NOSCRIPT says that nothing ran. To teach, the
// first call brings the source, which the others follow on the same connection: a
// server that has forgotten it, or has just been promoted, is sent it once.
func (c *cluster) take(ctx context.Context, entries []*entry, teach bool) (unknown []*entry) {
	pipe := c.client.Pipeline()
	cmds := make([]onceInts, len(entries))
	for i, e := range entries {
		verb, script := "evalsha", scripts.Take.SHA
		if teach && i == 0 {
			verb, script = "eval", scripts.Take.Source
		}
		cmds[i] = onceInts{redis.NewIntSliceCmd(ctx, verb, script, 1, Key(e.subject), e.appendTo([]byte{0}, 1))}
		cmds[i].SetFirstKeyPos(3)
		_ = pipe.Process(ctx, cmds[i]) // it is only noted
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, e := range entries {
		reply, err := cmds[i].Result()
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			unknown = append(unknown, e)
		}
		if e.err = classify(err); err == nil {
			e.readAlone(reply)
		}
	}
	return unknown
}
