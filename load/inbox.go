package load

import (
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// An inbox holds the last reading of each source that this replica measured or was told of. It is
// safe for concurrent use.
type inbox struct {
	sources Sources

	mu      sync.Mutex // guards what follows
	entries map[string]entry
	news    bool // since takeNews
}

func newInbox(sources Sources) *inbox {
	return &inbox{sources: sources, entries: make(map[string]entry)}
}

// report puts a report of a protected service in.
func (b *inbox) report(r Reading, now time.Time) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Source == ownWord {
		return &tierlimit.FieldError{Field: "source", Value: r.Source, Want: "another name: own means the CPU of a replica"}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	if _, there := b.entries[r.Source]; !there && len(b.entries) >= maxSources {
		return &tierlimit.FieldError{Field: "source", Value: r.Source, Want: "one of at most " + strconv.Itoa(maxSources) + " names within 10 seconds"}
	}
	b.entries[r.Source] = entry{Reading: r, kind: KindReport, protected: b.sources.include(r.Source), at: now}
	b.news = true
	return nil
}

// measured puts this replica's own reading in.
func (b *inbox) measured(own entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[own.Source] = own
	b.news = true
}

// all returns the readings that are not forgotten.
func (b *inbox) all(now time.Time) map[string]entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	return maps.Clone(b.entries)
}

// takeNews reports whether there are new readings since the last takeNews.
func (b *inbox) takeNews() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	news := b.news
	b.news = false
	return news
}

// forget must be called with mu held.
func (b *inbox) forget(now time.Time) {
	maps.DeleteFunc(b.entries, func(_ string, e entry) bool { return now.Sub(e.at) > forgetAfter })
}
