package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

const adminToken = "owner-token-of-the-tests"

// binary is the program as users run it, built once a run.
var binary = sync.OnceValues(func() (string, error) {
	file := filepath.Join(scratch, "tierlimit")
	build := exec.Command("go", "build", "-o", file, "github.com/tierlimit/tierlimit/cmd/tierlimit")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	return file, nil
})

// A replica is one `tierlimit serve`.
type replica struct {
	*testing.T
	public, admin string
	process       *os.Process
	ended         chan error
	log           func() string
}

// loadModeFor keeps the load of the machine that runs the tests out of those that do not
// ask for it.
func loadModeFor(args []string) string {
	for _, arg := range args {
		if arg == "--load-fixed" {
			return "enforce"
		}
	}
	return "off"
}

func startReplica(t *testing.T, redisURL, databaseURL string, args ...string) *replica {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, append([]string{"serve"}, args...)...)
	cmd.Env = append(os.Environ(),
		"TIERLIMIT_LOAD_MODE="+loadModeFor(args),
		"TIERLIMIT_REDIS_URL="+redisURL, "TIERLIMIT_DATABASE_URL="+databaseURL, "TIERLIMIT_ADMIN_TOKEN="+adminToken,
		"TIERLIMIT_ADDR=127.0.0.1:0", "TIERLIMIT_ADMIN_ADDR=127.0.0.1:0",
		"TIERLIMIT_DRAIN=100ms",
		"TIERLIMIT_BUDGET=2s", // these tests ask what is counted, on machines that are busy
	)
	cmd.SysProcAttr = servers.EndWithParent(nil)
	return startServe(t, cmd)
}

// startServe starts a command that runs `tierlimit serve`, and returns once it serves.
func startServe(t *testing.T, cmd *exec.Cmd) *replica {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &replica{T: t, process: cmd.Process, ended: make(chan error, 1)}
	serving := make(chan struct{ Public, Admin string }, 1)
	var mu sync.Mutex
	var lines bytes.Buffer
	r.log = func() string { mu.Lock(); defer mu.Unlock(); return lines.String() }
	go func() {
		for scan := bufio.NewScanner(stderr); scan.Scan(); {
			mu.Lock()
			fmt.Fprintln(&lines, scan.Text())
			mu.Unlock()
			var line struct{ Msg, Public, Admin string }
			if json.Unmarshal(scan.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- struct{ Public, Admin string }{line.Public, line.Admin}
			}
		}
		r.ended <- cmd.Wait()
	}()
	t.Cleanup(func() { _ = r.process.Kill() }) // has ended if the test stopped it
	select {
	case at := <-serving:
		r.public, r.admin = "http://"+at.Public, "http://"+at.Admin
	case err := <-r.ended:
		t.Fatalf("serve ended: %v: %s", err, r.log())
	case <-time.After(time.Minute):
		t.Fatalf("serve did not start: %s", r.log())
	}
	return r
}

func (r *replica) ask(method, url, body string, header ...string) (status int, h http.Header, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

// want asks and fails the test unless the status is as expected.
func (r *replica) want(status int, method, url, body string, header ...string) (http.Header, []byte) {
	r.Helper()
	got, h, answer, err := r.ask(method, url, body, header...)
	if err != nil || got != status {
		r.Fatalf("%s %s: %d, %v, want %d: %s", method, url, got, err, status, answer)
	}
	return h, answer
}

func (r *replica) decide(verb, subject string) (d tierlimit.Decision, err error) {
	status, _, answer, err := r.ask("POST", r.public+"/v1/"+verb, fmt.Sprintf(`{"subject":%q}`, subject))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, answer)
	}
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(answer, &d)
}

func (r *replica) must(verb, subject string) tierlimit.Decision {
	r.Helper()
	d, err := r.decide(verb, subject)
	if err != nil {
		r.Fatal(err)
	}
	return d
}

// storm sends requests through many clients at once, round the replicas, and
// returns how many were allowed.
func storm(t *testing.T, replicas []*replica, clients, requests int, subject string) int64 {
	t.Helper()
	var left, allowed atomic.Int64
	left.Store(int64(requests))
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				d, err := replicas[i%len(replicas)].decide("take", subject)
				fromRedis := d.Source == tierlimit.SourceRedis || !d.Allowed && d.Source == tierlimit.SourceDenyCache
				if err != nil || d.Degraded || !fromRedis {
					t.Errorf("%+v, %v", d, err)
					return
				}
				if d.Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return allowed.Load()
}

