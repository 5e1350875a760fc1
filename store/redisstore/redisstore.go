// Package redisstore counts charges in Redis, shared by all replicas.
//
// A decision is one script on one key; charges that come together travel in one call,
// and those of one subject as one. A server that does not answer is not called for a
// while (see [Config]): charges then fail at once.
//
// The package is for Redis 6.2 or newer, dedicated to counters and set to noeviction:
// an evicted key is a fresh quota. [New] takes one server, or the master that a Sentinel
// names; [NewCluster] takes a Cluster, where everything of a subject is in one slot. It
// is not a general cache client.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// Config tunes a Store. The zero Config is ready for use.
type Config struct {
	// Budget is what a server may take for a call: a call that takes longer is a failure
	// of the server. Give the budget that the client's options were made with; default
	// tierlimit.DefaultBudget.
	Budget time.Duration
	// Failures is how many calls in a row may fail before a server is not called any
	// more, default 5; half of at least twenty calls within a second are as good a
	// reason. Then one charge tries every 250 ms. Below 0 a server is always called.
	Failures int
	// MaxHolds is the maximum number of open holds of a subject, 1 to 4096; default
	// tierlimit.DefaultMaxHolds.
	MaxHolds int
	// OnChange is told when a server is not called any more, and why, and when it is
	// called again. server is its address in a Cluster, else "". OnChange must not block;
	// it may be called from many goroutines.
	OnChange func(server string, open bool, cause error)
}

// A Store counts in Redis. It is safe for concurrent use. It does not close its client.
type Store struct {
	server server
	budget time.Duration // of a call
	wait   time.Duration // of one step of the client's
	holds  int           // maximum number of open holds of a subject
}

// A server is Redis, however it is run.
type server interface {
	// lineTo returns the line that carries the charges of a subject, by the deadline.
	lineTo(ctx context.Context, subject string, deadline time.Time) (*line, error)
	// lines returns all that there are.
	lines() []*line
	// wait returns when what runs beside the lines has ended.
	wait()
	// follow charges one of which a line has said errMoved.
	follow(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error)
	// process sends a command on the keys of one subject.
	process(ctx context.Context, cmd redis.Cmder) error
	// name returns the address of the server that counts subject, "" if there is only
	// one server. It does not wait.
	name(subject string) string
	// each asks every server that counts.
	each(ctx context.Context, ask func(context.Context, *redis.Client) error) error
}

// New returns a Store on one Redis, or on the master that a Sentinel names: client is
// from redis.NewClient or redis.NewFailoverClient, with options from [Options] or
// [SentinelOptions]. Close the Store before the client. An error is a
// *tierlimit.FieldError: the client ignores deadlines, or waits less than the budget.
func New(client *redis.Client, cfg Config) (*Store, error) {
	if client == nil {
		return nil, noClient()
	}
	opts := client.Options()
	if err := cfg.check(opts.ContextTimeoutEnabled, opts.ReadTimeout); err != nil {
		return nil, err
	}
	one := &single{client: client}
	one.line = cfg.newLine("", opts.DialTimeout, opts.ReadTimeout, one.call)
	return &Store{server: one, budget: cfg.Budget, wait: opts.ReadTimeout, holds: cfg.MaxHolds}, nil
}

// NewCluster returns a Store on a Redis Cluster: client is from redis.NewClusterClient,
// with options from [ClusterOptions]. Close the Store before the client.
func NewCluster(client *redis.ClusterClient, cfg Config) (*Store, error) {
	if client == nil {
		return nil, noClient()
	}
	opts := client.Options()
	if err := cfg.check(opts.ContextTimeoutEnabled, opts.ReadTimeout); err != nil {
		return nil, err
	}
	many := &cluster{client: client, byAddr: make(map[string]masterLine)}
	many.first.timeout, many.first.longest = cfg.Budget, opts.DialTimeout+3*opts.ReadTimeout
	many.first.health = breaker{most: cfg.Failures, onChange: cfg.told("")}
	many.newLine = func(server string, call func(context.Context, *batch) error) *line {
		return cfg.newLine(server, opts.DialTimeout, opts.ReadTimeout, call)
	}
	return &Store{server: many, budget: cfg.Budget, wait: opts.ReadTimeout, holds: cfg.MaxHolds}, nil
}

