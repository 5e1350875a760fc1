package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// A customer is one that a client changes: the max of its tier's limit "tier" and
// that of its override of "own" count up with each change, so that whoever looks
// knows what they see.
type customer struct {
	id, tier string
	tags     map[string]string // ETags by path

	mu   sync.Mutex
	seen map[string]int64 // by replica and limit: the greatest max that was seen
}

// change sets the max of the customer's tier to n if n is even, and the max of the
// customer's override if n is odd.
func (c *customer) change(r *replica, n int64) error {
	path, body := "/admin/v1/tiers/"+c.tier, fmt.Sprintf(`{"limits":{"tier":{"max":%d}}}`, n)
	if n%2 == 1 {
		path, body = "/admin/v1/subjects/"+c.id+"/overrides/own", fmt.Sprintf(`{"max":%d}`, n)
	}
	status, h, answer, err := r.ask("PATCH", r.admin+path, body, "If-Match", c.tags[path])
	for began := time.Now(); status == 503 && time.Since(began) < busyMachine; { // a busy Postgres: it may have been made
		if status, h, answer, err = r.ask("PATCH", r.admin+path, body, "If-Match", c.tags[path]); status == 412 {
			status, h, answer, err = r.ask("GET", r.admin+path, "")
		}
	}
	if err != nil || status != 200 {
		return fmt.Errorf("change %d of %s: %d, %w: %s", n, c.id, status, err, answer)
	}
	c.tags[path] = h.Get("Etag")
	return nil
}

// look returns the newest change that a replica knows, and reports one that is
// older than what it has shown before.
func (c *customer) look(r *replica, name string) (newest int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := r.decide("peek", c.id)
	if err != nil {
		return 0, err
	}
	if d.Degraded || d.Tier != c.tier {
		return 0, fmt.Errorf("%s is on %q, degraded %v", c.id, d.Tier, d.Degraded)
	}
	for _, w := range d.Windows {
		key := name + " " + w.Limit
		if w.Max < c.seen[key] {
			return 0, fmt.Errorf("replica %s shows %s of %s at %d after %d", name, w.Limit, c.id, w.Max, c.seen[key])
		}
		c.seen[key] = w.Max
		newest = max(newest, w.Max)
	}
	return newest, nil
}

// Eight clients make ten thousand changes to tiers and overrides, each to another
// of three replicas: none is lost, none seen out of order, and nearly all are in
// effect everywhere within a second.
func TestTenThousandChangesAreSeenInOrder(t *testing.T) {
	const clients, each, lookEvery = 8, 1250, 10
	url := newDatabase(t)
	replicas := make([]*replica, 3)
	for i := range replicas {
		replicas[i] = startReplica(t, redisServer.URL, url)
	}
	customers := make([]*customer, clients)
	for i := range customers {
		c := &customer{id: newSubject(t), tier: fmt.Sprintf("tier_%d", i), tags: make(map[string]string), seen: make(map[string]int64)}
		r := replicas[i%len(replicas)]
		h, _ := r.want(201, "POST", r.admin+"/admin/v1/tiers", fmt.Sprintf(`{"key":%q,"limits":{"tier":{"max":0,"window":"60s"},"own":{"max":0,"window":"60s"}}}`, c.tier))
		c.tags["/admin/v1/tiers/"+c.tier] = h.Get("Etag")
		r.want(201, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":%q}`, c.id, c.tier))
		h, _ = r.want(201, "POST", r.admin+"/admin/v1/subjects/"+c.id+"/overrides", `{"limit":"own","max":0,"expires_at":"2926-01-01T00:00:00Z","reason":"a test"}`)
		c.tags["/admin/v1/subjects/"+c.id+"/overrides/own"] = h.Get("Etag")
		customers[i] = c
	}
	for _, r := range replicas {
		for _, c := range customers {
			eventually(t, time.Second, "there", func() bool { return r.must("peek", c.id).Tier == c.tier })
		}
	}

	var mu sync.Mutex
	var took []time.Duration // from the answer to a change until the last replica knows it
	var wg sync.WaitGroup
	began := time.Now()
	for i, c := range customers {
		wg.Go(func() {
			for n := int64(1); n <= each; n++ {
				if err := c.change(replicas[(int64(i)+n)%3], n); err != nil {
					t.Error(err)
					return
				}
				if n%lookEvery != 0 {
					continue
				}
				changed := time.Now()
				for j, r := range replicas {
					for newest := int64(0); newest < n && time.Since(changed) < busyMachine; {
						var err error
						if newest, err = c.look(r, fmt.Sprint(j)); err != nil {
							t.Error(err)
							return
						}
						time.Sleep(time.Millisecond)
					}
				}
				mu.Lock()
				took = append(took, time.Since(changed))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d changes in %s; until the last replica knows: median %s, p99 %s, worst %s", clients*each, time.Since(began).Round(time.Millisecond), p50, p99, took[len(took)-1])
	if *onTime && p99 > time.Second {
		t.Errorf("one in a hundred takes more than %s to be in effect", p99)
	}

	for _, c := range customers {
		for j, r := range replicas {
			eventually(t, time.Second, "the last change everywhere", func() bool {
				_, err := c.look(r, fmt.Sprint(j))
				return err == nil && c.seen[fmt.Sprint(j)+" tier"] == each && c.seen[fmt.Sprint(j)+" own"] == each-1
			})
		}
		wantStory(t, url, c, each)
	}
}

// wantStory reads a customer's changes in the audit log: all of them, in order.
func wantStory(t *testing.T, url string, c *customer, n int) {
	t.Helper()
	catalogue := openCatalogue(t, url)
	for _, kind := range []struct{ kind, object, limit string }{{tiers.KindTier, c.tier, "tier"}, {tiers.KindOverride, c.id, ""}} {
		events, err := catalogue.Events(t.Context(), tiers.EventFilter{Kind: kind.kind, Object: kind.object, Most: 2 * n})
		if err != nil || len(events) != n/2+1 {
			t.Fatalf("%s %s: %d events, %v", kind.kind, kind.object, len(events), err)
		}
		var last int64 = -1
		for _, e := range slices.Backward(events) {
			var after struct {
				Max    *int64
				Limits map[string]struct{ Max int64 }
			}
			if err := json.Unmarshal(e.After, &after); err != nil {
				t.Fatal(err)
			}
			now := after.Limits[kind.limit].Max
			if after.Max != nil {
				now = *after.Max
			}
			if now <= last && last != tierlimit.Unlimited {
				t.Fatalf("%s %s: %d after %d", kind.kind, kind.object, now, last)
			}
			last = now
		}
	}
}
