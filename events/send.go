package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tierlimit/tierlimit/tiers"
)

const (
	perWebhook   = 4                // messages of one webhook that this process sends at a time
	claimFor     = 30 * time.Second // longer than an attempt takes: then another process may repeat it
	lookEvery    = time.Second
	backlogEvery = 10 * time.Second
	maxAttempts  = 9 // with DefaultRetry a message is dead after about 20 hours
	maxWait      = 12 * time.Hour
	maxErrorText = 300
	lastAttempt  = 2 * time.Second
)

// A sender sends what is due.
type sender struct {
	outbox        tiers.Outbox
	plain, secure *http.Client
	retry         time.Duration
	stats         *counters
	health        *health

	mu     sync.Mutex
	busy   map[string]int // guarded by mu: attempts under way, by webhook
	failed map[string]int // guarded by mu: attempts that failed since the last one that did not, by webhook
	wake   chan struct{}  // an attempt has finished
}

func newSender(outbox tiers.Outbox, allow []netip.Prefix, retry time.Duration, stats *counters, h *health) *sender {
	return &sender{
		outbox: outbox, plain: newClient(allow, false), secure: newClient(allow, true), retry: retry, stats: stats, health: h,
		busy: make(map[string]int), failed: make(map[string]int), wake: make(chan struct{}, 1),
	}
}

// run sends what is due until ctx ends. Attempts under way have lastAttempt to end then.
func (s *sender) run(ctx context.Context) {
	var attempts sync.WaitGroup
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		defer time.AfterFunc(lastAttempt, stop).Stop()
		attempts.Wait()
		stop()
		s.plain.CloseIdleConnections()
		s.secure.CloseIdleConnections()
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var counted time.Time
	for {
		if now := time.Now(); now.Sub(counted) >= backlogEvery {
			counted = now
			s.count(ctx)
		}
		for _, d := range s.claim(ctx) {
			attempts.Go(func() {
				s.attempt(sending, d)
				s.add(d.Webhook.ID, -1)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// claim returns what is due as far as there are places for it, and takes the places.
func (s *sender) claim(ctx context.Context) []tiers.Delivery {
	s.mu.Lock()
	busy := maps.Clone(s.busy)
	s.mu.Unlock()
	list, err := s.outbox.Claim(ctx, claimFor, perWebhook, busy)
	s.health.note(ctx, "messages cannot be sent", err)
	for i := range list {
		s.add(list[i].Webhook.ID, 1)
	}
	return list
}

// add adds n to the attempts under way of a webhook.
func (s *sender) add(webhook string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[webhook] += n; s.busy[webhook] == 0 {
		delete(s.busy, webhook)
	}
	if n < 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *sender) count(ctx context.Context) {
	pending, dead, err := s.outbox.Backlog(ctx)
	if err == nil {
		s.stats.pending.Store(int64(pending))
		s.stats.dead.Store(int64(dead))
	}
}

// attempt sends d once and writes the outcome.
func (s *sender) attempt(ctx context.Context, d tiers.Delivery) {
	status, after, err := s.post(ctx, &d)
	o := tiers.DeliveryOutcome{State: tiers.Delivered, Status: status}
	s.note(&d.Webhook, err)
	if err == nil {
		s.stats.delivered.Add(1)
	} else {
		s.stats.failed.Add(1)
		o.State, o.After, o.Error = tiers.Pending, max(s.wait(d.Attempt), after), errorText(err)
		if d.Attempt >= maxAttempts || status == http.StatusGone {
			o.State = tiers.Dead
		}
	}
	if ctx.Err() != nil {
		return // the process ends, and the attempt says nothing about the receiver
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	s.health.note(ctx, "the outcome of attempts cannot be written, and messages are sent again", s.outbox.Finish(ctx, d, o))
}

// failures is how many attempts fail in a row before a webhook is said not to receive.
const failures = 5

// note logs when a webhook begins to fail and when it receives again.
func (s *sender) note(w *tiers.Webhook, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if s.failed[w.ID] >= failures {
			s.health.log.Info("events: a webhook receives again", "webhook", w.ID, "name", w.Name)
		}
		delete(s.failed, w.ID)
		return
	}
	if s.failed[w.ID]++; s.failed[w.ID] == failures {
		s.health.log.Warn("events: a webhook does not receive", "webhook", w.ID, "name", w.Name, "attempts", failures, "error", errorText(err))
	}
}

// wait returns how long to wait after the failed attempt n: four times as long after each, and a
// fifth more or less, so that messages that failed together are not sent together.
func (s *sender) wait(n int) time.Duration {
	wait := s.retry
	for range n - 1 {
		wait = min(4*wait, maxWait)
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // not a secret
}

// statusError is the error of a response that does not confirm the message.
type statusError int

func (e statusError) Error() string {
	if e >= 300 && e < 400 {
		return "status " + strconv.Itoa(int(e)) + ": redirects are not followed"
	}
	return strings.TrimSpace("status " + strconv.Itoa(int(e)) + " " + http.StatusText(int(e)))
}

// post sends d and returns the status of the response, and how long the receiver wants to be left
// alone.
func (s *sender) post(ctx context.Context, d *tiers.Delivery) (status int, after time.Duration, err error) {
	body, err := json.Marshal(d.Message)
	if err != nil {
		return 0, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Webhook.URL, bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tierlimit")
	sign(req.Header, d.Message.ID, now, body, d.Webhook.Secrets.InForce(now))
	client := s.plain
	if req.URL.Scheme == "https" {
		client = s.secure
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	_ = resp.Body.Close() // the status says it all, and a body may never end
	if resp.StatusCode/100 == 2 {
		return resp.StatusCode, 0, nil
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		after = min(max(time.Duration(seconds)*time.Second, 0), time.Hour)
	}
	return resp.StatusCode, after, statusError(resp.StatusCode)
}

// errorText returns err without the URL, which may contain a secret.
func errorText(err error) string {
	var in *url.Error
	if errors.As(err, &in) {
		err = in.Err
	}
	text := strings.Map(func(r rune) rune { // a certificate may have any text in it
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, err.Error())
	for len(text) > maxErrorText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}
