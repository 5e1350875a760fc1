// Package redisstore counts charges in Redis, shared by all replicas.
//
// A decision is one script on one key; those that come together travel in one
// call. The package is for a single Redis server, 6.2 or newer, dedicated to counters and set to noeviction: an
// evicted key is a fresh quota. It is not a general cache client.
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
)

// A Store counts in Redis. It is safe for concurrent use. It does not close its
// client.
type Store struct {
	client  *redis.Client
	timeout time.Duration // of a call
	line    line
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
	s.line.send = s.sendBatch
	return s, nil
}

// Take implements tierlimit.Store. A call that times out may still have been
// charged; it is never sent again. A charge given up before it left is not made.
// The ceilings may be read after an error, until the call's timeout: they must
// not be changed.
func (s *Store) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if err := c.Validate(); err != nil {
		return tierlimit.Outcome{}, err
	}
	t := newTicket(&c)
	if ctx.Err() != nil {
		return tierlimit.Outcome{}, t.unanswered(ctx, "it was not sent")
	}
	s.line.join(t)
	select {
	case <-t.settled:
		return t.answer()
	case <-ctx.Done():
	}
	if t.giveUp() {
		return tierlimit.Outcome{}, t.unanswered(ctx, "it was not sent")
	}
	select {
	case <-t.settled: // the answer came with the deadline
		return t.answer()
	default:
		return tierlimit.Outcome{}, t.unanswered(ctx, "its reply is not known")
	}
}

// sendBatch makes the call for a batch and settles every ticket in it.
func (s *Store) sendBatch(batch []*ticket) {
	if len(batch) == 0 {
		return
	}
	// Not a caller's context: one who gives up must not take the others along.
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	keys, args := make([]string, len(batch)), make([]any, 0, 8*len(batch))
	for i, t := range batch {
		keys[i] = t.key
		args = appendTakeArgs(args, t.charge)
	}
	reply, err := s.run(ctx, scripts.Take, keys, args)
	answers, ok := reply.([]any)
	if err == nil && (!ok || len(answers) != len(batch)) {
		err = errReply
	}
	for i, t := range batch {
		if err != nil {
			t.settle(tierlimit.Outcome{}, err)
			continue
		}
		t.settle(parseOutcome(answers[i], len(t.charge.Ceilings)))
	}
}

// Reset implements tierlimit.Store.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	args := make([]any, len(limits))
	for i, name := range limits {
		args[i] = name
	}
	key := Key(subject)
	if _, err := s.run(ctx, scripts.Reset, []string{key}, args); err != nil {
		return fmt.Errorf("reset of %s: %w", key, err)
	}
	return nil
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

func appendTakeArgs(args []any, c *tierlimit.Charge) []any {
	args = append(args, c.Cost, len(c.Ceilings))
	for i := range c.Ceilings {
		ceiling := &c.Ceilings[i]
		args = append(args, ceiling.Name, ceiling.Max, windowArg(ceiling.Window))
	}
	return args
}

// windowArg writes a window as scripts/time.lua reads it.
func windowArg(w tierlimit.Window) string {
	if w.Period != "" {
		return string(w.Period)
	}
	return strconv.FormatInt(w.Length.Milliseconds(), 10)
}

var errReply = errors.New("the script's reply has an unknown shape")

// parseOutcome reads {fits, used, reset, ...}, the reply for one key, or the
// error in its place.
func parseOutcome(reply any, windows int) (tierlimit.Outcome, error) {
	if err, failed := reply.(error); failed {
		return tierlimit.Outcome{}, classify(err)
	}
	fields, ok := reply.([]any)
	if !ok || len(fields) != 1+2*windows {
		return tierlimit.Outcome{}, errReply
	}
	numbers := make([]int64, len(fields))
	for i := range fields {
		if numbers[i], ok = fields[i].(int64); !ok {
			return tierlimit.Outcome{}, errReply
		}
	}
	o := tierlimit.Outcome{
		Allowed: numbers[0] == 1,
		Counts:  make([]tierlimit.Count, windows),
		Source:  tierlimit.SourceRedis,
	}
	for i := range o.Counts {
		o.Counts[i] = tierlimit.Count{
			Used:  numbers[1+2*i],
			Reset: time.Duration(numbers[2+2*i]) * time.Millisecond,
		}
	}
	return o, nil
}
