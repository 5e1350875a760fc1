package integration

import (
	"errors"
	"flag"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// onTime makes the tests check promises about time, such as "within a second". Only an
// idle machine can keep those promises. `make test` runs without the flag and checks only
// counts, so a busy machine makes it slower and never makes it fail.
var onTime = flag.Bool("on-time", false, "hold promises about time; for a machine that does nothing else")

// busyMachine is how long a busy machine may take for what takes a moment otherwise.
const busyMachine = 2 * time.Minute

// patience returns how long a test waits for what is promised within a time.
func patience(promised time.Duration) time.Duration {
	if *onTime {
		return promised
	}
	return max(promised, busyMachine)
}

// isNoAnswer reports whether err says that no answer to a charge is known: Redis did not
// give one, or this process had too little CPU to read it in time.
func isNoAnswer(err error) bool {
	return errors.Is(err, tierlimit.ErrStoreUnavailable) || errors.Is(err, redisstore.ErrLate)
}
