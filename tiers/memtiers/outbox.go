package memtiers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/timestamp"
	"github.com/tierlimit/tierlimit/tiers"
)

// An outbox holds alerts and messages. It is not kept in the file. The Catalogue's mu guards it.
type outbox struct {
	alerts     map[window]*alert
	deliveries []*delivery // by message, the oldest first
	messages   int         // so far
	began      time.Time   // with it, ids differ from those of another process
}

// A window is that of a subject's limit.
type window struct {
	subject, limit string
	ends           int64
}

type alert struct {
	tier       string
	thresholds []int
	recovered  bool
	check      time.Time // when it is checked next
}

type delivery struct {
	webhook string
	state   tiers.DeliveryState
	due     time.Time
}

// errFull is returned until windows with an alert have ended.
var errFull = errors.New("too many windows have reached a threshold; memory holds 10000")

// maxMessages is how many deliveries a Catalogue keeps, and how many windows with an alert.
const maxMessages = 10_000

// Alert implements tiers.Outbox.
func (m *Catalogue) Alert(_ context.Context, list []tierlimit.Crossing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range list {
		c := &list[i]
		at := window{c.Subject, c.Limit, c.EndsAt.UnixMilli()}
		a := m.outbox.alerts[at]
		if a == nil {
			if len(m.outbox.alerts) >= maxMessages {
				maps.DeleteFunc(m.outbox.alerts, func(_ window, a *alert) bool { return a.recovered })
			}
			if len(m.outbox.alerts) >= maxMessages {
				return errFull
			}
			a = &alert{tier: c.Tier, check: time.Now().Add(checkEvery)}
			m.outbox.alerts[at] = a
		}
		if slices.Contains(a.thresholds, c.Threshold) {
			continue
		}
		a.thresholds, a.recovered = append(a.thresholds, c.Threshold), false
		m.tell(tiers.LimitThreshold, c.Subject, c.At, tiers.ThresholdData{
			Subject: c.Subject, Tier: c.Tier, Limit: c.Limit, Threshold: c.Threshold, Used: c.Used, Max: c.Max, EndsAt: c.EndsAt,
		})
	}
	return nil
}

// EndAlerts implements tiers.Outbox.
func (m *Catalogue) EndAlerts(context.Context) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, a := range m.outbox.alerts {
		if a.recovered || at.ends > time.Now().UnixMilli() {
			continue
		}
		n++
		if m.isCrossedLater(at) {
			a.recovered = true
		} else {
			m.recover(at, a, tiers.RecoveredData{Reason: tiers.RecoveredEnded})
		}
	}
	return n, nil
}

// isCrossedLater reports whether a later window of the limit has an open alert. mu must be held.
func (m *Catalogue) isCrossedLater(than window) bool {
	for at, a := range m.outbox.alerts {
		if at.subject == than.subject && at.limit == than.limit && at.ends > than.ends && !a.recovered {
			return true
		}
	}
	return false
}

// recover writes that a window is below its thresholds. mu must be held.
func (m *Catalogue) recover(at window, a *alert, data tiers.RecoveredData) {
	a.recovered, a.check = true, time.Time{}
	data.Subject, data.Limit, data.Tier, data.EndsAt = at.subject, at.limit, a.tier, time.UnixMilli(at.ends).UTC()
	m.tell(tiers.LimitRecovered, at.subject, time.Now(), data)
}

// AlertsToCheck implements tiers.Outbox.
func (m *Catalogue) AlertsToCheck(_ context.Context, n int) (list []tiers.Alert, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, a := range m.outbox.alerts {
		if !a.recovered && len(list) < n && !a.check.After(time.Now()) {
			a.check = time.Now().Add(time.Minute)
			list = append(list, tiers.Alert{Subject: at.subject, Limit: at.limit, EndsAt: time.UnixMilli(at.ends).UTC(), Tier: a.tier, Threshold: slices.Min(a.thresholds)})
		}
	}
	return list, nil
}

