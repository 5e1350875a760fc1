package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// A hookReceiver verifies messages with the library of Standard Webhooks, and confirms only every
// second attempt.
type hookReceiver struct {
	*httptest.Server
	verifier *standardwebhooks.Webhook

	mu       sync.Mutex
	attempts int
	wrong    []string
	messages map[string]tiers.Message // by id: those that were confirmed
}

func receiveHooks(t *testing.T) *hookReceiver {
	t.Helper()
	r := &hookReceiver{messages: make(map[string]tiers.Message)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body) // a message that is cut off has no valid signature
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := r.verifier.Verify(body, req.Header); err != nil {
			r.wrong = append(r.wrong, err.Error())
		}
		if r.attempts++; r.attempts%2 == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var m tiers.Message
		if err := json.Unmarshal(body, &m); err != nil || m.ID != req.Header.Get("Webhook-Id") {
			r.wrong = append(r.wrong, string(body))
		}
		r.messages[m.ID] = m
	}))
	t.Cleanup(r.Close)
	return r
}

// received returns how many messages were confirmed.
func (r *hookReceiver) received() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages)
}

// Three replicas decide for 500 customers, of whom each crosses two thresholds; one replica is
// killed half-way, and the receiver fails every second attempt: there are 1,000 messages with 1,000
// ids, and each is received.
func TestEachCrossingIsReceivedWithOneID(t *testing.T) {
	const customers = 500
	url, receiver := newDatabase(t), receiveHooks(t)
	args := []string{"--webhook-allow", "127.0.0.0/8", "--webhook-retry", "1ms"}
	replicas := []*replica{startReplica(t, redisServer.URL, url, args...), startReplica(t, redisServer.URL, url, args...), startReplica(t, redisServer.URL, url, args...)}
	admin := replicas[0]
	c := openCatalogue(t, url)
	_, err := edit(c).CreateTier(t.Context(), tiers.Tier{
		Key: "hooked", Alerts: []int{50, 100}, Limits: tiers.Limits{"per_hour": {Max: 4, Window: tierlimit.Window{Length: time.Hour}}},
	})
	must(t, err)
	_, body := admin.want(http.StatusCreated, "POST", admin.admin+"/admin/v1/webhooks", fmt.Sprintf(`{"name":"billing","url":%q,"events":["limit.threshold"]}`, receiver.URL+"/hook"))
	var hook tiers.Webhook
	must(t, json.Unmarshal(body, &hook))
	receiver.mu.Lock()
	receiver.verifier, err = standardwebhooks.NewWebhook(hook.Secret)
	receiver.mu.Unlock()
	must(t, err)
	subjects := make([]string, customers)
	e := edit(c)
	for i := range subjects {
		subjects[i] = newSubject(t)
		_, err := e.CreateSubject(t.Context(), tiers.Subject{ID: subjects[i], Tier: "hooked"})
		must(t, err)
	}
	// Each customer asks five times, of any replica that answers.
	for round := range 5 {
		if round == 2 {
			must(t, replicas[2].process.Kill())
		}
		var wg sync.WaitGroup
		for i, subject := range subjects {
			wg.Go(func() {
				for j := range 6 {
					r := replicas[(i+round+j)%3]
					status, _, answer, err := r.ask("POST", r.public+"/v1/take", fmt.Sprintf(`{"subject":%q}`, subject))
					if err == nil && status == http.StatusOK {
						return
					}
					if j == 5 {
						t.Errorf("nobody answers for %s: %d %s %v", subject, status, answer, err)
					}
				}
			})
			if i%50 == 49 {
				wg.Wait()
			}
		}
		wg.Wait()
	}
	defer func() {
		if t.Failed() {
			pending, dead, err := c.Backlog(context.Background())
			t.Logf("received %d in %d attempts; pending %d, dead %d, %v\n%s", receiver.received(), receiver.attempts, pending, dead, err, replicas[0].log())
		}
	}()
	eventually(t, 2*time.Minute, "1,000 messages are received", func() bool {
		if receiver.received() == 2*customers {
			return true
		}
		_, _ = c.Resend(t.Context(), hook.ID, "") // nine attempts may all be odd ones
		return false
	})
	admin.want(http.StatusOK, "GET", admin.admin+"/admin/v1/webhooks/"+hook.ID+"/deliveries?limit=500", "")
	receiver.mu.Lock()
	defer receiver.mu.Unlock()
	if len(receiver.wrong) > 0 {
		t.Errorf("%d messages are wrong, such as %s", len(receiver.wrong), receiver.wrong[0])
	}
	crossings := make(map[string]bool)
	for _, m := range receiver.messages {
		var data tiers.ThresholdData
		must(t, json.Unmarshal(m.Data, &data))
		crossings[fmt.Sprint(data.Subject, data.Limit, data.Threshold, data.EndsAt)] = true
	}
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(t.Context())
	var messages int
	must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM tierlimit.messages").Scan(&messages))
	if len(crossings) != 2*customers || messages != 2*customers {
		t.Errorf("%d crossings and %d messages, want %d of each", len(crossings), messages, 2*customers)
	}
}
