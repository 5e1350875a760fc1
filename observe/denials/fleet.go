package denials

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"
)

// A Board keeps texts that the replicas of a fleet publish; redisstore.Store is one. A text is
// published by one replica under a topic, and expires.
type Board interface {
	Publish(ctx context.Context, topic, replica, text string, keep time.Duration) error
	Published(ctx context.Context, topic string) (byReplica map[string]string, err error)
	// Topic returns the name of a topic about one subject.
	Topic(name, subject string) string
}

// Times and amounts of sharing.
const (
	shareEvery = 2 * time.Second
	keepReport = 30 * time.Second // a replica that stopped is not counted after that
	keepLast   = time.Hour        // the last denials of a customer
	atOnce     = 64               // customers whose denials are shared at a time
	topic      = "denials"
)

// A Fleet is the Log of this replica together with what the others publish.
type Fleet struct {
	log     *Log
	board   Board
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Share begins to publish the denials in log. Call Close to end it. A Board that fails is tried
// again; meanwhile each replica knows its own denials.
func Share(log *Log, board Board) *Fleet {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Fleet{log: log, board: board, cancel: cancel}
	f.running.Go(func() {
		tick := time.NewTicker(shareEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			f.publish(ctx)
		}
	})
	return f
}

// Close ends the sharing.
func (f *Fleet) Close() {
	f.cancel()
	f.running.Wait()
}

func (f *Fleet) publish(ctx context.Context) {
	report := f.log.Report()
	if len(report.Items) == 0 {
		return
	}
	if f.put(ctx, topic, report, keepReport) != nil {
		return // the others learn later
	}
	for name, list := range f.log.takeChanged(atOnce) {
		_ = f.put(ctx, f.board.Topic(topic, name), list, keepLast) // the next denial is shared again
	}
}

func (f *Fleet) put(ctx context.Context, topic string, v any, keep time.Duration) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.board.Publish(ctx, topic, f.log.replica, string(text), keep)
}

// Most returns who was denied most in the fleet. If the Board fails it returns the denials of this
// replica and an error.
func (f *Fleet) Most(ctx context.Context) (Report, error) {
	reports := []Report{f.log.Report()}
	err := f.others(ctx, topic, func(text []byte) error {
		var r Report
		err := json.Unmarshal(text, &r)
		reports = append(reports, r)
		return err
	})
	return Merge(reports...), err
}

// Of returns the last denials of a subject in the fleet, the last one first. If the Board fails it
// returns the denials of this replica and an error.
func (f *Fleet) Of(ctx context.Context, subject string) ([]Denial, error) {
	all := f.log.Last(subject)
	err := f.others(ctx, f.board.Topic(topic, subject), func(text []byte) error {
		var list []Denial
		err := json.Unmarshal(text, &list)
		all = append(all, list...)
		return err
	})
	slices.SortStableFunc(all, func(a, b Denial) int { return cmp.Compare(b.At.UnixNano(), a.At.UnixNano()) })
	return all, err
}

// others reads what the other replicas published.
func (f *Fleet) others(ctx context.Context, topic string, read func(text []byte) error) error {
	published, err := f.board.Published(ctx, topic)
	if err != nil {
		return err
	}
	var errs []error
	for replica, text := range published {
		if replica != f.log.replica {
			errs = append(errs, read([]byte(text)))
		}
	}
	return errors.Join(errs...)
}

// Most returns who was denied most in this process: a Log alone is a fleet of one.
func (l *Log) Most(context.Context) (Report, error) { return l.Report(), nil }

// Of returns the last denials of a subject in this process, the last one first.
func (l *Log) Of(_ context.Context, subject string) ([]Denial, error) { return l.Last(subject), nil }
