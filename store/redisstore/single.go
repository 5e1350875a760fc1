package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
)

// A single is one Redis, or the one that a Sentinel says is the master now: all
// charges are on one line, and a batch is one call.
type single struct {
	client *redis.Client
	line   line
}

func (s *single) lineTo(context.Context, string) (*line, error) { return &s.line, nil }

func (s *single) name(string) string { return "" }

func (s *single) process(ctx context.Context, cmd redis.Cmder) error {
	return s.client.Process(ctx, cmd)
}

func (s *single) each(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	return ask(ctx, s.client)
}

func (s *single) follow(context.Context, *tierlimit.Charge) (tierlimit.Outcome, error) {
	return tierlimit.Outcome{}, errMoved // one server does not say so
}

func (s *single) charge(ctx context.Context, b *batch) {
	reply, err := s.take(ctx, b.call.command(b.again))
	if err == nil {
		err = b.call.read(reply)
	}
	if err == nil {
		return
	}
	for i := range b.entries {
		b.entries[i].err = err
	}
}

// take calls the script by its name, and by its source if the server does not
// know the name: NOSCRIPT says that nothing ran.
func (s *single) take(ctx context.Context, words []any) ([]int64, error) {
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
