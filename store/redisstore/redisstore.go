// Package redisstore counts charges in Redis, shared by all replicas.
//
// A decision is one script on one key; those that come together travel in one
// call, and those of one subject as one. Limits marked Lease are served by each
// process from a share of its own. The package is for a single Redis
// server, 6.2 or newer, dedicated to counters and set to noeviction: an evicted
// key is a fresh quota. It is not a general cache client.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/durable"
)

// A Store counts in Redis. It is safe for concurrent use. It does not close its
// client.
type Store struct {
	client  *redis.Client
	timeout time.Duration // of a call
	line    line
	leases  leases
}

// New returns a Store on client, which must honour deadlines: a client made
// from [Options] does.
func New(client *redis.Client) (*Store, error) {
	if !client.Options().ContextTimeoutEnabled {
		return nil, &tierlimit.FieldError{
			Field: "ContextTimeoutEnabled", Value: "false", Want: "true: without it go-redis ignores the decision budget",
		}
	}
	if client.Options().ReadTimeout <= 0 {
		return nil, &tierlimit.FieldError{
			Field: "ReadTimeout", Value: client.Options().ReadTimeout.String(), Want: "positive: it bounds a call",
		}
	}
	s := &Store{client: client, timeout: client.Options().ReadTimeout}
	s.line.send, s.line.timeout = s.sendBatch, s.timeout
	s.leases.began, s.leases.giveBack = time.Now(), s.giveBack
	return s, nil
}

// standsFor is how long a denial may be repeated from memory: a refund or a
// reset by another process is seen after that.
const standsFor = time.Second

// Take implements tierlimit.Store. It answers by ctx's deadline, or the client's
// ReadTimeout where that is sooner; a cancellation does not end it earlier, as
// one timer watches over all who travel together. A call that times out may
// still have been charged; it is never sent again. A charge given up before it
// left is not made.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Outcome{}, err
	}
	if err := ctx.Err(); err != nil {
		return tierlimit.Outcome{}, unanswered(&c, errNotSent, err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(s.timeout)
	}
	hash := hashOf(c.Subject)
	var l *lease
	if leasable(&c) {
		var o tierlimit.Outcome
		if l = s.leases.take(&c, hash, &o); o.Allowed {
			return o, nil
		}
		if l == nil {
			l = s.leases.add(&c, hash)
		}
	}
	p := s.line.join(&c, hash, l, deadline)
	defer s.line.leave(p.batch)
	if err := s.line.await(&p, deadline); err != nil {
		return tierlimit.Outcome{}, unanswered(&c, err, context.DeadlineExceeded)
	}
	o, err := p.outcome(&c)
	if err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("take on %s: %w", Key(c.Subject), err)
	}
	return o, nil
}

// TakeNow implements tierlimit.Immediate: it serves leased limits from the share
// that this process holds.
func (s *Store) TakeNow(c tierlimit.Charge) (o tierlimit.Outcome, ok bool) {
	if leasable(&c) {
		s.leases.take(&c, hashOf(c.Subject), &o)
	}
	return o, o.Allowed
}

func unanswered(c *tierlimit.Charge, what, cause error) error {
	return fmt.Errorf("take on %s, %w: %w: %w", Key(c.Subject), what, tierlimit.ErrStoreUnavailable, cause)
}

// sendBatch makes the call for a batch and fills in what came of each entry.
func (s *Store) sendBatch(ctx context.Context, b *batch) {
	c := &b.call
	asked := s.leases.now()
	if !c.prepare(b, asked) {
		return // everybody has given up
	}
	defer c.answer(asked)
	reply, err := s.charge(ctx, c.command(b.again))
	if err == nil {
		err = c.read(reply)
	}
	if err == nil {
		return
	}
	for i := range b.entries {
		b.entries[i].err = err
	}
}

