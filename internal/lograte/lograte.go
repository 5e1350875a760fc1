// Package lograte logs what happens all the time at most once a minute.
package lograte

import (
	"sync"
	"time"
)

const every = time.Minute

// A Line is a log line that is written at most once a minute, with how many events came
// since it was written last. The zero Line is ready for use. A Line is safe for
// concurrent use.
type Line struct {
	mu    sync.Mutex
	said  time.Time // guarded by mu
	since int64     // guarded by mu: events that came and have not been said
}

// Add counts n events. If the line has not been written for a minute, Add calls say with
// the number of events since then, n included.
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
