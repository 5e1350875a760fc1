package redisstore

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
)

// A command is a script on the counters and the open holds of one subject. It travels with
// the charges of a batch, as a call of its own.
type command struct {
	script  *scripts.Script
	subject string
	args    []any

	withdrawn bool // before it left

	// What came of it.
	reply any
	err   error
}

// keys returns the keys of c, all in one slot.
func (c *command) keys() []string {
	key := Key(c.subject)
	return []string{key, holdsKey(c.subject), resetsKey(key)}
}

// call returns the Redis command for c, with the script's source or with its name.
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

// commands are what one pipeline carries.
type commands []*command

// leaving returns those that nobody has withdrawn.
func (list commands) leaving() commands {
	return slices.DeleteFunc(slices.Clone(list), func(c *command) bool { return c.withdrawn })
}

// add notes the calls in a pipeline. With teach the first call of each script carries its
// source.
func (list commands) add(ctx context.Context, pipe redis.Pipeliner, teach bool) []once {
	calls := make([]once, len(list))
	for i, c := range list {
		first := !slices.ContainsFunc(list[:i], func(other *command) bool { return other.script == c.script })
		calls[i] = c.call(ctx, teach && first)
		_ = pipe.Process(ctx, calls[i]) // it is only noted
	}
	return calls
}

// read takes the replies. failed is the error of the whole pipeline, for commands that have
// neither a reply nor an error. It returns the commands that were answered NOSCRIPT: nothing
// ran for them; and whether the slot of any is elsewhere.
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
