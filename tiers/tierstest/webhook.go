package tierstest

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

func webhook(events ...string) tiers.Webhook {
	return tiers.Webhook{Name: "billing", URL: "https://example.com/hooks?a=b", Events: events}.WithID(time.Now())
}

func webhookLife(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	given := webhook(tiers.SubjectChanged, tiers.LimitThreshold)
	if !strings.HasPrefix(given.Secret, "whsec_") || len(given.Secrets.Current) != 32 {
		t.Errorf("the secret is %q", given.Secret)
	}
	made := must(c.CreateWebhook(ctx, given))(t)
	if made.Secret != "" || made.ID != given.ID || made.Version <= 0 || !reflect.DeepEqual(made.Events, []string{tiers.LimitThreshold, tiers.SubjectChanged}) ||
		!reflect.DeepEqual(made.Secrets.Current, given.Secrets.Current) || made.CreatedAt.IsZero() {
		t.Fatalf("made %+v of %+v", made, given)
	}
	if got := must(c.Webhook(ctx, made.ID))(t); !reflect.DeepEqual(got, made) {
		t.Fatalf("created %+v\nread    %+v", made, got)
	}
	changed := made
	changed.URL, changed.Paused, changed.Secrets = "http://10.0.0.1:8080/", true, tiers.Secrets{}
	changed = must(c.ReplaceWebhook(ctx, changed, made.Version))(t)
	if changed.Version <= made.Version || changed.URL != "http://10.0.0.1:8080/" || !changed.Paused || !reflect.DeepEqual(changed.Secrets, made.Secrets) {
		t.Fatalf("replaced %+v by %+v", made, changed)
	}
	rotated := must(c.ReplaceWebhook(ctx, changed.WithNewSecret(time.Now()), changed.Version))(t)
	keys := rotated.Secrets.InForce(time.Now())
	if len(keys) != 2 || !slices.Equal(keys[1], made.Secrets.Current) || slices.Equal(keys[0], keys[1]) {
		t.Fatalf("after a new secret %d keys are in force", len(keys))
	}
	if later := rotated.Secrets.InForce(time.Now().Add(tiers.SecretOverlap)); len(later) != 1 {
		t.Errorf("the previous secret stays in force: %d keys", len(later))
	}
	if list := must(c.Webhooks(ctx))(t); !reflect.DeepEqual(list, []tiers.Webhook{rotated}) {
		t.Fatalf("listed %+v, want %+v", list, rotated)
	}
	_, err := c.ReplaceWebhook(ctx, made, made.Version)
	wantErr(t, err, tiers.ErrStale)
	wantErr(t, c.DeleteWebhook(ctx, made.ID, rotated.Version), nil)
	wantErr(t, second(c.Webhook(ctx, made.ID)), tiers.ErrNotFound)
	for _, e := range must(c.Events(ctx, tiers.EventFilter{Kind: tiers.KindWebhook, Most: 10}))(t) {
		if text := string(e.Before) + string(e.After); strings.Contains(text, "whsec") || e.Object != made.ID {
			t.Errorf("the audit log has %+v", e)
		}
	}
}

