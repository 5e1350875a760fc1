package tiers

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tierlimit/tierlimit"
)

// An Outbox keeps messages until the webhooks that want them have received them. A message about a
// change is written together with the change. Implementations are safe for concurrent use, also by
// several processes.
type Outbox interface {
	// Alert writes LimitThreshold for each crossing that was not written before.
	Alert(ctx context.Context, list []tierlimit.Crossing) error
	// EndAlerts writes LimitRecovered for windows that had reached a threshold and ended some seconds
	// ago, unless the next window of the limit has reached one too. It returns how many windows those
	// were: 0 if there are no more.
	EndAlerts(ctx context.Context) (int, error)
	// AlertsToCheck returns at most n windows that had reached a threshold, and that must be looked
	// at: their subject or tier has changed, or nobody has looked for an hour. They come again after a
	// minute unless they are checked.
	AlertsToCheck(ctx context.Context, n int) ([]Alert, error)
	// AlertChecked notes that a window is still above a threshold.
	AlertChecked(ctx context.Context, a Alert) error
	// RecoverAlert writes LimitRecovered for a window that is below all its thresholds again.
	RecoverAlert(ctx context.Context, a Alert) error

	// Claim returns deliveries that are due and, for the duration lease, no longer due for anybody
	// else. For each webhook they and those in busy are together at most most.
	Claim(ctx context.Context, lease time.Duration, most int, busy map[string]int) ([]Delivery, error)
	// Finish writes the outcome of a delivery that was claimed.
	Finish(ctx context.Context, d Delivery, o DeliveryOutcome) error
	// Prune deletes messages from before an instant, whether they were received or not, and alerts
	// of windows that have ended. It returns whether there may be more.
	Prune(ctx context.Context, before time.Time) (more bool, err error)
	// Backlog returns how many deliveries are pending and how many are dead.
	Backlog(ctx context.Context) (pending, dead int, err error)

	Webhooks(ctx context.Context) ([]Webhook, error) // ascending by id
	Webhook(ctx context.Context, id string) (Webhook, error)
	// Deliveries returns the deliveries that f chooses, the newest message first.
	Deliveries(ctx context.Context, f DeliveryFilter) ([]DeliveryState, error)
	// Resend makes deliveries of a webhook pending again and returns how many: that of one message,
	// or all dead ones if message is "". It returns ErrNotFound for a message that the webhook does
	// not have.
	Resend(ctx context.Context, webhook, message string) (int, error)
	// SendTest writes a WebhookTest message for one webhook and returns the message's id.
	SendTest(ctx context.Context, webhook string) (string, error)
}

// An Alert is a window that has reached at least one threshold.
type Alert struct {
	Subject   string
	Tier      string
	Limit     string
	Threshold int // the lowest that was reached
	EndsAt    time.Time
	Used, Max *int64 // for RecoverAlert: as they are now; nil: no such limit, or no max
}

// A Message is what is sent.
type Message struct {
	ID   string          `json:"id"`
	Type string          `json:"type"`
	At   time.Time       `json:"timestamp"` // of the event
	Data json.RawMessage `json:"data"`
}

// A Delivery is a Message on its way to a Webhook.
type Delivery struct {
	Webhook Webhook
	Message Message
	Attempt int // from 1
}

// A DeliveryOutcome is the outcome of one attempt.
type DeliveryOutcome struct {
	State  State
	After  time.Duration // until the next attempt, of State Pending
	Status int           // of HTTP; 0 if there was no response
	Error  string        // "" if the message was received
}

// A State is that of a delivery.
type State string

// The states.
const (
	Pending   State = "pending"   // to be sent, for the first time or again
	Delivered State = "delivered" // received
	Dead      State = "dead"      // not sent again unless asked for
)

// Valid reports whether s is one of the states.
func (s State) Valid() bool { return s == Pending || s == Delivered || s == Dead }

// A DeliveryState is the state of a delivery, as administrators see it.
type DeliveryState struct {
	Message
	Subject   string     `json:"subject,omitempty"`
	State     State      `json:"state"`
	Attempts  int        `json:"attempts"`
	DueAt     *time.Time `json:"due_at,omitempty"`     // of a pending one
	TriedAt   *time.Time `json:"tried_at,omitempty"`   // the last time; nil: not yet
	Status    int        `json:"status,omitempty"`     // of the last response
	LastError string     `json:"last_error,omitempty"` // of the last attempt
}

// A DeliveryFilter chooses deliveries.
type DeliveryFilter struct {
	Webhook string
	State   State  // "" for all
	Before  string // only messages with a smaller id; "": all
	Most    int
}

// ThresholdData is Message.Data of LimitThreshold.
type ThresholdData struct {
	Subject   string    `json:"subject"`
	Tier      string    `json:"tier"`
	Limit     string    `json:"limit"`
	Threshold int       `json:"threshold"` // percent of max
	Used      int64     `json:"used"`
	Max       int64     `json:"max"`
	EndsAt    time.Time `json:"ends_at"` // of the window
}

// RecoveredData is Message.Data of LimitRecovered.
type RecoveredData struct {
	Subject string    `json:"subject"`
	Tier    string    `json:"tier"` // when the threshold was reached
	Limit   string    `json:"limit"`
	EndsAt  time.Time `json:"ends_at"`
	Reason  string    `json:"reason"` // ended or changed
	Used    *int64    `json:"used,omitempty"`
	Max     *int64    `json:"max,omitempty"`
}

// Reasons of LimitRecovered.
const (
	RecoveredEnded   = "ended"   // the window has ended
	RecoveredChanged = "changed" // an administrator's change or reset
)

// ChangedData is Message.Data of SubjectChanged, as the audit log has the change.
type ChangedData struct {
	Subject string          `json:"subject"`
	Action  string          `json:"action"` // such as subject.replace, override.create and usage.reset
	Detail  string          `json:"detail,omitempty"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}
