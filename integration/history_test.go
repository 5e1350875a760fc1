package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/tiers"
)

// Windows that have ended are kept for customers, and for nobody else; who is near a limit is found
// by an index.
func TestTheHistoryOfWindows(t *testing.T) {
	url := newDatabase(t)
	c := openCatalogue(t, url)
	_, err := edit(c).CreateSubject(t.Context(), tiers.Subject{ID: "acct_1", Tier: "free"})
	must(t, err)
	const day = int64(24 * time.Hour / time.Millisecond)
	now := time.Now().UnixMilli()
	note := func(subject string, used, end int64) {
		t.Helper()
		must(t, c.NoteWindows(t.Context(), []durable.Window{{Subject: subject, Limit: "per_day", Used: used, Max: 1000, End: end, At: end - day + used}}))
	}
	for _, subject := range []string{"acct_1", "ip:203.0.113.7"} {
		note(subject, 10, now-day-day/2)
		note(subject, 25, now-day-day/2)
		note(subject, 30, now-day/2)
		note(subject, 900, now+day/2)
	}
	used := func(subject string) (list []int64) {
		windows, err := c.History(t.Context(), subject, "per_day", 10)
		must(t, err)
		for _, w := range windows {
			if w.Max != 1000 || w.Subject != subject || w.Limit != "per_day" {
				t.Errorf("%+v", w)
			}
			list = append(list, w.Used)
		}
		return list
	}
	if got := used("acct_1"); !slices.Equal(got, []int64{900, 30, 25}) {
		t.Errorf("of a customer: %v", got)
	}
	if got := used("ip:203.0.113.7"); !slices.Equal(got, []int64{900}) {
		t.Errorf("of a stranger: %v", got)
	}
	near := func(over float64) (list []string) {
		var after tiers.WindowUsage
		for {
			page, err := c.NearLimits(t.Context(), tiers.NearQuery{Over: over, After: after, Most: 1})
			must(t, err)
			if len(page) == 0 {
				return list
			}
			after = page[0]
			list = append(list, fmt.Sprint(after.Subject, " ", after.Used))
		}
	}
	note("acct_2", 990, now+day/2)
	note("acct_3", 400, now+day/2)
	if got := near(0.8); !slices.Equal(got, []string{"acct_2 990", "acct_1 900", "ip:203.0.113.7 900"}) {
		t.Errorf("over 80 %%: %v", got)
	}
	if got := near(0.95); !slices.Equal(got, []string{"acct_2 990"}) {
		t.Errorf("over 95 %%: %v", got)
	}
	must(t, c.NoteResets(t.Context(), []durable.Reset{{Subject: "acct_2", At: time.Now().Add(time.Hour).UnixMilli()}}))
	if got := near(0.95); len(got) != 0 {
		t.Errorf("after a reset: %v", got)
	}

	// What is forgotten as usage is kept as history, until that is too old.
	must(t, c.ForgetEnded(t.Context(), now+day))
	if got := used("acct_1"); !slices.Equal(got, []int64{900, 30, 25}) {
		t.Errorf("of a customer, forgotten: %v", got)
	}
	must(t, c.ForgetEnded(t.Context(), now+day/4+90*day))
	if got := used("acct_1"); !slices.Equal(got, []int64{900}) {
		t.Errorf("after 90 days: %v", got)
	}
}

// The page of who is near a limit shows usage as it is now.
func TestWhoIsNearALimit(t *testing.T) {
	r, subject := startReplica(t, redisServer.URL, newDatabase(t)), newSubject(t)
	r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/tiers", `{"key":"small","limits":{"per_day":{"max":10,"period":"day"}}}`)
	r.want(http.StatusCreated, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"small"}`, subject))
	for range 9 {
		r.must("take", subject)
	}
	near := func(over string) string {
		_, body := r.want(http.StatusOK, "GET", r.admin+"/admin/v1/usage/near?over="+over, "")
		return string(body)
	}
	eventually(t, time.Minute, "it is known", func() bool {
		return strings.Contains(near("0.8"), fmt.Sprintf(`{"subject":%q,"tier":"small","limit":"per_day","used":9,"max":10,`, subject))
	})
	if got := near("0.95"); strings.Contains(got, subject) {
		t.Errorf("%s", got)
	}
	_, body := r.want(http.StatusOK, "GET", r.admin+"/admin/v1/subjects/"+subject+"/usage/history?of=per_day", "")
	var history struct{ Data []tiers.WindowUsage }
	must(t, json.Unmarshal(body, &history))
	if len(history.Data) != 1 || history.Data[0].Used < 1 || history.Data[0].Max != 10 {
		t.Errorf("%s", body)
	}
	r.want(http.StatusNoContent, "DELETE", r.admin+"/admin/v1/subjects/"+subject+"/usage", "")
	if got := near("0.5"); strings.Contains(got, subject) {
		t.Errorf("after a reset: %s", got)
	}
	for _, query := range []string{"over=0.1", "over=NaN", "limit=0", "cursor=x", "nothing=1"} {
		r.want(http.StatusBadRequest, "GET", r.admin+"/admin/v1/usage/near?"+query, "")
	}
}
