package tierlimit_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

func tokens(most int64) tierlimit.Limit {
	return tierlimit.Limit{Name: "tokens", Max: most, Window: tierlimit.Window{Length: time.Minute}, From: tierlimit.FromTier}
}

func atOnce(most int64) tierlimit.Limit {
	return tierlimit.Limit{Name: "at_once", Max: most, Algorithm: tierlimit.Concurrent, From: tierlimit.FromTier}
}

func held(cost int64) tierlimit.Request {
	return tierlimit.Request{Cost: cost, Hold: time.Minute}
}

func (w *world) settle(id string, cost int64, costs map[string]int64) tierlimit.Settlement {
	w.Helper()
	s, err := w.lim.Settle(w.Context(), id, cost, costs)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func TestAHoldIsSettledOnce(t *testing.T) {
	w := newWorld(t, perDay(1000), perMinute(5))
	w.take(cost(1))
	d := w.take(held(4))
	if d.ID == "" || d.Windows[1].Held != 4 || w.take(cost(1)).Allowed {
		t.Fatalf("%+v", d)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var read tierlimit.Decision
	if err := json.Unmarshal(text, &read); err != nil || read.ID != d.ID || read.Windows[1].Held != 4 {
		t.Fatalf("%s is read as %+v, %v", text, read, err)
	}
	if s := w.settle(read.ID, 2, nil); !s.Found || len(s.Limits) != 2 || s.Limits[1].Used != 3 {
		t.Errorf("%+v", s)
	}
	if s := w.settle(d.ID, 0, nil); s.Found {
		t.Errorf("settled twice: %+v", s)
	}
	if d := w.take(cost(2)); !d.Allowed || d.Windows[0].Used != 5 || d.Windows[1].Used != 5 {
		t.Errorf("after it: %+v", d)
	}
}

// Regression test: with 900 of 1,000 used, a later charge of 500 for work already done was
// denied each time, so that the work was free.
func TestWhatARequestReallyCostIsChargedAlthoughItPassesTheMax(t *testing.T) {
	w := newWorld(t, tokens(1000))
	w.take(cost(900))
	w.settle(w.take(held(50)).ID, 500, nil)
	if d := w.take(cost(1)); d.Allowed || d.Windows[0].Used != 1400 || d.Reason != tierlimit.Exceeded {
		t.Errorf("%+v", d)
	}
}

func TestALimitTakesItsOwnCost(t *testing.T) {
	w := newWorld(t, perMinute(5), tokens(1000))
	req := held(1)
	req.Costs = map[string]int64{"tokens": 600, "of_another_plan": 7}
	d := w.take(req)
	if !d.Allowed || d.Windows[0].Used != 1 || d.Windows[1].Used != 600 {
		t.Fatalf("%+v", d)
	}
	if over := w.take(req); over.Allowed || over.Limit != "tokens" || over.Windows[0].Used != 1 {
		t.Errorf("%+v", over)
	}
	w.settle(d.ID, tierlimit.Keep, map[string]int64{"tokens": 731})
	if d := w.take(tierlimit.Request{Costs: map[string]int64{"tokens": 0}}); d.Windows[0].Used != 2 || d.Windows[1].Used != 731 {
		t.Errorf("%+v", d)
	}
	full := w.take(tierlimit.Request{Costs: map[string]int64{"tokens": 1001}})
	if full.Reason != tierlimit.CostTooLarge || full.Limit != "tokens" {
		t.Errorf("an estimate above the limit: %+v", full)
	}
}

// A limit whose max is passed does not deny a request that costs it nothing.
func TestACostOfNothingIsNotDenied(t *testing.T) {
	w := newWorld(t, perMinute(5), tokens(10))
	w.settle(w.take(held(1)).ID, 1, map[string]int64{"tokens": 50})
	if d := w.take(tierlimit.Request{Costs: map[string]int64{"tokens": 0}}); !d.Allowed || d.Reason != tierlimit.OK {
		t.Errorf("%+v", d)
	}
}

func TestAConcurrentLimitHoldsHeldRequests(t *testing.T) {
	w := newWorld(t, atOnce(2), perMinute(100))
	first := w.take(held(5))
	w.take(held(5))
	d := w.take(held(5))
	if d.Allowed || d.Reason != tierlimit.Exceeded || d.Limit != "at_once" || d.RetryAfter != time.Second || d.Windows[1].Used != 10 {
		t.Fatalf("%+v", d)
	}
	if d.Windows[0].Used != 2 || d.Windows[0].Remaining != 0 || d.Windows[0].Reset != time.Minute {
		t.Errorf("%+v", d.Windows[0])
	}
	text := string(d.AppendJSON(nil))
	if !strings.Contains(text, `"limit":"at_once","max":2,"effective_max":2,"used":2,"remaining":0,"reset_ms":60000,"concurrent":true,"from":"tier"`) {
		t.Errorf("%s", text)
	}
	var read tierlimit.Decision
	if err := json.Unmarshal([]byte(text), &read); err != nil || !slices.Equal(read.Windows, d.Windows) {
		t.Errorf("read back as %+v, %v", read, err)
	}
	if d := w.take(cost(1)); !d.Allowed {
		t.Errorf("a request without a hold: %+v", d)
	}
	w.settle(first.ID, 5, nil)
	if d := w.take(held(1)); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if policy := d.RateLimitPolicy(); policy != `"at_once";q=2, "per_minute";q=100;w=60` {
		t.Errorf("policy %s", policy)
	}
}

func TestWhatHoldsNothingHasNoID(t *testing.T) {
	w := newWorld(t, perMinute(5))
	for name, d := range map[string]tierlimit.Decision{
		"without a hold": w.take(cost(1)), "denied": w.take(held(5)),
	} {
		if d.ID != "" {
			t.Errorf("%s: %q", name, d.ID)
		}
	}
	d, err := w.lim.Peek(t.Context(), tierlimit.Request{Subject: "acct_42", Hold: time.Minute})
	if err != nil || d.ID != "" || !d.Allowed {
		t.Errorf("a peek: %+v, %v", d, err)
	}
	for _, policy := range []tierlimit.Policy{tierlimit.Open, tierlimit.Closed} {
		w.without(policy, tierlimit.ErrStoreUnavailable)
		d, err := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Hold: time.Minute})
		if err == nil || d.ID != "" || !d.Degraded {
			t.Errorf("%s: %+v, %v", policy, d, err)
		}
	}
}

