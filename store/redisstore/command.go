package redisstore

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
)

// A command is a call of a script on the counters and open holds of one subject. It is sent
// in one pipeline with the charges of a batch.
type command struct {
	script  *scripts.Script
	subject string
	args    []any

	withdrawn bool // canceled before it was sent

	// The outcome.
	reply any
	err   error
}

// keys returns the keys of c, all in one slot.
func (c *command) keys() []string {
	key := Key(c.subject)
	return []string{key, holdsKey(c.subject), resetsKey(key)}
}

// call returns the Redis command for c: EVAL with the source, or EVALSHA.
func (c *command) call(ctx context.Context, source bool) once {
	words := make([]any, 0, 6+len(c.args))
	if source {
		words = append(words, eval, c.script.Source)
	} else {
		words = append(words, evalsha, c.script.SHA)
	}
	keys := c.keys()
	words = append(words, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	cmd := once{redis.NewCmd(ctx, append(words, c.args...)...)}
	cmd.SetFirstKeyPos(3)
	return cmd
}

// commands are the commands of one pipeline.
type commands []*command

// leaving returns the commands that have not been withdrawn.
func (list commands) leaving() commands {
	return slices.DeleteFunc(slices.Clone(list), func(c *command) bool { return c.withdrawn })
}

// add appends the calls to a pipeline. If teach is true, the first call of each script
// carries the source.
func (list commands) add(ctx context.Context, pipe redis.Pipeliner, teach bool) []once {
	calls := make([]once, len(list))
	for i, c := range list {
		first := !slices.ContainsFunc(list[:i], func(other *command) bool { return other.script == c.script })
		calls[i] = c.call(ctx, teach && first)
		_ = pipe.Process(ctx, calls[i]) // queues the call; no error is possible
	}
	return calls
}

// read stores the replies in the commands. failed is the pipeline's error, used for commands
// without a reply or an error of their own. read returns the commands whose reply was
// NOSCRIPT, for which nothing ran, and whether another server has a command's slot.
func (list commands) read(calls []once, failed error) (unknown commands, moved bool) {
	for i, c := range list {
		reply, err := calls[i].Result()
		if err == nil && reply == nil {
			err = failed
		}
		switch {
		case err == nil || err == redis.Nil: //nolint:errorlint // itself
			c.reply, c.err = reply, nil
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, c)
		case isElsewhere(err):
			c.err, moved = errMoved, true
		default:
			c.err = classify(err)
		}
	}
	return unknown, moved
}
