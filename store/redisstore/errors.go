package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// passing are the error replies of a server that cannot serve now and may soon. Any other
// error reply (WRONGTYPE, NOPERM, NOAUTH, a script's own) is a fault in the set-up or an
// attack: opening up on it would hand out quota.
var passing = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS",
	"OOM", "BUSY", "MISCONF", "max number of clients",
}

// classify wraps tierlimit.ErrStoreUnavailable around the errors that the failure policy
// may answer for: no connection, no reply in time, a server that is not ready.
func classify(err error) error {
	switch {
	case err == nil, err == redis.Nil: //nolint:errorlint // itself: one that has it inside is another matter
		return nil
	case errors.Is(err, redis.Nil):
		return fmt.Errorf("the Sentinels do not know a master of this name: %w", err)
	}
	var reply redis.Error
	if errors.As(err, &reply) && !isPassing(reply) {
		return err
	}
	return fmt.Errorf("%w: %w", tierlimit.ErrStoreUnavailable, err)
}

// isReply reports whether err is a server's answer.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// isTimeout reports whether err is of a deadline that passed.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// isBusy reports whether a server answered that the slot of one subject is on its way to
// another server, which says nothing about either of them.
func isBusy(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && redis.HasErrorPrefix(reply, "TRYAGAIN")
}

func isPassing(err error) bool {
	text := strings.TrimPrefix(fromScript.ReplaceAllString(err.Error(), ""), "ERR ")
	return slices.ContainsFunc(passing, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// fromScript is what Redis 6 puts before an error that a script passed on:
// "@user_script: 41: -OOM command not allowed ...".
var fromScript = regexp.MustCompile(`^(ERR )?@user_script: ?\d+: ?-?`)