func noClient() error {
	return &tierlimit.FieldError{Field: "client", Value: "nil", Want: "a client made with the options of this package"}
}

// check fills in what is not given, and refuses what cannot be.
func (cfg *Config) check(deadlines bool, readTimeout time.Duration) error {
	cfg.Budget = budgetOr(cfg.Budget)
	if cfg.Failures == 0 {
		cfg.Failures = failuresInARow
	}
	if cfg.MaxHolds == 0 {
		cfg.MaxHolds = tierlimit.DefaultMaxHolds
	}
	switch {
	case cfg.MaxHolds < 0 || cfg.MaxHolds > mostHolds:
		return &tierlimit.FieldError{Field: "MaxHolds", Value: strconv.Itoa(cfg.MaxHolds), Want: "a whole number from 1 to 4096"}
	case !deadlines:
		return &tierlimit.FieldError{
			Field: "ContextTimeoutEnabled", Value: "false", Want: "true: without it go-redis ignores deadlines",
		}
	case readTimeout < cfg.Budget:
		return &tierlimit.FieldError{
			Field: "ReadTimeout", Value: readTimeout.String(), Want: "at least the budget of " + cfg.Budget.String() + "; Options makes it twice as long",
		}
	}
	return nil
}

// mostHolds bounds how many holds a script reads after some have expired.
const mostHolds = 4096

func (cfg *Config) newLine(server string, dial, step time.Duration, call func(context.Context, *batch) error) *line {
	// A connection may have to come about, to be greeted, and to carry the call.
	return newLine(cfg.Budget, dial+3*step, cfg.Failures, cfg.told(server), call)
}

// told returns what tells OnChange of a server, nil if nobody is to be told.
func (cfg *Config) told(server string) func(open bool, cause error) {
	if cfg.OnChange == nil {
		return nil
	}
	return func(open bool, cause error) { cfg.OnChange(server, open, cause) }
}

// standsFor is how long a denial may be repeated from memory: a refund or a reset by
// another process is seen after that.
const standsFor = time.Second

// Take implements tierlimit.Store. It returns by c.Deadline (after the budget if c has
// none), or by ctx's deadline where that is sooner; a cancellation does not end it earlier, as one
// timer watches over all charges that travel together. A call that times out may still
// have been charged; it is never sent again. A charge given up before it left is not
// made.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Outcome{}, err
	}
	var o tierlimit.Outcome
	var err error
	if c.Plain() {
		o, err = s.take(ctx, &c)
	} else {
		o, err = s.takeWithHolds(ctx, &c)
	}
	if err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("take on %s: %w", Key(c.Subject), err)
	}
	return o, nil
}

func (s *Store) take(ctx context.Context, c *tierlimit.Charge) (tierlimit.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("%w: %w: %w", ErrNotSent, tierlimit.ErrStoreUnavailable, err)
	}
	deadline := s.deadline(ctx, c.Deadline)
	line, err := s.server.lineTo(ctx, c.Subject, deadline)
	if err != nil {
		return tierlimit.Outcome{}, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	o, err := line.take(c, hashOf(c.Subject), deadline)
	if errors.Is(err, errMoved) {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		return s.server.follow(ctx, *c)
	}
	return o, err
}

// Close ends the goroutines of the Store once they have made the calls they are at, and
// returns when they have ended, or ctx's error. Charges that come after it fail. Call it
// when no Take is running, and before the client is closed.
func (s *Store) Close(ctx context.Context) error {
	ended := make(chan struct{})
	lines := s.server.lines()
	for _, l := range lines {
		l.close()
	}
	go func() {
		defer close(ended)
		for _, l := range lines {
			l.workers.Wait()
		}
		s.server.wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Server returns the address of the master that counts subject in a Cluster. It returns ""
// for a Store on one server, and for a Cluster that no call has reached yet. Server never
// waits for the network.
func (s *Store) Server(subject string) string { return s.server.name(subject) }

// errReply is returned for a reply that the scripts never send.
var errReply = errors.New("the script's reply has an unknown shape")
