package denials

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

func denied(l *Log, subject string, times int, change ...func(*tierlimit.Observation)) {
	for i := range times {
		o := &tierlimit.Observation{
			Began: l.now().Add(time.Duration(i) * time.Millisecond), Subject: subject, Reason: tierlimit.Exceeded, Limit: "per_minute", Cost: 1,
			Source: tierlimit.SourceRedis, Weight: 1, Windows: []tierlimit.WindowState{{Limit: "per_minute", Used: int64(5 + i), EffectiveMax: 5}},
		}
		for _, f := range change {
			f(o)
		}
		l.Denied("free", o)
	}
}

func TestWhoIsDeniedMostStandsFirst(t *testing.T) {
	l := NewLog("a")
	denied(l, "acct_1", 3)
	denied(l, "acct_2", 7)
	denied(l, "acct_3", 2, func(o *tierlimit.Observation) { o.Weight = 16 })
	r := l.Report().Top("", 2)
	if len(r.Items) != 2 || r.Items[0].Subject != "acct_3" || r.Items[0].Denied != 32 || r.Items[1].Subject != "acct_2" || r.Items[1].Denied != 7 || r.Replicas != 1 {
		t.Errorf("%+v", r)
	}
	if got := r.Items[1].Last; got.Used != 11 || got.Max != 5 || got.Limit != "per_minute" || got.Replica != "a" || got.Reason != tierlimit.Exceeded {
		t.Errorf("the last denial: %+v", got)
	}
	if r := l.Report().Top("pro", 10); len(r.Items) != 0 {
		t.Errorf("of another tier: %+v", r)
	}
}

func TestOnlyTheLastDenialsAreKept(t *testing.T) {
	l := NewLog("a")
	denied(l, "acct_1", 20)
	got := l.Last("acct_1")
	if len(got) != last || got[0].Used != 24 || got[last-1].Used != 20 {
		t.Errorf("%+v", got)
	}
	if got := l.Last("acct_2"); got != nil {
		t.Errorf("of another: %+v", got)
	}
}

// Anybody can make names up; the heavy one among them must be seen all the same.
func TestMadeUpSubjectsNeitherGrowTheLogNorHideTheHeaviest(t *testing.T) {
	l := NewLog("a")
	for i := range 20_000 {
		denied(l, fmt.Sprint("ip:", i), 1)
		if i%10 == 0 {
			denied(l, "acct_heavy", 1)
		}
	}
	if len(l.recent) > subjects || l.order.Len() > subjects || len(l.current.by) > tallied {
		t.Errorf("%d subjects, %d tallies", len(l.recent), len(l.current.by))
	}
	for range 300 { // who arrives late is overestimated, never underestimated
		denied(l, "acct_late", 1)
	}
	for _, item := range l.Report().Items {
		if item.Subject == "acct_late" && (item.Denied < 300 || item.Denied-item.Error != 300) {
			t.Errorf("%+v", item)
		}
	}
	top := l.Report().Items[0]
	if top.Subject != "acct_heavy" || top.Denied < 2000 || top.Denied-top.Error > 2000 {
		t.Errorf("%+v", top)
	}
}

func TestOldDenialsAreForgotten(t *testing.T) {
	l := NewLog("a")
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	l.now = func() time.Time { return now }
	l.current, l.older = newSketch(now), newSketch(now)
	denied(l, "acct_1", 3)
	for _, step := range []struct {
		later time.Duration
		want  int64
	}{{20 * time.Minute, 3}, {15 * time.Minute, 3}, {31 * time.Minute, 0}} {
		now = now.Add(step.later)
		denied(l, "acct_2", 1)
		var got int64
		for _, item := range l.Report().Items {
			if item.Subject == "acct_1" {
				got = item.Denied
			}
		}
		if got != step.want {
			t.Errorf("at %v: %d denials, want %d", now, got, step.want)
		}
	}
}

// A board in memory.
type board struct {
	mu    sync.Mutex
	texts map[string]map[string]string
	err   error
}

func (b *board) Publish(_ context.Context, topic, replica, text string, _ time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if b.texts[topic] == nil {
		b.texts[topic] = make(map[string]string)
	}
	b.texts[topic][replica] = text
	return nil
}

func (b *board) Published(_ context.Context, topic string) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.texts[topic], b.err
}

func (*board) Topic(name, subject string) string { return name + " " + subject }

func TestReplicasShareTheirDenials(t *testing.T) {
	b := &board{texts: make(map[string]map[string]string)}
	one, two := &Fleet{log: NewLog("one"), board: b}, &Fleet{log: NewLog("two"), board: b}
	denied(one.log, "acct_1", 3)
	denied(two.log, "acct_1", 4)
	denied(two.log, "ip:203.0.113.7", 1, func(o *tierlimit.Observation) { o.Unknown = true })
	one.publish(t.Context())
	two.publish(t.Context())
	for _, f := range []*Fleet{one, two} {
		r, err := f.Most(t.Context())
		if err != nil || r.Replicas != 2 || len(r.Items) != 2 || r.Items[0].Subject != "acct_1" || r.Items[0].Denied != 7 {
			t.Errorf("%+v, %v", r, err)
		}
		list, err := f.Of(t.Context(), "acct_1")
		if err != nil || len(list) != 7 {
			t.Errorf("%+v, %v", list, err)
		}
	}
	for topic := range b.texts {
		if strings.Contains(topic, "ip:") {
			t.Errorf("a stranger has a topic of its own: %s", topic)
		}
	}
	b.err = errors.New("away")
	denied(one.log, "acct_2", 1)
	one.publish(t.Context())
	if r, err := one.Most(t.Context()); err == nil || r.Replicas != 1 || len(r.Items) != 2 {
		t.Errorf("without the board: %+v, %v", r, err)
	}
	b.err = nil
	one.publish(t.Context())
	if list, err := two.Of(t.Context(), "acct_2"); err != nil || len(list) != 1 {
		t.Errorf("what could not be shared is shared later: %+v, %v", list, err)
	}
}