// Under local a hold belongs to this process. It is counted and settled here, even after the
// store is back.
func TestAHoldOfAnOutageIsLocal(t *testing.T) {
	w := newWorld(t, atOnce(4), perMinute(20))
	w.without(tierlimit.Local, tierlimit.ErrStoreUnavailable)
	take := func(want bool) tierlimit.Decision {
		t.Helper()
		d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 3, Hold: time.Minute})
		if d.Allowed != want || !d.Degraded || d.ID == "" == want {
			t.Fatalf("%+v", d)
		}
		return d
	}
	first := take(true)
	take(true)
	take(false) // this process has two of the four places
	w.fail = nil
	if s := w.settle(first.ID, 1, nil); !s.Found {
		t.Errorf("%+v", s)
	}
	w.fail = tierlimit.ErrStoreUnavailable
	if d := take(true); d.Windows[1].Used != 7 {
		t.Errorf("%+v", d)
	}
}

func TestAShadowLimitThatARequestDoesNotTouchSaysNothing(t *testing.T) {
	shadow, places := tokens(10), atOnce(1)
	shadow.Shadow, places.Shadow = true, true
	w := newWorld(t, places, perMinute(100), shadow)
	req := held(1)
	req.Costs = map[string]int64{"tokens": 50}
	if d := w.take(req); d.Reason != tierlimit.Shadowed {
		t.Errorf("%+v", d)
	}
	if d := w.take(tierlimit.Request{Costs: map[string]int64{"tokens": 0}}); d.Reason != tierlimit.OK || !d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := w.take(held(1)); d.Reason != tierlimit.Shadowed || !d.Allowed {
		t.Errorf("a second at a time: %+v", d)
	}
}

