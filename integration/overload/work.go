package main

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// spun keeps spin from being optimized away.
var spun atomic.Uint64

// spin uses the processor for some rounds.
func spin(rounds uint64) {
	x := uint64(88172645463325252)
	for range rounds {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	spun.Store(x)
}

// roundsPerMillisecond measures how many rounds of spin take a millisecond of processor time on the
// processor of the service.
func roundsPerMillisecond() (n uint64, err error) {
	const rounds = 200_000_000
	err = pinned(serviceCPU, func() error {
		began := cpuTime(unix.RUSAGE_THREAD)
		spin(rounds)
		n = rounds * uint64(time.Millisecond) / uint64(cpuTime(unix.RUSAGE_THREAD)-began)
		return nil
	})
	return n, err
}
