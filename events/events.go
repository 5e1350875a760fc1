package events

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Config is what a Service is made of.
type Config struct {
	Outbox   tiers.Outbox // required
	Delivery *Delivery    // nil: this process writes messages, and others send them
	Logger   *slog.Logger // default slog.Default
}

// Delivery says how messages are sent.
type Delivery struct {
	// Allow are addresses other than public ones that webhooks may have. They may also be reached
	// without TLS.
	Allow []netip.Prefix
	// Retry is the wait after the first failed attempt, 1ms to 1h; each later wait is four times as
	// long as the one before, and at most 12h. Default 5s.
	Retry time.Duration
}

// Bounds of Delivery.Retry.
const (
	DefaultRetry = 5 * time.Second
	minRetry     = time.Millisecond
	maxRetry     = time.Hour
)

// UsageFunc returns where a subject stands, as Limiter.Usage does.
type UsageFunc func(ctx context.Context, subject string) (tierlimit.Usage, error)

// A Service writes messages and sends them. It is safe for concurrent use.
type Service struct {
	cfg   Config
	stats counters

	health health

	crossings chan tierlimit.Crossing
	sender    *sender // nil: others send
	cancel    context.CancelFunc
	running   sync.WaitGroup
}

// Stats are counts since the start of the process, and the backlog of the fleet.
type Stats struct {
	Delivered int64 // messages that this process sent and that were received
	Failed    int64 // attempts of this process that failed
	Refused   int64 // crossings that could not be taken at once; the next decision brings them again
	Pending   int64 // messages that are not received yet, a few seconds ago
	Dead      int64 // messages that are not sent any more
}

type counters struct{ delivered, failed, refused, pending, dead atomic.Int64 }

// maxCrossings is how many crossings wait to be written.
const maxCrossings = 4096

// New returns a Service that takes crossings. Start makes it write and send. An error is a
// *tierlimit.FieldError.
func New(cfg Config) (*Service, error) {
	if cfg.Outbox == nil {
		return nil, &tierlimit.FieldError{Field: "Outbox", Value: "nil", Want: "an outbox, such as a pgtiers.Catalogue"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{cfg: cfg, health: health{log: cfg.Logger, failing: make(map[string]bool)}, crossings: make(chan tierlimit.Crossing, maxCrossings), cancel: func() {}}
	if d := cfg.Delivery; d != nil {
		retry := d.Retry
		if retry == 0 {
			retry = DefaultRetry
		}
		if retry < minRetry || retry > maxRetry {
			return nil, &tierlimit.FieldError{Field: "Delivery.Retry", Value: retry.String(), Want: "a duration from 1ms to 1h"}
		}
		s.sender = newSender(cfg.Outbox, d.Allow, retry, &s.stats, &s.health)
	}
	return s, nil
}

// Crossed takes a crossing without waiting; it fits tierlimit.Config.Crossed.
func (s *Service) Crossed(c tierlimit.Crossing) bool {
	select {
	case s.crossings <- c:
		return true
	default:
		s.stats.refused.Add(1)
		return false
	}
}

// Start begins to write and to send messages. usage tells whether a window is below its thresholds
// after a change. Close ends it.
func (s *Service) Start(usage UsageFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() { s.writeCrossings(ctx) })
	s.running.Go(func() { s.endAlerts(ctx, usage) })
	if s.sender != nil {
		s.running.Go(func() { s.sender.run(ctx) })
	}
}

// Close writes the crossings that were taken and ends the Service. Close cancels
// attempts that do not end within two seconds; another process sends their messages again, with the
// same ids.
func (s *Service) Close() {
	s.cancel()
	s.running.Wait()
}

// Stats returns what the Service counted.
func (s *Service) Stats() Stats {
	return Stats{
		Delivered: s.stats.delivered.Load(), Failed: s.stats.failed.Load(), Refused: s.stats.refused.Load(),
		Pending: s.stats.pending.Load(), Dead: s.stats.dead.Load(),
	}
}

// sleep waits for d, and returns false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