func invalidWebhook(t *testing.T, c tiers.Editor) {
	wrong := tiers.Webhook{URL: "ftp://example.com", Events: []string{"limit.threshold", "limit.threshold"}}.WithID(time.Now())
	_, err := c.CreateWebhook(t.Context(), wrong)
	for _, field := range []string{"name", "url", "events"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	for i := range tiers.MaxWebhooks {
		w := webhook(tiers.LimitThreshold)
		w.Name = strconv.Itoa(i)
		must(c.CreateWebhook(t.Context(), w))(t)
	}
	if _, err := c.CreateWebhook(t.Context(), webhook(tiers.LimitThreshold)); err == nil || !strings.Contains(err.Error(), "at most 20") {
		t.Errorf("one webhook too many: %v", err)
	}
}

func crossing(subject string, threshold int, ends time.Time) tierlimit.Crossing {
	return tierlimit.Crossing{
		Subject: subject, Tier: "pro", Limit: "per_month", Threshold: threshold, Used: 80, Max: 100, EndsAt: ends, At: time.Now(),
	}
}

// states returns the deliveries of a webhook, the oldest message first.
func states(t *testing.T, c tiers.Editor, webhook string) []tiers.DeliveryState {
	list := must(c.Deliveries(t.Context(), tiers.DeliveryFilter{Webhook: webhook, Most: 1000}))(t)
	slices.Reverse(list)
	return list
}

func aCrossingIsWrittenOnce(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	wants := must(c.CreateWebhook(ctx, webhook(tiers.LimitThreshold)))(t)
	other := must(c.CreateWebhook(ctx, webhook(tiers.SubjectChanged)))(t)
	ends := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	list := []tierlimit.Crossing{crossing("acct_1", 80, ends), crossing("acct_2", 80, ends), crossing("acct_1", 100, ends), crossing("acct_1", 80, ends)}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := c.Alert(ctx, list); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := states(t, c, other.ID); len(got) != 0 {
		t.Errorf("another type was wanted, and %v came", got)
	}
	got := states(t, c, wants.ID)
	if len(got) != 3 {
		t.Fatalf("%d messages of 3 crossings: %+v", len(got), got)
	}
	var data tiers.ThresholdData
	if err := json.Unmarshal(got[0].Data, &data); err != nil || !data.EndsAt.Equal(ends) || data.Used != 80 || data.Max != 100 || data.Limit != "per_month" || data.Tier != "pro" {
		t.Errorf("%s: %v", got[0].Data, err)
	}
	if err := c.Alert(ctx, []tierlimit.Crossing{crossing("acct_1", 80, ends.Add(time.Hour))}); err != nil {
		t.Fatal(err)
	}
	if got := states(t, c, wants.ID); len(got) != 4 {
		t.Errorf("%d messages after the next window", len(got))
	}
}

func deliveriesAreClaimed(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	w := must(c.CreateWebhook(ctx, webhook(tiers.LimitThreshold)))(t)
	ends := time.Now().Add(time.Hour)
	for i := range 5 {
		wantErr(t, c.Alert(ctx, []tierlimit.Crossing{crossing("acct_"+strconv.Itoa(i), 80, ends)}), nil)
	}
	claim := func(lease time.Duration, busy map[string]int) []tiers.Delivery {
		return must(c.Claim(ctx, lease, 3, busy))(t)
	}
	first := claim(time.Minute, nil)
	if len(first) != 3 || first[0].Attempt != 1 || first[0].Message.Type != tiers.LimitThreshold || !reflect.DeepEqual(first[0].Webhook, w) {
		t.Fatalf("claimed %+v", first)
	}
	if more := claim(0, map[string]int{w.ID: 3}); len(more) != 0 {
		t.Errorf("claimed %d above the bound", len(more))
	}
	if rest := claim(0, map[string]int{w.ID: 1}); len(rest) != 2 {
		t.Errorf("claimed %d of the two that are left", len(rest))
	}
	wantErr(t, c.Finish(ctx, first[0], tiers.DeliveryOutcome{State: tiers.Delivered, Status: 204}), nil)
	wantErr(t, c.Finish(ctx, first[1], tiers.DeliveryOutcome{State: tiers.Pending, After: time.Hour, Status: 500, Error: "500 Internal Server Error"}), nil)
	wantErr(t, c.Finish(ctx, first[2], tiers.DeliveryOutcome{State: tiers.Dead, Error: "refused"}), nil)
	pending, dead, err := c.Backlog(ctx)
	if pending != 3 || dead != 1 || err != nil {
		t.Errorf("a backlog of %d and %d: %v", pending, dead, err)
	}
	// A process that was killed gives its claims up when they end.
	again := claim(time.Minute, nil)
	if len(again) != 2 || again[0].Attempt != 2 {
		t.Errorf("claimed %+v after the first claims had ended", again)
	}
	wantErr(t, c.Finish(ctx, tiers.Delivery{Webhook: w, Message: again[0].Message, Attempt: 1}, tiers.DeliveryOutcome{State: tiers.Dead}), nil)
	if _, dead, _ := c.Backlog(ctx); dead != 1 {
		t.Errorf("an attempt whose claim has ended made a delivery dead")
	}
	wantErr(t, second(c.Resend(ctx, w.ID, "msg_none")), tiers.ErrNotFound)
	if n := must(c.Resend(ctx, w.ID, ""))(t); n != 1 {
		t.Errorf("%d dead deliveries were sent again", n)
	}
	if n := must(c.Resend(ctx, w.ID, first[0].Message.ID))(t); n != 1 {
		t.Errorf("%d deliveries of one message were sent again", n)
	}
	if pending, dead, _ := c.Backlog(ctx); pending != 5 || dead != 0 {
		t.Errorf("a backlog of %d and %d at the end", pending, dead)
	}
	paused := w
	paused.Paused = true
	must(c.ReplaceWebhook(ctx, paused, w.Version))(t)
	if list := claim(0, nil); len(list) != 0 {
		t.Errorf("%d deliveries of a paused webhook", len(list))
	}
	must(c.Prune(ctx, time.Now().Add(time.Hour)))(t)
	if pending, dead, _ := c.Backlog(ctx); pending+dead != 0 {
		t.Errorf("a backlog of %d and %d after pruning", pending, dead)
	}
}

func aTestMessageGoesToOneWebhook(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	w, other := must(c.CreateWebhook(ctx, webhook(tiers.LimitThreshold)))(t), must(c.CreateWebhook(ctx, webhook(tiers.LimitThreshold)))(t)
	id := must(c.SendTest(ctx, w.ID))(t)
	if got := states(t, c, w.ID); len(got) != 1 || got[0].ID != id || got[0].Type != tiers.WebhookTest || got[0].State != tiers.Pending || got[0].DueAt == nil {
		t.Errorf("the webhook has %+v", got)
	}
	if got := states(t, c, other.ID); len(got) != 0 {
		t.Errorf("another webhook has %+v", got)
	}
	wantErr(t, second(c.SendTest(ctx, "aaaaaaaaaaaaaaaa")), tiers.ErrNotFound)
}

func alertsEnd(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	w := must(c.CreateWebhook(ctx, webhook(tiers.LimitRecovered)))(t)
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "pro"}))(t)
	now := time.Now().UTC().Truncate(time.Millisecond)
	later, before := now.Add(time.Hour), now.Add(-time.Minute)
	wantErr(t, c.Alert(ctx, []tierlimit.Crossing{
		crossing("acct_1", 80, later), crossing("acct_1", 100, later), crossing("acct_2", 80, before), crossing("acct_2", 100, before),
		crossing("acct_3", 80, before), crossing("acct_3", 80, later),
	}), nil)
	if list := must(c.AlertsToCheck(ctx, 10))(t); len(list) != 0 {
		t.Errorf("nothing changed, and %+v are to be checked", list)
	}
	s := must(c.Subject(ctx, "acct_1"))(t)
	s.Tier = "enterprise"
	must(c.ReplaceSubject(ctx, s, s.Version))(t)
	var list []tiers.Alert
	for deadline := time.Now().Add(time.Minute); len(list) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		list = must(c.AlertsToCheck(ctx, 10))(t)
	}
	if len(list) != 1 || list[0].Subject != "acct_1" || list[0].Threshold != 80 || list[0].Limit != "per_month" || !list[0].EndsAt.Equal(later) {
		t.Fatalf("to be checked are %+v", list)
	}
	wantErr(t, c.AlertChecked(ctx, list[0]), nil)
	used, most := int64(80), int64(1000)
	list[0].Used, list[0].Max = &used, &most
	for range 2 {
		wantErr(t, c.RecoverAlert(ctx, list[0]), nil)
	}
	if n := must(c.EndAlerts(ctx))(t); n != 2 {
		t.Errorf("%d windows ended, want those of acct_2 and acct_3", n)
	}
	if n := must(c.EndAlerts(ctx))(t); n != 0 {
		t.Errorf("%d windows ended twice", n)
	}
	got := states(t, c, w.ID)
	if len(got) != 2 {
		t.Fatalf("messages %+v; acct_3 has reached a threshold of the next window too", got)
	}
	var first, last tiers.RecoveredData
	if json.Unmarshal(got[0].Data, &first) != nil || json.Unmarshal(got[1].Data, &last) != nil ||
		first.Subject != "acct_1" || first.Reason != tiers.RecoveredChanged || *first.Max != 1000 || last.Subject != "acct_2" || last.Reason != tiers.RecoveredEnded || last.Max != nil || !last.EndsAt.Equal(before) {
		t.Errorf("messages %s and %s", got[0].Data, got[1].Data)
	}
	if text := `"` + before.Format(time.RFC3339Nano) + `"`; !strings.Contains(string(got[1].Data), text) {
		t.Errorf("%s has another text than %s", got[1].Data, text)
	}
	// Above the thresholds again, and told again that this is over.
	wantErr(t, c.Alert(ctx, []tierlimit.Crossing{crossing("acct_1", 120, later)}), nil)
	wantErr(t, c.RecoverAlert(ctx, tiers.Alert{Subject: "acct_1", Limit: "per_month", EndsAt: later}), nil)
	if got := states(t, c, w.ID); len(got) != 3 || strings.Contains(string(got[2].Data), "max") {
		t.Errorf("messages %+v", got)
	}
}

