package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A watchedStore tells the operator when a store is lost, found again, or
// refuses: a line for each change of state, and for a fault that lasts one a
// minute. It changes nothing.
type watchedStore struct {
	tierlimit.Store
	log   *slog.Logger
	state atomic.Int32
	told  atomic.Int64 // Unix seconds of the last line about a fault
}

const (
	storeAnswers int32 = iota
	storeLost
	storeRefuses
)

const faultEvery = 60 // seconds

func (w *watchedStore) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	o, err := w.Store.Take(ctx, c)
	if !errors.Is(err, context.Canceled) { // the caller has gone: says nothing of the store
		w.saw(err)
	}
	return o, err
}

func (w *watchedStore) saw(err error) {
	switch {
	case err == nil:
		if w.state.Load() != storeAnswers && w.state.Swap(storeAnswers) != storeAnswers {
			w.log.Info("redis answers again")
		}
	case errors.Is(err, tierlimit.ErrStoreUnavailable):
		if w.state.Swap(storeLost) != storeLost {
			w.log.Warn("redis cannot be reached; each tier's on_store_error decides", "error", err)
		}
	default:
		now, told := time.Now().Unix(), w.told.Load()
		if w.state.Swap(storeRefuses) != storeRefuses || now-told >= faultEvery && w.told.CompareAndSwap(told, now) {
			w.told.Store(now)
			w.log.Error("redis refuses; requests it concerns are denied, whatever on_store_error says", "error", err)
		}
	}
}