// charge calls the script by its name, and by its source if the server does not
// know the name: NOSCRIPT says that nothing ran.
func (s *Store) charge(ctx context.Context, words []any) ([]int64, error) {
	words[0], words[1] = "evalsha", scripts.Take.SHA
	cmd := onceInts{redis.NewIntSliceCmd(ctx, words...)}
	err := s.client.Process(ctx, cmd)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		words[0], words[1] = "eval", scripts.Take.Source
		cmd = onceInts{redis.NewIntSliceCmd(ctx, words...)}
		err = s.client.Process(ctx, cmd)
	}
	return cmd.Val(), classify(err)
}

// onceInts is once for a reply of whole numbers.
type onceInts struct{ *redis.IntSliceCmd }

// NoRetry is what go-redis asks before it sends a command again.
func (onceInts) NoRetry() bool { return true }

// Reset implements tierlimit.Store.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	// A share of what is forgotten is not served on.
	_ = s.giveBack(ctx, s.leases.of(subject))
	args := make([]any, len(limits))
	for i, name := range limits {
		args[i] = name
	}
	key := Key(subject)
	if _, err := s.run(ctx, scripts.Reset, []string{key, resetsKey(key)}, args); err != nil {
		return fmt.Errorf("reset of %s: %w", key, err)
	}
	return nil
}

// resetsKey holds when the windows that still run were reset.
func resetsKey(key string) string { return key + ":resets" }

// Refund implements tierlimit.Store. Sent again it does nothing: whoever does not
// know whether it arrived may ask once more.
func (s *Store) Refund(ctx context.Context, r tierlimit.Refund) (bool, error) {
	if err := r.Validate(); err != nil {
		return false, err
	}
	args := []any{r.Cost, r.At}
	for _, w := range r.Windows {
		args = append(args, w.Limit, w.End, w.Length)
	}
	key := Key(r.Subject)
	keys := []string{key, resetsKey(key), key + ":refunded:" + strconv.FormatUint(r.Nonce, 36)}
	reply, err := s.run(ctx, scripts.Refund, keys, args)
	if err != nil {
		return false, fmt.Errorf("refund to %s: %w", key, err)
	}
	return reply == int64(1), nil
}

// Restore implements durable.Restorer. Sent again it does nothing.
func (s *Store) Restore(ctx context.Context, list []durable.Loss) (int, error) {
	var args []any
	for _, l := range list {
		args = append(args, l.Limit, l.Used, l.End, l.At, l.Begun, l.BegunAt)
	}
	key := Key(list[0].Subject)
	reply, err := s.run(ctx, scripts.Restore, []string{key, resetsKey(key), key + ":restored"}, args)
	if err != nil {
		return 0, fmt.Errorf("restore of %s: %w", key, err)
	}
	n, ok := reply.(int64)
	if !ok {
		return 0, fmt.Errorf("restore of %s: %w", key, errReply)
	}
	return int(n), nil
}

// Ping reports whether Redis answers within ctx's deadline and lets this user
// run the scripts. It reads the counters of a subject that is none and writes
// nothing: a server that only cannot be written to answers it.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.Take(ctx, tierlimit.Charge{
		Subject:  "tierlimit:ping",
		Ceilings: []tierlimit.Ceiling{{Name: "ping", Window: tierlimit.Window{Length: time.Second}}},
	})
	return err
}

// once is a command that go-redis sends at most once. Its own retries would
// charge again a call whose reply was lost.
type once struct{ *redis.Cmd }

// NoRetry is what go-redis asks before it sends a command again.
func (once) NoRetry() bool { return true }

// run calls a script by name, and by source if the server does not know the
// name: NOSCRIPT says that nothing ran.
func (s *Store) run(ctx context.Context, script scripts.Script, keys []string, args []any) (any, error) {
	reply, err := s.send(ctx, "evalsha", script.SHA, keys, args)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, err = s.send(ctx, "eval", script.Source, keys, args)
	}
	return reply, classify(err)
}

func (s *Store) send(ctx context.Context, verb, script string, keys []string, args []any) (any, error) {
	words := append(make([]any, 0, 3+len(keys)+len(args)), verb, script, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	cmd := once{redis.NewCmd(ctx, append(words, args...)...)}
	cmd.SetFirstKeyPos(3)
	if err := s.client.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// errReply is an answer of a script that is not ours.
var errReply = errors.New("the script's reply has an unknown shape")
