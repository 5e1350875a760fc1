package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/observe/denials"
)

// Texts that replicas publish are read by the others until they expire.
func TestReplicasReadWhatOthersPublish(t *testing.T) {
	store := newStore(t, newClient(t, redisServer.URL, 5*time.Second))
	topic := store.Topic("test", newSubject(t))
	want := map[string]string{"a": "one\n\"two\"", "b": ""}
	for replica, text := range want {
		must(t, store.Publish(t.Context(), topic, replica, text, time.Minute))
	}
	must(t, store.Publish(t.Context(), topic, "gone", "text", time.Millisecond))
	must(t, store.Publish(t.Context(), topic, "a", want["a"], time.Minute))
	eventually(t, time.Minute, "the expired text is gone", func() bool {
		got, err := store.Published(t.Context(), topic)
		must(t, err)
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
	if got, err := store.Published(t.Context(), store.Topic("test", newSubject(t))); err != nil || len(got) != 0 {
		t.Errorf("of another subject: %v, %v", got, err)
	}
}

// A customer that replica A denied is explained on replica B.
func TestADenialOfOneReplicaIsExplainedOnAnother(t *testing.T) {
	url, subject := newDatabase(t), newSubject(t)
	a, b := startReplica(t, redisServer.URL, url), startReplica(t, redisServer.URL, url)
	a.want(http.StatusCreated, "POST", a.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"free"}`, subject))
	for range 6 {
		a.must("take", subject)
	}
	eventually(t, time.Minute, "b knows of the denial", func() bool {
		_, body := b.want(http.StatusOK, "GET", b.admin+"/admin/v1/subjects/"+subject+"/denials", "")
		var answer struct{ Items []denials.Denial }
		must(t, json.Unmarshal(body, &answer))
		return len(answer.Items) == 1 && answer.Items[0].Limit == "per_minute" && answer.Items[0].Used == 5
	})
	_, body := b.want(http.StatusOK, "GET", b.admin+"/admin/v1/denials?tier=free&limit=500", "")
	var report denials.Report
	must(t, json.Unmarshal(body, &report))
	if len(report.Items) == 0 || !strings.Contains(string(body), subject) {
		t.Errorf("%s", body)
	}
	_, body = b.want(http.StatusOK, "GET", b.admin+"/admin/v1/subjects/"+subject+"/explain", "")
	for _, words := range []string{"The account is active.", "The tier of the account is free.", "per_minute allows 5 per 60s (from the tier); 5 used", "would be denied by per_minute: exceeded", `"denials":[{`} {
		if !strings.Contains(string(body), words) {
			t.Errorf("no %q in %s", words, body)
		}
	}
	for path, field := range map[string]string{
		"/denials?limit=0": "limit", "/denials?tier=": "tier", "/subjects/" + subject + "/explain?cost=0": "cost",
		"/subjects/" + subject + "/explain?scope=Not+A+Name": "scope",
	} {
		if _, body := b.want(http.StatusBadRequest, "GET", b.admin+"/admin/v1"+path, ""); !strings.Contains(string(body), field) {
			t.Errorf("%s: %s", path, body)
		}
	}
}