// Redis comes back, with its own window, while a hold of the outage is open. The hold is
// settled in this process' window, whose end has moved to the end of Redis' window.
func TestAHoldOfAnOutageIsSettledOnceTheStoreIsBack(t *testing.T) {
	w := newWorld(t, perMinute(20))
	w.replicas = 1
	w.without(tierlimit.Local, tierlimit.ErrStoreUnavailable)
	d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 12, Hold: time.Minute})
	w.fail = nil
	w.now = w.now.Add(5 * time.Millisecond)
	w.take(cost(1))
	if s := w.settle(d.ID, 0, nil); !s.Found || s.Limits[0].Ended {
		t.Errorf("%+v", s)
	}
	w.fail = tierlimit.ErrStoreUnavailable
	if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 10}); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// Places that the store reported as taken are not granted again in an outage.
func TestAPlaceThatWasSeenTakenIsNotGivenAgain(t *testing.T) {
	w := newWorld(t, atOnce(3))
	w.replicas = 1
	w.take(held(1))
	w.take(held(1))
	w.without(tierlimit.Local, tierlimit.ErrStoreUnavailable)
	for i, want := range []bool{true, false} {
		d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Hold: time.Minute})
		if d.Allowed != want || d.Windows[0].Used != 3 {
			t.Errorf("%d: %+v", i, d)
		}
	}
	w.now = w.now.Add(time.Minute) // the reported holds have expired
	if d, _ := w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Hold: time.Minute}); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// RetryAfter of a denial takes into account that an expiring hold gives usage back.
func TestADenialSaysWhenAHoldGivesBack(t *testing.T) {
	l := perDay(100)
	l.OnExpiry = tierlimit.ReleaseOnExpiry
	w := newWorld(t, l)
	req := held(100)
	req.Hold = 2 * time.Second
	w.take(req)
	if d := w.take(cost(1)); d.Allowed || d.RetryAfter != 2*time.Second {
		t.Errorf("%+v", d)
	}
	w.now = w.now.Add(2 * time.Second)
	if d := w.take(cost(1)); !d.Allowed || d.Windows[0].Used != 1 {
		t.Errorf("%+v", d)
	}
}

func TestTooManyHolds(t *testing.T) {
	w := newWorld(t, perMinute(10_000))
	for range tierlimit.DefaultMaxHolds {
		w.take(held(1))
	}
	d := w.take(held(1))
	if d.Allowed || d.Reason != tierlimit.TooManyHolds || d.RetryAfter != time.Second || d.Limit != "" {
		t.Errorf("%+v", d)
	}
	if d := w.take(cost(1)); !d.Allowed {
		t.Errorf("without a hold: %+v", d)
	}
}