func changesOfSubjectsAreTold(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	w := must(c.CreateWebhook(ctx, webhook(tiers.SubjectChanged)))(t)
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "free"}))(t)
	s.Tier = "pro"
	s = must(c.ReplaceSubject(ctx, s, s.Version))(t)
	must(c.CreateOverride(ctx, "acct_1", tiers.Override{Limit: "per_minute", Max: 7, Reason: "promised", ExpiresAt: time.Now().Add(time.Hour)}))(t)
	wantErr(t, second(c.ReplaceSubject(ctx, s, s.Version)), tiers.ErrStale) // a refused change is not told
	got := states(t, c, w.ID)
	var actions []string
	for i := range got {
		var data tiers.ChangedData
		if err := json.Unmarshal(got[i].Data, &data); err != nil || data.Subject != "acct_1" || got[i].Subject != "acct_1" {
			t.Errorf("%s: %v", got[i].Data, err)
		}
		actions = append(actions, data.Action)
	}
	if want := []string{"subject.create", "subject.replace", "override.create"}; !reflect.DeepEqual(actions, want) {
		t.Errorf("told of %v, want %v", actions, want)
	}
	if n := must(c.Erase(ctx, c.Actor, tiers.Erasure{Subject: "acct_1"}, false))(t); n == 0 {
		t.Error("nothing was erased")
	}
	if got := states(t, c, w.ID); len(got) != 0 {
		t.Errorf("messages about an erased subject: %+v", got)
	}
}

func alertsOfATierComeBack(t *testing.T, c tiers.Editor) {
	g := gold()
	g.Alerts = []int{80, 100, 250}
	one := g.Limits["smooth"]
	for _, alerts := range [][]int{nil, {}, {50}} {
		one.Alerts = alerts
		g.Limits["smooth"] = one
		g.Key = "gold_" + strconv.Itoa(len(alerts))
		if alerts == nil {
			g.Key = "gold"
		}
		g.Name = g.Key
		made := must(c.CreateTier(t.Context(), g))(t)
		got := must(c.Tier(t.Context(), g.Key))(t)
		if !reflect.DeepEqual(made, got) || !reflect.DeepEqual(got.Alerts, g.Alerts) || !reflect.DeepEqual(got.Limits["smooth"].Alerts, alerts) {
			t.Errorf("wrote %+v\nread  %+v", g, got)
		}
	}
	g.Key, g.Alerts = "wrong", []int{100, 80}
	if _, err := c.CreateTier(t.Context(), g); err == nil || !strings.Contains(err.Error(), "alerts ") {
		t.Errorf("descending thresholds: %v", err)
	}
}
