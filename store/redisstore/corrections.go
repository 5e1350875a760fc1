package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/durable"
)

// Reset and Restore each call a script on several keys of one subject.

// Reset implements tierlimit.Store.
func (s *Store) Reset(ctx context.Context, subject string, limits ...string) error {
	args := make([]any, len(limits))
	for i, name := range limits {
		args[i] = name
	}
	key := Key(subject)
	if _, err := s.run(ctx, scripts.Reset, []string{key, resetsKey(key), holdsKey(subject)}, args); err != nil {
		return fmt.Errorf("reset of %s: %w", key, err)
	}
	return nil
}

// resetsKey returns the key that holds when the windows that still run were reset.
func resetsKey(key string) string { return key + ":resets" }

// Restore implements durable.Restorer. A restore that was made before does nothing.
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

// once is a command that go-redis sends at most once. Its own retries would
// charge again a call whose reply was lost.
type once struct{ *redis.Cmd }

// NoRetry is what go-redis asks before it sends a command again.
func (once) NoRetry() bool { return true }

// run calls a script by name, and by source after NOSCRIPT, which says that nothing ran.
//
// TRYAGAIN says so too: while a slot moves to another server, one of the keys is here and
// one there. run then tries again until ctx ends.
func (s *Store) run(ctx context.Context, script scripts.Script, keys []string, args []any) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	for {
		reply, err := s.eval(ctx, "evalsha", script.SHA, keys, args)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			reply, err = s.eval(ctx, "eval", script.Source, keys, args)
		}
		if !redis.HasErrorPrefix(err, "TRYAGAIN") {
			return reply, classify(err)
		}
		select {
		case <-ctx.Done():
			return nil, classify(err)
		case <-time.After(tryAgainAfter):
		}
	}
}

const tryAgainAfter = 2 * time.Millisecond

func (s *Store) eval(ctx context.Context, verb, script string, keys []string, args []any) (any, error) {
	words := append(make([]any, 0, 3+len(keys)+len(args)), verb, script, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	cmd := once{redis.NewCmd(ctx, append(words, args...)...)}
	cmd.SetFirstKeyPos(3)
	if err := s.server.process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}
