package tierlimit

import (
	"encoding/json"
	"fmt"
	"time"
)

// The JSON of a decision: durations in milliseconds, null for unlimited.

type decisionJSON struct {
	Allowed      bool          `json:"allowed"`
	Reason       Reason        `json:"reason"`
	Subject      string        `json:"subject"`
	Tier         string        `json:"tier"`
	Scope        string        `json:"scope"`
	Limit        string        `json:"limit"`
	RetryAfterMS int64         `json:"retry_after_ms,omitempty"`
	Multiplier   float64       `json:"multiplier"`
	Degraded     bool          `json:"degraded"`
	Source       Source        `json:"source"`
	Windows      []WindowState `json:"windows"`
}

type usageJSON struct {
	Subject    string        `json:"subject"`
	Tier       string        `json:"tier"`
	Multiplier float64       `json:"multiplier"`
	Degraded   bool          `json:"degraded"`
	Source     Source        `json:"source"`
	Windows    []WindowState `json:"windows"`
}

type windowStateJSON struct {
	Limit        string `json:"limit"`
	Max          *int64 `json:"max"`
	EffectiveMax *int64 `json:"effective_max"`
	Used         int64  `json:"used"`
	Remaining    *int64 `json:"remaining"`
	ResetMS      int64  `json:"reset_ms"`
	Window       string `json:"window"`
	From         string `json:"from"`
}

// MarshalJSON writes d with retry_after_ms, left out when there is nothing to
// wait for.
func (d Decision) MarshalJSON() ([]byte, error) {
	return json.Marshal(decisionJSON{
		Allowed: d.Allowed, Reason: d.Reason, Subject: d.Subject, Tier: d.Tier, Scope: d.Scope,
		Limit: d.Limit, RetryAfterMS: d.RetryAfter.Milliseconds(), Multiplier: d.Multiplier,
		Degraded: d.Degraded, Source: d.Source, Windows: emptyNotNull(d.Windows),
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Decision) UnmarshalJSON(data []byte) error {
	var j decisionJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*d = Decision{
		Allowed: j.Allowed, Reason: j.Reason, Subject: j.Subject, Tier: j.Tier, Scope: j.Scope,
		Limit: j.Limit, RetryAfter: time.Duration(j.RetryAfterMS) * time.Millisecond, Multiplier: j.Multiplier,
		Degraded: j.Degraded, Source: j.Source, Windows: j.Windows,
	}
	return nil
}

// MarshalJSON writes u as a decision without a verdict.
func (u Usage) MarshalJSON() ([]byte, error) {
	u.Windows = emptyNotNull(u.Windows)
	return json.Marshal(usageJSON(u))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (u *Usage) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, (*usageJSON)(u))
}

// MarshalJSON writes w with reset_ms, and null for unlimited.
func (w WindowState) MarshalJSON() ([]byte, error) {
	return json.Marshal(windowStateJSON{
		Limit: w.Limit, Max: nullUnlimited(w.Max), EffectiveMax: nullUnlimited(w.EffectiveMax),
		Used: w.Used, Remaining: nullUnlimited(w.Remaining), ResetMS: w.Reset.Milliseconds(),
		Window: w.Window.String(), From: w.From,
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (w *WindowState) UnmarshalJSON(data []byte) error {
	var j windowStateJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	window, err := ParseWindow(j.Window)
	if err != nil {
		return fmt.Errorf("limit %q: %w", j.Limit, err)
	}
	*w = WindowState{
		Limit: j.Limit, Max: unlimitedNull(j.Max), EffectiveMax: unlimitedNull(j.EffectiveMax),
		Used: j.Used, Remaining: unlimitedNull(j.Remaining), Reset: time.Duration(j.ResetMS) * time.Millisecond,
		Window: window, From: j.From,
	}
	return nil
}

func emptyNotNull(windows []WindowState) []WindowState {
	if windows == nil {
		return []WindowState{}
	}
	return windows
}

func nullUnlimited(n int64) *int64 {
	if n == Unlimited {
		return nil
	}
	return &n
}

func unlimitedNull(n *int64) int64 {
	if n == nil {
		return Unlimited
	}
	return *n
}
