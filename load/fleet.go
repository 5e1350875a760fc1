package load

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

// A Board keeps texts that the replicas of a fleet share. Each has a name and expires. Its clock
// is one for all replicas, such as Redis TIME; it need not be right.
type Board interface {
	// Publish keeps text under name, in place of what was there.
	Publish(ctx context.Context, name, text string, keep time.Duration) error
	// Replace is Publish if the text under name is previous; "" means that there is none. It
	// reports whether it was, in one atomic step.
	Replace(ctx context.Context, name, previous, text string, keep time.Duration) (bool, error)
	// Notices returns the texts that have not expired, by name.
	Notices(ctx context.Context) (map[string]Notice, error)
}

// A Notice is a text on a Board.
type Notice struct {
	Text string
	Left time.Duration // until the text expires
}

const (
	// lookEvery is the longest time between two looks at the Board.
	lookEvery = 250 * time.Millisecond
	// leadTime is the time between writing a step and the instant at which all replicas apply it.
	// All of them look at the Board in between.
	leadTime = 500 * time.Millisecond
	// holdFor is how long a replica that cannot use the Board keeps the last state.
	holdFor = 5 * time.Second
	// spread keeps the replicas from asking at the same instant for a step that is due.
	spread = 40 * time.Millisecond

	keepAgreed   = 10 * time.Second
	keepReadings = forgetAfter

	agreedName = "agreed"
)

// A fleet is the part of one replica in what all agree on. It is used by one goroutine.
//
// The state of the law (see state) is one text on the Board. The first replica that finds the last
// step older than stepEvery makes the next one from the readings on the Board, and replaces the
// text if it is still the one it read. So each step is made once, by anybody: there is no leader
// whose death has to be noticed, and no two leaders. A replica that is slow or was stopped loses
// the comparison, and takes the step of another. Age is counted by the Board's clock alone.
//
// A step takes effect leadTime after it was written. Until then the Board holds the step together
// with the multipliers in force, so all replicas change at the same instant, apart from half a round
// trip.
//
// Rejected: a leader with a lease (no steps for the length of the lease when it dies, and two
// values when it is only slow), and multipliers that each replica computes from shared readings
// (the steps before count too, and replicas do not have the same).
type fleet struct {
	board Board
	name  string // of this replica's readings
	now   func() time.Time

	agreed state
	text   string           // of agreed on the Board; "" if this replica made the state alone
	trip   time.Duration    // round trip of the call that told the age of text
	made   time.Time        // when agreed was made
	seenAt time.Time        // of the last look that did all it had to
	others map[string]entry // of the Board; also what has gone from it since
}

// A sharedEntry is an entry on the Board.
type sharedEntry struct {
	Reading
	Kind      string `json:"kind"`
	Protected bool   `json:"protected,omitempty"`
	AgeMS     int64  `json:"age_ms"` // when it was published
}

// publish shows the readings of this replica to all.
func (f *fleet) publish(ctx context.Context, entries map[string]entry) error {
	now := f.now()
	list := make([]sharedEntry, 0, len(entries))
	for _, e := range entries {
		list = append(list, sharedEntry{e.Reading, e.kind, e.protected, now.Sub(e.at).Milliseconds()})
	}
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("publish readings: %w", err)
	}
	return f.board.Publish(ctx, f.name, string(text), keepReadings)
}

// look reads the Board, and makes the next step if it is due. On an error what was agreed stays.
//
// The step is made from all readings that this replica knows. They may have gone from the Board,
// and other replicas need not know the same.
func (f *fleet) look(ctx context.Context, own map[string]entry, list []tiers.Tier) error {
	sent := f.now()
	notices, err := f.board.Notices(ctx)
	if err != nil {
		return err
	}
	answered := f.now()
	f.learn(notices, sent.Add(answered.Sub(sent)/2))

	there := notices[agreedName]
	last, age := f.agreed, stepEvery
	var shared state
	if json.Unmarshal([]byte(there.Text), &shared) == nil && shared.valid() {
		last = shared
		if there.Left <= keepAgreed { // else the Board's clock went back, and the age is not known
			age = keepAgreed - there.Left
		}
		f.adopt(shared, there.Text, age, sent, answered)
	}
	if age < stepEvery {
		f.seenAt = answered
		return nil
	}
	cpu, known := mean(youngest(own, f.others), answered)
	next := last.next(cpu, known, list)
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("agree on load: %w", err)
	}
	sent = f.now()
	won, err := f.board.Replace(ctx, agreedName, there.Text, string(text), keepAgreed)
	if err != nil {
		return err
	}
	f.seenAt = f.now()
	if won {
		f.adopt(next, string(text), 0, sent, f.seenAt)
	}
	return nil
}

// adopt takes a state of the Board, whose age was told by a call from sent to answered. Of one
// text the quickest call knows best when it was written, until it is in force: then it stays so.
func (f *fleet) adopt(s state, text string, age time.Duration, sent, answered time.Time) {
	trip := answered.Sub(sent)
	if text == f.text && (trip >= f.trip || !f.now().Before(f.inForceAt())) {
		return
	}
	f.agreed, f.text, f.trip = s, text, trip
	f.made = sent.Add(trip / 2).Add(-age)
}

// alone makes a step from the readings that this replica knows, if it is due and no look has
// succeeded for holdFor. The step acts at once.
func (f *fleet) alone(own map[string]entry, list []tiers.Tier) {
	now := f.now()
	if f.board != nil && now.Sub(f.seenAt) < holdFor || now.Sub(f.made) < stepEvery {
		return
	}
	cpu, known := mean(youngest(own, f.others), now)
	f.agreed, f.text, f.made = f.agreed.next(cpu, known, list), "", now
}

// learn adds the readings of all replicas that the notices tell of to others, and removes those
// that are too old.
func (f *fleet) learn(notices map[string]Notice, now time.Time) {
	if f.others == nil {
		f.others = make(map[string]entry)
	}
	maps.DeleteFunc(f.others, func(_ string, e entry) bool { return now.Sub(e.at) > forgetAfter })
	for name, notice := range notices {
		var list []sharedEntry
		if name == agreedName || notice.Left > keepReadings || json.Unmarshal([]byte(notice.Text), &list) != nil {
			continue
		}
		for _, s := range list[:min(len(list), maxSources+1)] {
			measured := time.Duration(min(max(s.AgeMS, 0), forgetAfter.Milliseconds())) * time.Millisecond
			age := keepReadings - notice.Left + measured
			e := entry{Reading: s.Reading, kind: s.Kind, protected: s.Protected, at: now.Add(-age)}
			if e.valid() && age <= forgetAfter {
				keepYoungest(f.others, e)
			}
		}
	}
}

// inForceAt returns the instant at which agreed acts; until then the multipliers before it do.
func (f *fleet) inForceAt() time.Time {
	if f.text == "" {
		return f.made
	}
	return f.made.Add(leadTime)
}

// wait returns the time until the Board should be looked at again, after a look that began at began.
func (f *fleet) wait(began time.Time, failed bool) time.Duration {
	now := f.now()
	next, due := max(began.Add(lookEvery).Sub(now), 0), max(f.made.Add(stepEvery).Sub(now), 0)
	switch {
	case failed || due >= next:
		return next
	case f.text == "":
		return due
	default:
		return due + rand.N(spread) //nolint:gosec // nobody gains by guessing it
	}
}
