package tierlimit

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit/internal/jsontext"
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
	ID           string        `json:"id"`
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
	Held         int64  `json:"held"`
	Window       string `json:"window"`
	Concurrent   bool   `json:"concurrent"`
	From         string `json:"from"`
	Shadow       bool   `json:"shadow"`

	Algorithm Algorithm `json:"algorithm"`
}

// MarshalJSON writes d with retry_after_ms, left out when there is nothing to
// wait for.
func (d Decision) MarshalJSON() ([]byte, error) { return d.AppendJSON(nil), nil }

// AppendJSON appends to b what MarshalJSON writes. It is for those who answer
// with many: encoding/json takes several times as long.
func (d *Decision) AppendJSON(b []byte) []byte {
	b = strconv.AppendBool(append(b, `{"allowed":`...), d.Allowed)
	b = jsontext.AppendString(append(b, `,"reason":`...), string(d.Reason))
	b = jsontext.AppendString(append(b, `,"subject":`...), d.Subject)
	b = jsontext.AppendString(append(b, `,"tier":`...), d.Tier)
	b = jsontext.AppendString(append(b, `,"scope":`...), d.Scope)
	b = jsontext.AppendString(append(b, `,"limit":`...), d.Limit)
	if ms := d.RetryAfter.Milliseconds(); ms != 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), ms, 10)
	}
	b = strconv.AppendFloat(append(b, `,"multiplier":`...), d.Multiplier, 'f', -1, 64)
	b = strconv.AppendBool(append(b, `,"degraded":`...), d.Degraded)
	b = jsontext.AppendString(append(b, `,"source":`...), string(d.Source))
	if d.ID != "" {
		b = append(append(append(b, `,"id":"`...), d.ID...), '"')
	}
	b = append(b, `,"windows":[`...)
	for i := range d.Windows {
		if i > 0 {
			b = append(b, ',')
		}
		b = d.Windows[i].appendJSON(b)
	}
	return append(b, "]}"...)
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
		Degraded: j.Degraded, Source: j.Source, ID: j.ID, Windows: j.Windows,
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
func (w WindowState) MarshalJSON() ([]byte, error) { return w.appendJSON(nil), nil }

func (w *WindowState) appendJSON(b []byte) []byte {
	b = jsontext.AppendString(append(b, `{"limit":`...), w.Limit)
	b = appendMax(append(b, `,"max":`...), w.Max)
	b = appendMax(append(b, `,"effective_max":`...), w.EffectiveMax)
	b = strconv.AppendInt(append(b, `,"used":`...), w.Used, 10)
	b = appendMax(append(b, `,"remaining":`...), w.Remaining)
	b = strconv.AppendInt(append(b, `,"reset_ms":`...), w.Reset.Milliseconds(), 10)
	if w.Held != 0 {
		b = strconv.AppendInt(append(b, `,"held":`...), w.Held, 10)
	}
	if w.Algorithm == Concurrent {
		b = append(b, `,"concurrent":true`...)
	} else {
		b = jsontext.AppendString(append(b, `,"window":`...), w.Window.String())
	}
	b = jsontext.AppendString(append(b, `,"from":`...), w.From)
	if w.Shadow {
		b = append(b, `,"shadow":true`...)
	}
	if w.Algorithm == Sliding {
		b = append(b, `,"algorithm":"sliding"`...)
	}
	return append(b, '}')
}

// appendMax writes a count, and null for unlimited.
func appendMax(b []byte, n int64) []byte {
	if n == Unlimited {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, n, 10)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (w *WindowState) UnmarshalJSON(data []byte) error {
	var j windowStateJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	var window Window
	if j.Concurrent {
		j.Algorithm = Concurrent
	} else {
		var err error
		if window, err = ParseWindow(j.Window); err != nil {
			return fmt.Errorf("limit %q: %w", j.Limit, err)
		}
	}
	*w = WindowState{
		Limit: j.Limit, Max: unlimitedNull(j.Max), EffectiveMax: unlimitedNull(j.EffectiveMax),
		Used: j.Used, Remaining: unlimitedNull(j.Remaining), Held: j.Held, Reset: time.Duration(j.ResetMS) * time.Millisecond,
		Window: window, From: j.From, Shadow: j.Shadow, Algorithm: j.Algorithm,
	}
	return nil
}

func emptyNotNull(windows []WindowState) []WindowState {
	if windows == nil {
		return []WindowState{}
	}
	return windows
}

func unlimitedNull(n *int64) int64 {
	if n == nil {
		return Unlimited
	}
	return *n
}
