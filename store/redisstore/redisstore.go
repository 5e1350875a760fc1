// Package redisstore counts charges in Redis, shared by all replicas.
//
// A decision is one script on one key; those that come together travel in one
// call, and those of one subject as one. Limits marked Lease are served by each
// process from a share of its own.
//
// The package is for Redis 6.2 or newer, dedicated to counters and set to noeviction:
// an evicted key is a fresh quota. [New] takes one server, or the master that a
// Sentinel names; [NewCluster] takes a Cluster, where everything of a subject is in
// one slot. It is not a general cache client.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// A Store counts in Redis. It is safe for concurrent use. It does not close its
// client.
type Store struct {
	server  server
	timeout time.Duration // of a call
	leases  leases
}

// A server is Redis, however it is run.
type server interface {
	// lineTo returns the line that carries the charges of a subject.
	lineTo(ctx context.Context, subject string) (*line, error)
	// follow charges one of whom a line has said errMoved.
	follow(ctx context.Context, c *tierlimit.Charge) (tierlimit.Outcome, error)
	// process sends a command on the keys of one subject.
	process(ctx context.Context, cmd redis.Cmder) error
	// name is the address of the server that counts a subject, "" if there is one. It
	// does not wait.
	name(subject string) string
	// each asks every server that counts.
	each(ctx context.Context, ask func(context.Context, *redis.Client) error) error
}

// New returns a Store on one Redis, or on the master that a Sentinel names: client is
// from redis.NewClient or redis.NewFailoverClient. It must honour deadlines: made from
// [Options] or [SentinelOptions] it does.
func New(client *redis.Client) (*Store, error) {
	opts := client.Options()
	if err := validate(opts.ContextTimeoutEnabled, opts.ReadTimeout); err != nil {
		return nil, err
	}
	one := &single{client: client}
	s := newStore(one, opts.ReadTimeout)
	one.line.send, one.line.timeout = s.send(one.charge), s.timeout
	return s, nil
}

// NewCluster returns a Store on a Redis Cluster. It must honour deadlines: a client
// made from [ClusterOptions] does.
func NewCluster(client *redis.ClusterClient) (*Store, error) {
	opts := client.Options()
	if err := validate(opts.ContextTimeoutEnabled, opts.ReadTimeout); err != nil {
		return nil, err
	}
	many := &cluster{client: client, timeout: opts.ReadTimeout, lines: make(map[string]masterLine)}
	s := newStore(many, opts.ReadTimeout)
	many.newLine = func(charge func(context.Context, *batch)) *line {
		return &line{send: s.send(charge), timeout: s.timeout}
	}
	return s, nil
}

func validate(deadlines bool, timeout time.Duration) error {
	if !deadlines {
		return &tierlimit.FieldError{
			Field: "ContextTimeoutEnabled", Value: "false", Want: "true: without it go-redis ignores the decision budget",
		}
	}
	if timeout <= 0 {
		return &tierlimit.FieldError{Field: "ReadTimeout", Value: timeout.String(), Want: "positive: it bounds a call"}
	}
	return nil
}

func newStore(s server, timeout time.Duration) *Store {
	store := &Store{server: s, timeout: timeout}
	store.leases.began, store.leases.giveBack = time.Now(), store.giveBack
	return store
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
	line, err := s.server.lineTo(ctx, c.Subject)
	if err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("take on %s, %w: %w", Key(c.Subject), errNotSent, err)
	}
	p := line.join(&c, hash, l, deadline)
	defer line.leave(p.batch)
	if err := line.await(&p, deadline); err != nil {
		return tierlimit.Outcome{}, unanswered(&c, err, context.DeadlineExceeded)
	}
	o, err := p.outcome(&c)
	if errors.Is(err, errMoved) {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		o, err = s.server.follow(ctx, &c)
	}
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

// send makes the calls for a batch with charge, and lets leases know what came of it.
func (s *Store) send(charge func(context.Context, *batch)) func(context.Context, *batch) {
	return func(ctx context.Context, b *batch) {
		asked := s.leases.now()
		if !b.call.prepare(b, asked) {
			return // everybody has given up
		}
		defer b.call.answer(asked)
		charge(ctx, b)
	}
}

// Server is the address of the master that counts a subject, of a Cluster; "" where
// one server counts all, or as long as none has been reached. It does not wait.
func (s *Store) Server(subject string) string { return s.server.name(subject) }

// errReply is an answer of a script that is not ours.
var errReply = errors.New("the script's reply has an unknown shape")
