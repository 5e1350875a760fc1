package replica

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
)

// One subject whose key is broken among many that are well must not fill a log.
func TestAStoreThatFailsNowAndThenIsToldOfSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := &watchedStore{log: slog.New(slog.NewTextHandler(&log, nil))}
		w.saw(nil)
		if log.Len() != 0 {
			t.Fatalf("told of nothing: %s", &log)
		}
		for range 1000 { // a hundred seconds
			w.saw(nil)
			w.saw(errors.New("WRONGTYPE"))
			time.Sleep(100 * time.Millisecond)
		}
		if n := strings.Count(log.String(), "redis refuses"); n != 2 || strings.Contains(log.String(), "again") {
			t.Errorf("%d lines in a hundred seconds: %s", n, &log)
		}
		log.Reset()
		time.Sleep(3 * time.Second)
		w.saw(nil)
		w.saw(nil)
		if strings.Count(log.String(), "redis answers again\" away=1m39.9s failed=1000") != 1 {
			t.Errorf("the end: %s", &log)
		}
		log.Reset()
		w.saw(tierlimit.ErrStoreUnavailable)
		if !strings.Contains(log.String(), "cannot be reached") {
			t.Errorf("the next loss: %s", &log)
		}
	})
}

// The log once said that Redis was back with the next request, which could be hours later.
func TestRedisIsToldToBeBackWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := &watchedStore{log: slog.New(slog.NewTextHandler(&log, nil))}
		var away atomic.Bool
		away.Store(true)
		var asked atomic.Int64
		stop := w.probe(t.Context(), func(context.Context) error {
			asked.Add(1)
			if away.Load() {
				return errors.New("refused")
			}
			return nil
		})
		time.Sleep(time.Minute)
		if asked.Load() != 0 {
			t.Errorf("a store that works was asked %d times", asked.Load())
		}
		w.saw(tierlimit.ErrStoreUnavailable)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if strings.Contains(log.String(), "again") {
			t.Errorf("told to be back while it is away: %s", &log)
		}
		away.Store(false)
		time.Sleep(5 * time.Second)
		stop()
		if strings.Count(log.String(), "redis answers again") != 1 {
			t.Errorf("not told to be back: %s", &log)
		}
	})
}
