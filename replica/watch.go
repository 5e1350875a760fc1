package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/lograte"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// A watchedStore tells the operator when a store is lost, refuses, and answers
// again. Where some calls fail and others do not, it tells so once a minute, and
// of the end when nothing has failed for a while. It changes nothing.
type watchedStore struct {
	tierlimit.Store
	log *slog.Logger

	failing atomic.Bool
	began   atomic.Int64 // epoch milliseconds of the first failure, while failing
	failed  atomic.Int64 // epoch milliseconds of the last failure
	told    atomic.Int64 // epoch milliseconds of the last line about one
	missed  atomic.Int64 // charges and looks since began that failed
	late    lograte.Line // charges whose replies were read too late
}

const (
	tellEvery = time.Minute
	calm      = 2 * time.Second

	probeEvery = time.Second
)

func (w *watchedStore) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	o, err := w.Store.Take(ctx, c)
	switch {
	case errors.Is(err, redisstore.ErrLate):
		w.late.Add(1, func(total int64) {
			w.log.Warn("this process is overloaded: replies of redis were read too late", "charges", total)
		})
	case err == nil || ctx.Err() == nil: // else the caller is gone: that says nothing of the store
		w.saw(err)
	}
	return o, err
}

// probe pings the store once a second while the store is failing, and logs its return even if there
// are no requests. stop ends the probing.
func (w *watchedStore) probe(ctx context.Context, ping func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if w.failing.Load() && w.answers(ctx, ping) {
				w.sawAnswer()
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

func (w *watchedStore) answers(ctx context.Context, ping func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	return ping(ctx) == nil
}

func (w *watchedStore) saw(err error) {
	if err == nil {
		w.sawAnswer()
		return
	}
	now := time.Now().UnixMilli()
	w.failed.Store(now)
	w.missed.Add(1)
	if w.failing.CompareAndSwap(false, true) {
		w.began.Store(now)
	}
	if told := w.told.Load(); now-told < tellEvery.Milliseconds() || !w.told.CompareAndSwap(told, now) {
		return
	}
	if errors.Is(err, tierlimit.ErrStoreUnavailable) {
		w.log.Warn("redis cannot be reached; each tier's on_store_error decides", "error", err)
	} else {
		w.log.Error("redis refuses; requests it concerns are denied, whatever on_store_error says", "error", err)
	}
}

func (w *watchedStore) sawAnswer() {
	if !w.failing.Load() || time.Now().UnixMilli()-w.failed.Load() < calm.Milliseconds() {
		return
	}
	if w.failing.CompareAndSwap(true, false) {
		w.told.Store(0)
		away := time.Duration(w.failed.Load()-w.began.Load()) * time.Millisecond
		w.log.Info("redis answers again", "away", away.String(), "failed", w.missed.Swap(0))
	}
}
