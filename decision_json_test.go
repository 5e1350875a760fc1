package tierlimit_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

func TestDecisionJSON(t *testing.T) {
	w := newWorld(t, perDay(tierlimit.Unlimited), perMinute(5))
	w.take(cost(5))
	w.now = noon.Add(1234 * time.Millisecond)
	d := w.take(cost(1))
	got, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"allowed":false,"reason":"exceeded","subject":"acct_42","tier":"free","scope":"","limit":"per_minute","retry_after_ms":58766,` +
		`"multiplier":1,"degraded":false,"source":"memory","windows":[` +
		`{"limit":"per_day","max":null,"effective_max":null,"used":5,"remaining":null,"reset_ms":43198766,"window":"day","from":"tier"},` +
		`{"limit":"per_minute","max":5,"effective_max":5,"used":5,"remaining":0,"reset_ms":58766,"window":"60s","from":"tier"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back tierlimit.Decision
	if err := json.Unmarshal(got, &back); err != nil || string(back.AppendJSON(nil)) != want {
		t.Errorf("back %+v, %v\nwas  %+v", back, err, d)
	}
}

func TestDecisionJSONIsWhatEncodingJSONWouldWrite(t *testing.T) {
	for _, text := range []string{"", "plain", `a"b\c`, "<script>&", "tab\there", "ü😀\u2028", "\x7f", "bad\xffutf8"} {
		d := tierlimit.Decision{
			Reason: tierlimit.Reason(text), Subject: text, Tier: text, Scope: text, Limit: text, Multiplier: 0.55,
			Source: tierlimit.Source(text), Windows: []tierlimit.WindowState{{Limit: text, From: text, Window: tierlimit.Window{Period: tierlimit.Day}}},
		}
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		q := string(quoted)
		want := `{"allowed":false,"reason":` + q + `,"subject":` + q + `,"tier":` + q + `,"scope":` + q + `,"limit":` + q +
			`,"multiplier":0.55,"degraded":false,"source":` + q + `,"windows":[{"limit":` + q +
			`,"max":0,"effective_max":0,"used":0,"remaining":0,"reset_ms":0,"window":"day","from":` + q + `}]}`
		if got := string(d.AppendJSON(nil)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
