package httplimit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/felixge/httpsnoop"

	"github.com/tierlimit/tierlimit"
)

// DefaultHold is the default of Config.Hold. The middleware renews a hold while the handler
// runs, so the duration matters only if the process is killed.
const DefaultHold = time.Minute

// A SettleFunc returns the actual cost of a request after its handler has returned. status
// and h are the status and headers of the response; status is 500 if the handler panicked
// before it wrote a response, and 101 if it hijacked the connection. cost and costs are the
// arguments of [tierlimit.Limiter.Settle]: tierlimit.Keep keeps the charge, 0 without costs
// gives back all charges. An invalid cost keeps the charge and is logged.
type SettleFunc func(r *http.Request, status int, h http.Header) (cost int64, costs map[string]int64)

// GiveBackOn5xx is a SettleFunc that gives back the charge if the status is 5xx.
func GiveBackOn5xx(_ *http.Request, status int, _ http.Header) (int64, map[string]int64) {
	if status >= http.StatusInternalServerError {
		return 0, nil
	}
	return tierlimit.Keep, nil
}

func checkHold(d time.Duration) error {
	if d < tierlimit.MinHold || d > tierlimit.MaxHold || d%time.Millisecond != 0 {
		return &tierlimit.FieldError{Field: "Hold", Value: d.String(), Want: "whole milliseconds from 1s to 1h, or 0 for a minute"}
	}
	return nil
}

// serveHeld serves a request that has a hold, and settles the hold.
func (g *Gate) serveHeld(w http.ResponseWriter, r *http.Request, next http.Handler, id string, hold time.Duration) {
	// Settle even if the client has gone away.
	ctx := context.WithoutCancel(r.Context())
	stop := g.keepOpen(ctx, id, hold)
	defer stop()
	if g.cfg.Settle == nil {
		defer g.settle(ctx, id, tierlimit.Keep, nil) // frees its place in concurrent limits
		next.ServeHTTP(w, r)
		return
	}
	status, header, returned := 0, w.Header(), false
	defer func() {
		switch {
		case status == 0 && returned:
			status = http.StatusOK
		case status == 0:
			status = http.StatusInternalServerError
		}
		cost, costs := tierlimit.Keep, map[string]int64(nil)
		defer func() { g.settle(ctx, id, cost, costs) }() // also if Settle panics
		cost, costs = g.cfg.Settle(r, status, header)
	}()
	next.ServeHTTP(onResponse(w, func(code int) { status = code }), r)
	returned = true
}

// onResponse returns w, which calls begun with the status when the response begins: before its
// header is written, or its connection hijacked. Informational responses are no beginning.
func onResponse(w http.ResponseWriter, begun func(status int)) http.ResponseWriter {
	has := false
	sent := func(code int) {
		if !has && (code >= http.StatusOK || code == http.StatusSwitchingProtocols) {
			has = true
			begun(code)
		}
	}
	return httpsnoop.Wrap(w, httpsnoop.Hooks{
		WriteHeader: func(write httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
			return func(code int) {
				sent(code)
				write(code)
			}
		},
		Write: func(write httpsnoop.WriteFunc) httpsnoop.WriteFunc {
			return func(b []byte) (int, error) {
				sent(http.StatusOK)
				return write(b)
			}
		},
		ReadFrom: func(read httpsnoop.ReadFromFunc) httpsnoop.ReadFromFunc {
			return func(src io.Reader) (int64, error) {
				sent(http.StatusOK)
				return read(src)
			}
		},
		Flush: func(flush httpsnoop.FlushFunc) httpsnoop.FlushFunc {
			return func() {
				sent(http.StatusOK)
				flush()
			}
		},
		Hijack: func(hijack httpsnoop.HijackFunc) httpsnoop.HijackFunc {
			return func() (net.Conn, *bufio.ReadWriter, error) {
				sent(http.StatusSwitchingProtocols)
				return hijack()
			}
		},
	})
}

// settleTries is the number of attempts to settle. A retry is safe.
const settleTries = 2

func (g *Gate) settle(ctx context.Context, id string, cost int64, costs map[string]int64) {
	var err error
	for range settleTries {
		if _, err = g.lim.Settle(ctx, id, cost, costs); err == nil {
			return
		}
		var field *tierlimit.FieldError
		if errors.As(err, &field) { // an invalid cost: keep the estimate
			_, _ = g.lim.Settle(ctx, id, tierlimit.Keep, nil)
			break
		}
	}
	g.unsettled.Add(1, func(total int64) {
		g.cfg.Logger.Warn("httplimit: what requests really cost cannot be charged", "requests", total, "error", err)
	})
}

// keepOpen renews a hold until stop is called.
func (g *Gate) keepOpen(ctx context.Context, id string, hold time.Duration) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(hold/2, func() {
		found, err := g.lim.Renew(ctx, id, hold)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case stopped || err == nil && !found: // the hold is closed
		case err != nil:
			timer.Reset(hold / 8) // while there is time
		default:
			timer.Reset(hold / 2)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// CostHeader returns a SettleFunc that reads the actual cost, a whole number, from a header of
// the response. Without the header the charge is kept, or given back if the status is 5xx.
func CostHeader(name string) SettleFunc {
	return func(r *http.Request, status int, h http.Header) (int64, map[string]int64) {
		if cost, err := strconv.ParseInt(h.Get(name), 10, 64); err == nil && cost >= 0 && cost <= tierlimit.MaxCount {
			return cost, nil
		}
		return GiveBackOn5xx(r, status, h)
	}
}
