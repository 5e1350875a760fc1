package events_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/events"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

// loopback is where the receivers of the tests are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// editor returns a catalogue with a tier that has thresholds, and a customer on it.
func editor(t *testing.T) (*memtiers.Catalogue, tiers.Editor) {
	t.Helper()
	m, err := memtiers.New([]tiers.Tier{{
		Key: "free", Default: true, Alerts: []int{50, 100},
		Limits: tiers.Limits{
			"per_hour": {Max: 4, Window: tierlimit.Window{Length: time.Hour}},
			"quiet":    {Max: 4, Window: tierlimit.Window{Length: time.Hour}, Alerts: []int{}},
			"at_once":  {Max: 100, Algorithm: tierlimit.Concurrent},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	e := tiers.NewEditor(m, tiers.Actor{ID: "test", Name: "test"})
	if _, err := e.CreateSubject(t.Context(), tiers.Subject{ID: "acct_1", Tier: "free"}); err != nil {
		t.Fatal(err)
	}
	return m, e
}

func register(t *testing.T, e tiers.Editor, url string, types ...string) tiers.Webhook {
	t.Helper()
	w, err := e.CreateWebhook(t.Context(), tiers.Webhook{Name: "receiver", URL: url, Events: types}.WithID(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func start(t *testing.T, cfg events.Config) (*events.Service, *tierlimit.Limiter) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := events.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	resolver, ok := cfg.Outbox.(tierlimit.Resolver)
	if !ok {
		t.Fatal("the outbox resolves no plans")
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver, Crossed: s.Crossed})
	if err != nil {
		t.Fatal(err)
	}
	s.Start(lim.Usage)
	t.Cleanup(s.Close)
	return s, lim
}

// A receiver answers by answer and passes on what it confirmed.
type receiver struct {
	*httptest.Server
	got chan received
}

type received struct {
	header http.Header
	body   []byte
	tiers.Message
}

func receive(t *testing.T, answer func(n int) int) *receiver {
	t.Helper()
	r := &receiver{got: make(chan received, 1000)}
	var mu sync.Mutex
	n := 0
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		n++
		status := answer(n)
		mu.Unlock()
		if status/100 == 2 {
			one := received{header: req.Header, body: body}
			if err := json.Unmarshal(body, &one.Message); err != nil {
				t.Error(err)
			}
			r.got <- one
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func always(status int) func(int) int { return func(int) int { return status } }

// next returns the next message that was confirmed.
func (r *receiver) next(t *testing.T) received {
	t.Helper()
	select {
	case one := <-r.got:
		return one
	case <-time.After(time.Minute):
		t.Fatal("no message came")
		return received{}
	}
}

func take(t *testing.T, lim *tierlimit.Limiter, subject string, cost int64) {
	t.Helper()
	if _, err := lim.Take(t.Context(), tierlimit.Request{Subject: subject, Cost: cost}); err != nil {
		t.Fatal(err)
	}
}

func TestThresholdsAreSentOnceAndSigned(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, always(http.StatusNoContent))
	w := register(t, e, r.URL, tiers.LimitThreshold)
	s, lim := start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Allow: loopback}})
	for range 6 { // the last two are denied
		take(t, lim, "acct_1", 1)
		take(t, lim, "made_up", 1)
	}
	var thresholds []int
	for range 2 {
		one := r.next(t)
		var data tiers.ThresholdData
		if err := json.Unmarshal(one.Data, &data); err != nil || one.Type != tiers.LimitThreshold || data.Subject != "acct_1" || data.Limit != "per_hour" || data.Max != 4 || !data.EndsAt.After(time.Now()) {
			t.Errorf("received %s: %v", one.body, err)
		}
		thresholds = append(thresholds, data.Threshold)
		if one.header.Get("Webhook-Id") != one.ID {
			t.Errorf("id %q of %s", one.header.Get("Webhook-Id"), one.body)
		}
		mac := hmac.New(sha256.New, w.Secrets.Current)
		mac.Write([]byte(one.ID + "." + one.header.Get("Webhook-Timestamp") + "." + string(one.body)))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); one.header.Get("Webhook-Signature") != want {
			t.Errorf("signature %q, want %q", one.header.Get("Webhook-Signature"), want)
		}
	}
	slices.Sort(thresholds)
	if !slices.Equal(thresholds, []int{50, 100}) {
		t.Errorf("thresholds %v", thresholds)
	}
	s.Close()
	if more := len(r.got); more != 0 || s.Stats().Delivered != 2 {
		t.Errorf("%d more messages; %+v", more, s.Stats())
	}
}

// One charge may pass several thresholds.
func TestOneChargePassesTwoThresholds(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, always(http.StatusOK))
	register(t, e, r.URL, tiers.LimitThreshold)
	_, lim := start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Allow: loopback}})
	take(t, lim, "acct_1", 4)
	r.next(t)
	r.next(t)
}

