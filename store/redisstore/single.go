package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/scripts"
)

// A single is one Redis, or the one that a Sentinel says is the master now: all charges
// are on one line, and a batch is one call.
type single struct {
	client *redis.Client
	line   *line
}

func (s *single) lineTo(context.Context, string, time.Time) (*line, error) { return s.line, nil }

func (s *single) name(string) string { return "" }

func (s *single) process(ctx context.Context, cmd redis.Cmder) error {
	return s.client.Process(ctx, cmd)
}

func (s *single) each(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	return ask(ctx, s.client)
}

func (s *single) follow(context.Context, tierlimit.Charge) (tierlimit.Outcome, error) {
	return tierlimit.Outcome{}, errMoved // one server does not say so
}

func (s *single) lines() []*line { return []*line{s.line} }

func (s *single) wait() {}

// call charges a batch.
func (s *single) call(ctx context.Context, b *batch) error {
	if list := b.commands.leaving(); len(list) > 0 {
		return s.pipeline(ctx, b, list)
	}
	return s.charge(ctx, b)
}

// charge calls scripts/take.lua for the entries of b.
func (s *single) charge(ctx context.Context, b *batch) error {
	reply, err := s.take(ctx, b.frame.command(b.again))
	if err == nil {
		err = b.frame.read(reply)
	}
	if err != nil {
		for i := range b.entries {
			b.entries[i].err = err
		}
	}
	return err
}

// pipeline calls the scripts for the entries of b, if any, and for the commands in list, in
// one round trip. Calls answered with NOSCRIPT are repeated with the script's source.
func (s *single) pipeline(ctx context.Context, b *batch, list commands) error {
	pipe := s.client.Pipeline()
	var take onceString
	if len(b.frame.groups) > 0 {
		words := b.frame.command(b.again)
		words[0], words[1] = evalsha, takeSHA
		take = onceString{redis.NewStringCmd(ctx, words...)}
		_ = pipe.Process(ctx, take) // it is only noted
	}
	calls := list.add(ctx, pipe, false)
	_, failed := pipe.Exec(ctx) // each command has its own error, unless none was sent
	unknown, _ := list.read(calls, failed)
	for len(unknown) > 0 { // each pass completes at least the first call
		pipe := s.client.Pipeline()
		calls := unknown.add(ctx, pipe, true)
		_, err := pipe.Exec(ctx)
		unknown, _ = unknown.read(calls, err)
	}
	if take.StringCmd == nil {
		return nil
	}
	reply, err := take.Result()
	if err == nil && reply == "" {
		err = failed
	}
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		_ = s.charge(ctx, b) // the entries have its error
		return nil
	}
	if err = classify(err); err == nil {
		err = b.frame.read(reply)
	}
	if err != nil {
		for i := range b.entries {
			b.entries[i].err = err
		}
	}
	return nil
}

// take calls the script by its name, and by its source if the server does not know the
// name: NOSCRIPT says that nothing ran.
func (s *single) take(ctx context.Context, words []any) (string, error) {
	words[0], words[1] = evalsha, takeSHA
	cmd := onceString{redis.NewStringCmd(ctx, words...)}
	err := s.client.Process(ctx, cmd)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		words[0], words[1] = eval, takeSource
		cmd = onceString{redis.NewStringCmd(ctx, words...)}
		err = s.client.Process(ctx, cmd)
	}
	return cmd.Val(), classify(err)
}

// The first words of a call, made once: each is an allocation.
var (
	evalsha, eval       any = "evalsha", "eval"
	takeSHA, takeSource any = scripts.Take.SHA, scripts.Take.Source
)

// onceString is a command with a string as its reply, which go-redis sends at most once.
// Its own retries would charge again a call whose reply was lost.
type onceString struct{ *redis.StringCmd }

// NoRetry is what go-redis asks before it sends a command again.
func (onceString) NoRetry() bool { return true }
