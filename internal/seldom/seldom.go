// Package seldom tells of what happens all the time no more than once a minute.
package seldom

import (
	"sync"
	"time"
)

const every = time.Minute

// A Line is one that a log may have once a minute, with how much came together since
// the last. The zero Line is ready for use, from many goroutines.
type Line struct {
	mu    sync.Mutex
	said  time.Time // guarded by mu
	since int64     // guarded by mu: what came and has not been said
}

// Add says that n more came, if it is time to; it calls say with what came since the
// last time, n included.
func (l *Line) Add(n int, say func(total int64)) {
	l.mu.Lock()
	l.since += int64(n)
	total, now := l.since, time.Now()
	quiet := !l.said.IsZero() && now.Sub(l.said) < every
	if !quiet {
		l.said, l.since = now, 0
	}
	l.mu.Unlock()
	if !quiet {
		say(total)
	}
}