// AlertChecked implements tiers.Outbox.
func (m *Catalogue) AlertChecked(_ context.Context, one tiers.Alert) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.outbox.alerts[window{one.Subject, one.Limit, one.EndsAt.UnixMilli()}]; a != nil {
		a.check = time.Now().Add(checkEvery)
	}
	return nil
}

// checkEvery is the interval at which an alert is checked if nothing has changed.
const checkEvery = time.Hour

// RecoverAlert implements tiers.Outbox.
func (m *Catalogue) RecoverAlert(_ context.Context, one tiers.Alert) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := window{one.Subject, one.Limit, one.EndsAt.UnixMilli()}
	if a := m.outbox.alerts[at]; a != nil && !a.recovered {
		m.recover(at, a, tiers.RecoveredData{Reason: tiers.RecoveredChanged, Used: one.Used, Max: one.Max})
	}
	return nil
}

// tell writes a message for the webhooks that want its type. mu must be held.
func (m *Catalogue) tell(kind, subject string, at time.Time, data any) {
	for _, id := range slices.Sorted(maps.Keys(m.webhooks)) {
		if slices.Contains(m.webhooks[id].Events, kind) {
			m.outbox.messages++
			break
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.webhooks)) {
		if slices.Contains(m.webhooks[id].Events, kind) {
			m.deliver(id, kind, subject, at, data)
		}
	}
}

// deliver writes a delivery of the message that was counted last. mu must be held.
func (m *Catalogue) deliver(webhook, kind, subject string, at time.Time, data any) (message string) {
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // it is a struct of this project
	}
	now := time.Now()
	message = fmt.Sprintf("msg_%012x%08x", m.outbox.began.UnixMilli(), m.outbox.messages)
	d := &delivery{webhook: webhook, due: now, state: tiers.DeliveryState{
		Message: tiers.Message{ID: message, Type: kind, At: timestamp.Round(at), Data: text},
		Subject: subject, State: tiers.Pending,
	}}
	m.outbox.deliveries = append(m.outbox.deliveries, d)
	m.outbox.deliveries = m.outbox.deliveries[max(0, len(m.outbox.deliveries)-maxMessages):]
	return message
}

// tellChanges writes what the events of a change say. mu must be held.
func (m *Catalogue) tellChanges(events []tiers.Event) {
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case tiers.KindSubject, tiers.KindOverride, tiers.KindUsage:
			m.tell(tiers.SubjectChanged, e.Object, time.Now(), tiers.ChangedData{Subject: e.Object, Action: e.Action, Detail: e.Detail, Before: e.Before, After: e.After})
		case tiers.KindTier:
		default:
			continue
		}
		for at, a := range m.outbox.alerts {
			if at.subject == e.Object || e.Kind == tiers.KindTier && a.tier == e.Object {
				a.check = time.Now()
			}
		}
	}
}

// forget deletes the messages about a subject and its alerts. mu must be held.
func (m *Catalogue) forget(subject string) {
	m.outbox.deliveries = slices.DeleteFunc(m.outbox.deliveries, func(d *delivery) bool { return d.state.Subject == subject })
	maps.DeleteFunc(m.outbox.alerts, func(at window, a *alert) bool {
		return at.subject == subject && (a.recovered || m.subjects[subject] == nil) // else the window's thresholds would be told again
	})
}

// Claim implements tiers.Outbox.
func (m *Catalogue) Claim(_ context.Context, lease time.Duration, most int, busy map[string]int) (list []tiers.Delivery, err error) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := maps.Clone(busy)
	if taken == nil {
		taken = make(map[string]int)
	}
	due := slices.Clone(m.outbox.deliveries)
	slices.SortStableFunc(due, func(a, b *delivery) int { return a.due.Compare(b.due) })
	for _, d := range due {
		w := m.webhooks[d.webhook]
		if w == nil || w.Paused || d.state.State != tiers.Pending || d.due.After(now) || taken[d.webhook] >= most {
			continue
		}
		taken[d.webhook]++
		d.state.Attempts++
		d.due = now.Add(lease)
		d.state.TriedAt = &now
		list = append(list, tiers.Delivery{Webhook: *w, Message: d.state.Message, Attempt: d.state.Attempts})
	}
	slices.SortStableFunc(list, func(a, b tiers.Delivery) int { return cmp.Compare(a.Message.ID, b.Message.ID) })
	return list, nil
}