func TestFailedAttemptsAreRepeatedWithTheSameID(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, func(n int) int { return []int{500, 307, 429, 200}[min(n-1, 3)] })
	w := register(t, e, r.URL, tiers.LimitThreshold)
	s, lim := start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Allow: loopback, Retry: time.Millisecond}})
	take(t, lim, "acct_1", 2)
	one := r.next(t)
	s.Close()
	list, err := m.Deliveries(t.Context(), tiers.DeliveryFilter{Webhook: w.ID, Most: 10})
	if err != nil || len(list) != 1 || list[0].ID != one.ID || list[0].State != tiers.Delivered || list[0].Attempts != 4 || list[0].Status != 200 || s.Stats().Failed != 3 {
		t.Errorf("deliveries %+v of %s, %+v: %v", list, one.ID, s.Stats(), err)
	}
}

// dead waits until a delivery of w is dead, and returns it.
func dead(t *testing.T, m *memtiers.Catalogue, w tiers.Webhook) tiers.DeliveryState {
	t.Helper()
	for range 3000 {
		list, err := m.Deliveries(t.Context(), tiers.DeliveryFilter{Webhook: w.ID, State: tiers.Dead, Most: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			return list[0]
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("no delivery is dead")
	return tiers.DeliveryState{}
}

func TestAReceiverThatIsGoneIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	var gone sync.Map
	r := receive(t, func(int) int {
		if _, ok := gone.Load("back"); ok {
			return http.StatusOK
		}
		return http.StatusGone
	})
	w := register(t, e, r.URL, tiers.LimitThreshold)
	_, lim := start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Allow: loopback, Retry: time.Millisecond}})
	take(t, lim, "acct_1", 2)
	if d := dead(t, m, w); d.Attempts != 1 || d.Status != http.StatusGone {
		t.Errorf("a receiver that is gone: %+v", d)
	}
	gone.Store("back", true)
	if n, err := m.Resend(t.Context(), w.ID, ""); n != 1 || err != nil {
		t.Fatalf("%d were sent again: %v", n, err)
	}
	r.next(t)
}

func TestMessagesGoToPublicAddressesOnly(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, always(http.StatusOK))
	port := r.URL[strings.LastIndex(r.URL, ":"):]
	start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Retry: time.Hour}})
	for name, url := range map[string]string{
		"loopback": r.URL, "a name": "http://localhost" + port, "mapped": "http://[::ffff:127.0.0.1]" + port, "metadata": "https://169.254.169.254/latest",
		"private": "https://10.0.0.1/", "shared": "https://100.64.0.1/", "an IPv4 address in IPv6": "https://[64:ff9b::7f00:1]/",
		"without TLS": "http://192.0.43.8/", // of IANA; no connection is made
	} {
		w := register(t, e, url, tiers.LimitThreshold)
		id, err := m.SendTest(t.Context(), w.ID)
		if err != nil {
			t.Fatal(err)
		}
		var d tiers.DeliveryState
		for range 3000 {
			list, err := m.Deliveries(t.Context(), tiers.DeliveryFilter{Webhook: w.ID, Most: 1})
			if err != nil {
				t.Fatal(err)
			}
			if d = list[0]; d.LastError != "" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		want := "public address"
		if name == "without TLS" {
			want = "use https"
		}
		if d.ID != id || !strings.Contains(d.LastError, want) || d.Status != 0 {
			t.Errorf("%s (%s): %+v", name, url, d)
		}
	}
	if len(r.got) != 0 {
		t.Error("a message came through")
	}
}

// The usage of a window that a settlement raises is looked at too.
func TestASettlementReachesAThreshold(t *testing.T) {
	t.Parallel()
	m, _ := editor(t)
	var told []tierlimit.Crossing
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: m, Crossed: func(c tierlimit.Crossing) bool {
		told = append(told, c)
		return true
	}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_1", Cost: 1, Hold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lim.Settle(t.Context(), d.ID, 40, nil); err != nil {
		t.Fatal(err)
	}
	take(t, lim, "acct_1", 1) // denied, and of the same window
	if len(told) != 2 || told[0].Threshold != 50 || told[1].Threshold != 100 || told[1].Used != 40 {
		t.Errorf("told %+v", told)
	}
}

