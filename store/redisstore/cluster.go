package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// A cluster is a Redis Cluster. There is one line to each master, so that a master that
// is stuck holds up no other master's subjects. A batch is a pipeline of one call for each
// subject, as a script may touch one slot only.
//
// A batch goes to its master and nowhere else. A subject whose slot has moved, or is
// moving, has not been charged then, and is followed alone: the rest of the batch does not
// wait for that.
type cluster struct {
	client  *redis.ClusterClient
	newLine func(server string, call func(context.Context, *batch) error) *line
	reached atomic.Bool // the map of slots is known: asking for it does not wait again
	first   reach       // how it comes to be known

	mu     sync.RWMutex
	byAddr map[string]masterLine // guarded by mu: the master's address is the key
}

// A masterLine is the line to a master, and the client it was made for. A master that
// left the Cluster and came back has another client.
type masterLine struct {
	client *redis.Client
	line   *line
}

// manyLines is how many lines are kept before all are dropped: where servers come and go,
// so do their addresses.
const manyLines = 1000

func (c *cluster) lineTo(ctx context.Context, subject string, deadline time.Time) (*line, error) {
	if !c.reached.Load() {
		if err := c.first.await(c, deadline); err != nil {
			return nil, err
		}
	}
	master, err := c.master(ctx, subject)
	if err != nil {
		return nil, err
	}
	return c.lineFor(master), nil
}

// lineFor returns the line to a master. A client that is not the one the line was made
// for is of a master that left the Cluster and came back: it gets a line of its own.
func (c *cluster) lineFor(master *redis.Client) *line {
	addr := master.Options().Addr
	c.mu.RLock()
	l := c.byAddr[addr]
	c.mu.RUnlock()
	if l.client == master {
		return l.line
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l = c.byAddr[addr]; l.client != master {
		if len(c.byAddr) >= manyLines {
			for _, old := range c.byAddr {
				old.line.close()
			}
			clear(c.byAddr)
		} else if l.line != nil {
			l.line.close()
		}
		l = masterLine{master, c.newLine(addr, func(ctx context.Context, b *batch) error { return c.call(ctx, master, b) })}
		c.byAddr[addr] = l
	}
	return l.line
}

func (c *cluster) master(ctx context.Context, subject string) (*redis.Client, error) {
	master, err := c.client.MasterForKey(ctx, Key(subject))
	if err != nil {
		return nil, fmt.Errorf("who has which slots: %w", classify(err))
	}
	c.reached.Store(true)
	return master, nil
}

func (c *cluster) name(subject string) string {
	if !c.reached.Load() {
		return ""
	}
	master, err := c.master(context.Background(), subject)
	if err != nil {
		return ""
	}
	return master.Options().Addr
}

// process follows redirections. A redirection that is left over means that the Cluster is
// not ready; on a single server it would be a refusal.
func (c *cluster) process(ctx context.Context, cmd redis.Cmder) error {
	err := c.client.Process(ctx, cmd)
	if isElsewhere(err) {
		return fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, err)
	}
	return err
}

func isElsewhere(err error) bool {
	return redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK")
}

func (c *cluster) each(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	return c.client.ForEachMaster(ctx, ask)
}

// errMoved is of an entry whose slot its server does not have, or does not have any more.
var errMoved = errors.New("its slot is elsewhere")

func (c *cluster) lines() []*line {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var list []*line
	for _, l := range c.byAddr {
		list = append(list, l.line)
	}
	return list
}

func (c *cluster) wait() { c.first.running.Wait() }

// call charges a batch.
func (c *cluster) call(ctx context.Context, master *redis.Client, b *batch) error {
	entries, list := c.take(ctx, master, &b.frame, b.frame.entries(), b.commands.leaving(), false)
	for len(entries)+len(list) > 0 { // each pass completes at least the first call
		entries, list = c.take(ctx, master, &b.frame, entries, list, true)
	}
	return nil
}

// take calls the scripts for all entries and commands in one pipeline, and reads the replies.
// It returns those whose reply was NOSCRIPT, for which nothing ran. If teach is true, the
// first call of each script carries the source, for a server that has lost the script or was
// just promoted.
func (c *cluster) take(ctx context.Context, master *redis.Client, f *frame, entries []*entry, list commands, teach bool) (unknown []*entry, forgotten commands) {
	pipe := master.Pipeline()
	cmds := f.alone(ctx, entries, teach)
	for i := range cmds {
		_ = pipe.Process(ctx, cmds[i]) // it is only noted
	}
	calls := list.add(ctx, pipe, teach)
	_, failed := pipe.Exec(ctx) // each command has its own error, unless none was sent
	forgotten, moved := list.read(calls, failed)
	for i, e := range entries {
		reply, err := cmds[i].Result()
		if err == nil && reply == "" {
			err = failed
		}
		switch {
		case err == nil:
			e.readAlone(reply)
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, e)
		case isElsewhere(err):
			e.err, moved = errMoved, true
		default:
			e.err = classify(err)
		}
	}
	if moved {
		c.client.ReloadState(ctx) // in the background
	}
	return unknown, forgotten
}

// follow charges a subject whose slot is elsewhere: go-redis follows the redirection, and
// sends nothing again that may have run.
func (c *cluster) follow(ctx context.Context, charge tierlimit.Charge) (tierlimit.Outcome, error) {
	b := &batch{entries: []entry{{subject: charge.Subject, ceilings: charge.Ceilings, runs: []run{{cost: charge.Cost, came: 1}}}}}
	e := &b.entries[0]
	send := func(verb, script any) (onceString, error) {
		// go-redis finds the slot by a key that is a string.
		cmd := onceString{redis.NewStringCmd(ctx, verb, script, 1, Key(e.subject), (*lone)(e))}
		cmd.SetFirstKeyPos(3)
		return cmd, c.process(ctx, cmd)
	}
	cmd, err := send(evalsha, takeSHA)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd, err = send(eval, takeSource)
	}
	if err != nil {
		return tierlimit.Outcome{}, classify(err)
	}
	e.readAlone(cmd.Val())
	t := ticket{batch: b}
	return t.outcome()
}