func TestTwoReplicasHoldOneSubjectToItsPlan(t *testing.T) {
	database := newDatabase(t)
	replicas := []*replica{
		startReplica(t, redisServer.URL, database),
		startReplica(t, redisServer.URL, database),
	}
	subject := newSubject(t)
	for _, r := range replicas {
		if d := r.must("peek", subject); d.Tier != "free" || d.Windows[0].From != tierlimit.FromDefault {
			t.Fatalf("before: %+v", d)
		}
	}
	replicas[0].want(201, "POST", replicas[0].admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, subject))
	everywhere := func(what string, holds func(tierlimit.Decision) bool) {
		t.Helper()
		for i, r := range replicas {
			eventually(t, time.Second, fmt.Sprintf("%s on replica %d", what, i), func() bool { return holds(r.must("peek", subject)) })
		}
	}
	everywhere("on pro", func(d tierlimit.Decision) bool { return d.Tier == "pro" })

	if n := storm(t, replicas, 1000, 1000, subject); n != 100 {
		t.Fatalf("%d of 1,000 admitted, want exactly 100", n)
	}
	d := replicas[1].must("take", subject)
	if d.Allowed || d.Reason != tierlimit.Exceeded || d.Limit != "per_minute" || d.RetryAfter <= 0 {
		t.Errorf("the next: %+v", d)
	}
	wantInRedis(t, subject, &d)

	h, tier := replicas[1].want(200, "GET", replicas[1].admin+"/admin/v1/tiers/pro", "")
	raised := strings.Replace(string(tier), `"max":100,`, `"max":150,`, 1)
	replicas[1].want(200, "PUT", replicas[1].admin+"/admin/v1/tiers/pro", raised, "If-Match", h.Get("ETag"))
	everywhere("150 a minute", func(d tierlimit.Decision) bool { return d.Windows[0].Max == 150 && d.Allowed })
	if n := storm(t, replicas, 64, 500, subject); n != 50 {
		t.Fatalf("%d more admitted after the max went from 100 to 150, want exactly 50", n)
	}

	replicas[0].want(204, "DELETE", replicas[0].admin+"/admin/v1/subjects/"+subject+"/usage", "")
	// A denial stands for up to a second where it was not reset.
	eventually(t, 1100*time.Millisecond, "allowed again by the other replica", func() bool {
		d = replicas[1].must("take", subject)
		return d.Allowed
	})
	if d.Windows[0].Used != 1 {
		t.Errorf("after a reset through the other replica: %+v", d)
	}
	for _, r := range replicas {
		r.want(200, "GET", r.admin+"/readyz?verbose", "")
		if err := r.process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := <-r.ended; err != nil {
			t.Errorf("after SIGTERM: %v: %s", err, r.log())
		}
	}
}

// wantInRedis compares what an operator sees in Redis with what a client was
// told.
func wantInRedis(t *testing.T, subject string, d *tierlimit.Decision) {
	t.Helper()
	client := newClient(t, redisServer.URL, testBudget)
	key := redisstore.Key(subject)
	ttl := client.PTTL(t.Context(), key).Val()
	shown, err := client.Eval(t.Context(), scripts.Show.Source, []string{key}).StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range d.Windows {
		if !strings.Contains(strings.Join(shown, "\n"), fmt.Sprintf("%s used %d,", w.Limit, w.Used)) {
			t.Errorf("the client was told %d used of %s, Redis has %s", w.Used, w.Limit, shown)
		}
	}
	last := max(d.Windows[0].Reset, d.Windows[1].Reset)
	// A remembered denial reckons from when Redis was asked.
	if ttl > last+time.Second || ttl < last-10*time.Second {
		t.Errorf("the last window ends in %v, the key in %v", last, ttl)
	}
}