// Finish implements tiers.Outbox.
func (m *Catalogue) Finish(_ context.Context, of tiers.Delivery, o tiers.DeliveryOutcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.outbox.deliveries {
		if d.webhook == of.Webhook.ID && d.state.ID == of.Message.ID && d.state.State == tiers.Pending && (d.state.Attempts == of.Attempt || o.State == tiers.Delivered) {
			d.state.State, d.state.Status, d.state.LastError, d.due = o.State, o.Status, o.Error, time.Now().Add(o.After)
		}
	}
	return nil
}

// Prune implements tiers.Outbox.
func (m *Catalogue) Prune(_ context.Context, before time.Time) (more bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outbox.deliveries = slices.DeleteFunc(m.outbox.deliveries, func(d *delivery) bool { return d.state.At.Before(before) })
	maps.DeleteFunc(m.outbox.alerts, func(at window, a *alert) bool { return a.recovered && at.ends < time.Now().UnixMilli() })
	return false, nil
}

// Backlog implements tiers.Outbox.
func (m *Catalogue) Backlog(context.Context) (pending, dead int, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, d := range m.outbox.deliveries {
		switch d.state.State {
		case tiers.Pending:
			pending++
		case tiers.Dead:
			dead++
		case tiers.Delivered:
		}
	}
	return pending, dead, nil
}

// Webhooks implements tiers.Outbox.
func (m *Catalogue) Webhooks(context.Context) ([]tiers.Webhook, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return view{m}.Webhooks(), nil
}

// Webhook implements tiers.Outbox.
func (m *Catalogue) Webhook(_ context.Context, id string) (tiers.Webhook, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	w := m.webhooks[id]
	if w == nil {
		return tiers.Webhook{}, tiers.WebhookError(id, tiers.ErrNotFound)
	}
	return *w, nil
}

// Deliveries implements tiers.Outbox.
func (m *Catalogue) Deliveries(ctx context.Context, f tiers.DeliveryFilter) ([]tiers.DeliveryState, error) {
	if _, err := m.Webhook(ctx, f.Webhook); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []tiers.DeliveryState
	for i := len(m.outbox.deliveries) - 1; i >= 0 && len(list) < f.Most; i-- {
		d := m.outbox.deliveries[i]
		if d.webhook != f.Webhook || f.State != "" && f.State != d.state.State || f.Before != "" && d.state.ID >= f.Before {
			continue
		}
		shown := d.state
		if shown.State == tiers.Pending {
			due := timestamp.Round(d.due)
			shown.DueAt = &due
		}
		list = append(list, shown)
	}
	return list, nil
}

// Resend implements tiers.Outbox.
func (m *Catalogue) Resend(ctx context.Context, webhook, message string) (n int, err error) {
	if _, err := m.Webhook(ctx, webhook); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.outbox.deliveries {
		if d.webhook == webhook && (message == "" && d.state.State == tiers.Dead || d.state.ID == message) {
			n++
			d.state.State, d.state.Attempts, d.due = tiers.Pending, 0, time.Now()
		}
	}
	if n == 0 && message != "" {
		err = fmt.Errorf("message %.80q of webhook %.80q %w", message, webhook, tiers.ErrNotFound)
	}
	return n, err
}

// SendTest implements tiers.Outbox.
func (m *Catalogue) SendTest(ctx context.Context, webhook string) (string, error) {
	if _, err := m.Webhook(ctx, webhook); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outbox.messages++
	return m.deliver(webhook, tiers.WebhookTest, "", time.Now(), map[string]string{"webhook": webhook}), nil
}