func TestHoldsAreListed(t *testing.T) {
	w := newWorld(t, atOnce(4), perMinute(20))
	d := w.take(held(3))
	list, err := w.lim.Holds(t.Context(), "acct_42")
	if err != nil || len(list) != 1 || list[0].ID != d.ID || !list[0].Expires.Equal(w.now.Add(time.Minute)) {
		t.Fatalf("%+v, %v", list, err)
	}
	w.settle(list[0].ID, 0, nil)
	if list, err := w.lim.Holds(t.Context(), "acct_42"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestARenewedHoldStaysOpen(t *testing.T) {
	w := newWorld(t, atOnce(1))
	d := w.take(held(1))
	w.now = w.now.Add(59 * time.Second)
	if found, err := w.lim.Renew(t.Context(), d.ID, time.Minute); err != nil || !found {
		t.Fatalf("%v, %v", found, err)
	}
	w.now = w.now.Add(59 * time.Second)
	if w.take(held(1)).Allowed {
		t.Error("its place was given away")
	}
	w.now = w.now.Add(time.Second)
	if found, err := w.lim.Renew(t.Context(), d.ID, time.Minute); err != nil || found {
		t.Errorf("%v, %v", found, err)
	}
	if !w.take(held(1)).Allowed {
		t.Error("its place is not free")
	}
}

func TestMalformedHoldsAreRefused(t *testing.T) {
	w := newWorld(t, perMinute(5))
	id := w.take(held(1)).ID
	fails := func(field string, err error) {
		t.Helper()
		var wrong *tierlimit.FieldError
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%v, want an error of %s", err, field)
		}
	}
	for _, wrong := range []string{"", "x", "!", id[:20], "B" + id[1:], id + "=", id[:len(id)-1] + "\n", strings.Repeat("A", 5000)} {
		_, err := w.lim.Settle(t.Context(), wrong, 0, nil)
		fails("id", err)
		_, err = w.lim.Renew(t.Context(), wrong, time.Minute)
		fails("id", err)
	}
	for _, d := range []time.Duration{0, time.Second - 1, time.Hour + 1, -time.Second, time.Second + time.Microsecond} {
		_, err := w.lim.Renew(t.Context(), id, d)
		fails("hold", err)
		if d != 0 {
			_, err = w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Hold: d})
			fails("hold", err)
		}
	}
	many := make(map[string]int64)
	for c := range 17 {
		many["limit_"+string(rune('a'+c))] = 1
	}
	for field, costs := range map[string]map[string]int64{
		"costs": {"Tokens": 1}, "costs.tokens": {"tokens": -1}, "costs.max": {"max": tierlimit.MaxCount + 1},
	} {
		_, err := w.lim.Settle(t.Context(), id, 0, costs)
		fails(field, err)
		_, err = w.lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Costs: costs})
		fails(field, err)
	}
	_, err := w.lim.Settle(t.Context(), id, 0, many)
	fails("costs", err)
	_, err = w.lim.Settle(t.Context(), id, -2, nil)
	fails("cost", err)
	if s := w.settle(id, 0, nil); !s.Found {
		t.Error("what was refused has settled")
	}
}

// A made-up ID finds no hold, neither of the same subject nor of another.
func TestAMadeUpIDFindsNothing(t *testing.T) {
	w := newWorld(t, perMinute(50))
	id := w.take(held(5)).ID
	for i := 2; i < len(id); i++ {
		for _, c := range "AZ09" {
			if made := id[:i] + string(c) + id[i+1:]; made != id {
				if s, err := w.lim.Settle(t.Context(), made, 0, nil); err == nil && s.Found {
					t.Fatalf("%s for %s", made, id)
				}
			}
		}
	}
	if d := w.take(cost(1)); d.Windows[0].Used != 6 {
		t.Errorf("%+v", d)
	}
}

func TestASettlementInAnOutageSaysSo(t *testing.T) {
	w := newWorld(t, perMinute(5))
	id := w.take(held(1)).ID
	w.fail = tierlimit.ErrStoreUnavailable
	if s, err := w.lim.Settle(t.Context(), id, 0, nil); !errors.Is(err, tierlimit.ErrStoreUnavailable) || s.Found {
		t.Errorf("%+v, %v", s, err)
	}
	w.fail = nil
	if s := w.settle(id, 0, nil); !s.Found {
		t.Error("asked again, it is not found")
	}
}

func TestLimitsThatCountHoldsAreChecked(t *testing.T) {
	for field, l := range map[string]tierlimit.Limit{
		"window":    {Name: "a", Max: 1, Algorithm: tierlimit.Concurrent, Window: tierlimit.Window{Length: time.Minute}},
		"on_expiry": {Name: "a", Max: 1, Algorithm: tierlimit.Concurrent, OnExpiry: tierlimit.ReleaseOnExpiry},
		"algorithm": {Name: "a", Max: 1, Algorithm: "bucket", Window: tierlimit.Window{Length: time.Minute}},
	} {
		var wrong *tierlimit.FieldError
		if err := l.Validate(); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	l := tierlimit.Limit{Name: "a", Max: 1, OnExpiry: "never", Window: tierlimit.Window{Length: time.Minute}}
	if err := l.Validate(); err == nil {
		t.Error("on_expiry never")
	}
}