func TestLoadScalesByTier(t *testing.T) {
	r := startReplica(t, redisServer.URL, newDatabase(t), "--load-fixed", "0.95")
	free, pro := newSubject(t), newSubject(t)+"-pro"
	r.want(201, "POST", r.admin+"/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, pro))
	eventually(t, time.Minute, "the replicas on this Redis agree on 95 %", func() bool { // some of tests before may have been there
		return r.must("peek", free).Multiplier == 0.1 && r.must("peek", pro).Multiplier == 0.55
	})
	d := r.must("take", free)
	if w := d.Windows[1]; d.Multiplier != 0.1 || w.Max != 5 || w.EffectiveMax != 1 || !d.Allowed {
		t.Errorf("free at 95 %%: %+v", d)
	}
	if d := r.must("take", free); d.Allowed || d.Reason != tierlimit.LoadScaled {
		t.Errorf("the second: %+v", d)
	}
	if d := r.must("take", pro); d.Multiplier != 0.55 || d.Windows[0].EffectiveMax != 55 || d.Windows[0].Max != 100 {
		t.Errorf("pro at 95 %%: %+v", d)
	}
}

func TestWithoutRedisThePolicyAnswers(t *testing.T) {
	own, err := servers.Redis()
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			own.Stop()
		}
	}()
	r := startReplica(t, own.URL, newDatabase(t), "--budget", "100ms")
	if d := r.must("take", "acct_42"); !d.Allowed || d.Degraded {
		t.Fatalf("with Redis: %+v", d)
	}
	own.Stop()
	stopped = true
	allowed := 0
	for range 7 {
		d := r.must("take", "acct_42")
		if !d.Degraded || d.Source != tierlimit.SourceMemory {
			t.Errorf("without Redis: %+v", d)
		}
		if d.Allowed {
			allowed++
		}
	}
	if allowed != 4 { // one was used before
		t.Errorf("local counting admitted %d, want the 4 that were left", allowed)
	}
	r.want(200, "GET", r.public+"/readyz", "")
	r.want(503, "GET", r.public+"/v1/usage/acct_42", "")
	if _, answer := r.want(200, "GET", r.admin+"/readyz?verbose", ""); !strings.Contains(string(answer), "redis: failing") {
		t.Errorf("readyz: %s", answer)
	}
}

// Without Redis the replicas that are alive share each max, and answer in no time.
func TestReplicasShareTheMaxWithoutRedis(t *testing.T) {
	own, err := servers.Redis()
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(own.Stop)
	defer stop()
	url := newDatabase(t)
	replicas := []*replica{startReplica(t, own.URL, url), startReplica(t, own.URL, url)}
	eventually(t, 5*time.Second, "two are alive", func() bool { return strings.Contains(replicas[0].log(), `"msg":"replicas alive","now":2`) })
	a := replicas[0]
	a.want(201, "POST", a.admin+"/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`)
	for _, r := range replicas {
		eventually(t, time.Second, "pro", func() bool { return r.must("peek", "acct_42").Tier == "pro" })
	}
	stop()
	for _, r := range replicas { // until its breaker opens
		for range 10 {
			r.must("peek", "acct_42")
		}
	}
	allowed, began := 0, time.Now()
	for _, r := range replicas {
		for range 60 {
			if d := r.must("take", "acct_42"); d.Allowed {
				allowed++
			}
		}
	}
	if allowed != 100 {
		t.Errorf("two replicas alone admitted %d of 100", allowed)
	}
	t.Logf("120 decisions without Redis in %s", time.Since(began))
	replicas[1].process.Signal(syscall.SIGTERM)
	eventually(t, 5*time.Second, "one is left", func() bool { return strings.Contains(a.log(), `"msg":"replicas alive","now":1`) })
}

func TestServeStartsWithoutRedis(t *testing.T) {
	r := startReplica(t, "redis://127.0.0.1:1", newDatabase(t), "--budget", "100ms")
	if d := r.must("take", "acct_42"); !d.Allowed || !d.Degraded {
		t.Errorf("%+v", d)
	}
	if !strings.Contains(r.log(), "redis cannot be reached") {
		t.Errorf("the operator is not told: %s", r.log())
	}
}

func TestServeRefusesARedisThatRefuses(t *testing.T) {
	admin := newClient(t, redisServer.URL, testBudget)
	user := fmt.Sprintf("reader%d", time.Now().UnixNano())
	if err := admin.Do(t.Context(), "ACL", "SETUSER", user, "on", ">hunter2", "~tl:*", "-@all", "+get", "+ping", "+hello").Err(); err != nil {
		t.Fatal(err)
	}
	defer admin.Do(context.Background(), "ACL", "DELUSER", user)
	for password, want := range map[string]string{"hunter2": "NOPERM", "wrong-one": "WRONGPASS"} {
		out := refusesToStart(t, "--redis-url", "redis://"+user+":"+password+"@"+admin.Options().Addr, "--database-url", newDatabase(t))
		if !strings.Contains(out, "redis refuses") || !strings.Contains(out, want) || strings.Contains(out, password) {
			t.Errorf("%s, want a refusal to start that says %s", out, want)
		}
	}
}