// One failure to read usage must not lose a recovery.
func TestARecoveryIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, always(http.StatusOK))
	register(t, e, r.URL, tiers.LimitRecovered)
	asked := make(chan struct{}, 100)
	s, err := events.New(events.Config{Outbox: quick{m}, Delivery: &events.Delivery{Allow: loopback}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	s.Start(func(context.Context, string) (tierlimit.Usage, error) {
		asked <- struct{}{}
		if n++; n == 1 {
			return tierlimit.Usage{}, errors.New("down")
		}
		return tierlimit.Usage{}, nil
	})
	t.Cleanup(s.Close)
	s.Crossed(tierlimit.Crossing{Subject: "acct_1", Tier: "free", Limit: "per_hour", Threshold: 50, Used: 3, Max: 4, EndsAt: time.Now().Add(time.Hour), At: time.Now()})
	r.next(t)
	if len(asked) != 2 {
		t.Errorf("usage was asked for %d times", len(asked))
	}
}

// quick is an outbox all of whose alerts are always due.
type quick struct{ *memtiers.Catalogue }

func (q quick) AlertsToCheck(ctx context.Context, n int) ([]tiers.Alert, error) {
	err := q.Record(ctx, tiers.Event{Kind: tiers.KindUsage, Object: "acct_1", Action: "usage.reset"}, func(context.Context) error { return nil })
	if err != nil {
		return nil, err
	}
	return q.Catalogue.AlertsToCheck(ctx, n)
}

// An outbox that fails for a while.
type failing struct {
	*memtiers.Catalogue
	mu     sync.Mutex
	down   bool
	failed chan struct{} // closed once Alert has failed for all
	left   int           // alerts that are to fail
}

func (f *failing) Alert(ctx context.Context, list []tierlimit.Crossing) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		if f.left -= len(list); f.left <= 0 && f.left+len(list) > 0 {
			close(f.failed)
		}
		return errors.New("down")
	}
	return f.Catalogue.Alert(ctx, list)
}

func TestAlertsOutliveAnOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	for i := range 300 {
		if _, err := e.CreateSubject(t.Context(), tiers.Subject{ID: "acct_" + strconv.Itoa(1000+i), Tier: "free"}); err != nil {
			t.Fatal(err)
		}
	}
	r := receive(t, always(http.StatusOK))
	register(t, e, r.URL, tiers.LimitThreshold)
	outbox := &failing{Catalogue: m, down: true, failed: make(chan struct{}), left: 300}
	s, lim := start(t, events.Config{Outbox: outbox, Delivery: &events.Delivery{Allow: loopback}})
	for i := range 300 {
		take(t, lim, "acct_"+strconv.Itoa(1000+i), 2)
	}
	<-outbox.failed
	outbox.mu.Lock()
	outbox.down = false
	outbox.mu.Unlock()
	seen := make(map[string]bool)
	for range 300 {
		seen[r.next(t).ID] = true
	}
	s.Close()
	if len(seen) != 300 || len(r.got) != 0 {
		t.Errorf("%d ids of 300 crossings, and %d more messages", len(seen), len(r.got))
	}
}

// A process that cannot take a crossing sees it again with the next decision.
func TestACrossingThatIsNotTakenComesAgain(t *testing.T) {
	t.Parallel()
	m, _ := editor(t)
	taken := false
	var told []tierlimit.Crossing
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: m, Crossed: func(c tierlimit.Crossing) bool {
		told = append(told, c)
		return taken
	}})
	if err != nil {
		t.Fatal(err)
	}
	take(t, lim, "acct_1", 2)
	taken = true
	for range 3 {
		if _, err := lim.Peek(t.Context(), tierlimit.Request{Subject: "acct_1", Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 2 || told[0].Threshold != 50 || told[1].Threshold != 50 || !told[0].EndsAt.Equal(told[1].EndsAt) {
		t.Errorf("told %+v", told)
	}
}

func TestAChangedPlanEndsAnAlert(t *testing.T) {
	t.Parallel()
	m, e := editor(t)
	r := receive(t, always(http.StatusOK))
	register(t, e, r.URL, tiers.LimitThreshold, tiers.LimitRecovered)
	_, lim := start(t, events.Config{Outbox: m, Delivery: &events.Delivery{Allow: loopback}})
	take(t, lim, "acct_1", 3)
	r.next(t) // the alert is written
	if _, err := e.CreateOverride(t.Context(), "acct_1", tiers.Override{Limit: "per_hour", Max: 1000, Reason: "promised", ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	var data tiers.RecoveredData
	if one := r.next(t); json.Unmarshal(one.Data, &data) != nil || data.Reason != tiers.RecoveredChanged || *data.Used != 3 || *data.Max != 1000 {
		t.Errorf("received %s", one.body)
	}
}
