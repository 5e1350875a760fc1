package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

var madeUp = flag.Int("madeup", 60_000, "how many subjects are made up")

// Names that somebody made up take a bounded part of memory, and nobody's counter.
func TestMadeUpSubjectsLeaveMemoryBoundedAndCustomersAlone(t *testing.T) {
	const callers = 256
	row := record(t, "made-up subjects", "memory stays bounded, and a customer's counter stays")
	url := newDatabase(t)
	catalogue, cache := openCatalogue(t, url), follow(t, url)
	_, err := edit(catalogue).CreateSubject(t.Context(), tiers.Subject{ID: "acct_real", Tier: "pro"})
	must(t, err)
	client := newClient(t, redisServer.URL, 2*time.Second)
	ledger := durable.New(newStore(t, client), catalogue, durable.Config{Known: cache.Known})
	defer ledger.Close(context.Background())
	lim, err := tierlimit.New(tierlimit.Config{
		Store: ledger, Tiers: cache, Budget: 2 * time.Second, Local: memstore.New(memstore.Config{}),
	})
	must(t, err)
	customer, name := tierlimit.Request{Subject: "acct_real"}, newSubject(t)
	must(t, lim.Reset(t.Context(), customer.Subject))
	for range 7 {
		_, err := lim.Take(t.Context(), customer)
		must(t, err)
	}
	flood := func(from, to int) {
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				for i := from + caller; i < to; i += callers {
					if d, _ := lim.Take(context.Background(), tierlimit.Request{Subject: fmt.Sprint(name, i)}); !d.Allowed {
						t.Errorf("%+v", d)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	n := *madeUp
	flood(0, n/2)
	half := heap()
	flood(n/2, n)
	whole := heap()
	row.tell("a heap of %d MB after %d names, of %d MB after %d", half>>20, n/2, whole>>20, n)
	if whole > 256<<20 || whole > half+half/2+(16<<20) {
		t.Errorf("%d names take %d bytes, %d took %d", n, whole, n/2, half)
	}
	d, err := lim.Take(t.Context(), customer)
	must(t, err)
	if d.Tier != "pro" || d.Windows[1].Used != 8 {
		t.Errorf("after the flood: %+v", d)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // finalizers of the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Clients that are slow on purpose are hung up on, and hold up nobody.
func TestSlowClientsAreHungUpOnAndHoldUpNobody(t *testing.T) {
	r := startReplica(t, redisServer.URL, newDatabase(t))
	addr := strings.TrimPrefix(r.public, "http://")
	const many = 200
	hungUp := make(chan time.Duration, many)
	for i := range many {
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		defer conn.Close()
		began := time.Now()
		fmt.Fprintf(conn, "POST /v1/take HTTP/1.1\r\nHost: x\r\nX-Slow-%d: ", i) // and no more
		go func() {
			_ = conn.SetReadDeadline(began.Add(busyMachine))
			_, err := conn.Read(make([]byte, 1))
			if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
				hungUp <- time.Hour
				return
			}
			hungUp <- time.Since(began)
		}()
	}
	for range 50 {
		if d := r.must("take", "acct_42"); d.Degraded {
			t.Errorf("%+v", d)
		}
	}
	for range many {
		if took := <-hungUp; *onTime && took > 10*time.Second || took == time.Hour {
			t.Fatalf("a client that sends no headers was kept for %v", took)
		}
	}
	head := "POST /v1/take HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + adminToken + "\r\n"
	for what, request := range map[string]string{
		"headers of 64 KiB": head + "X-Long: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"a body of 1 MiB":   head + "Content-Length: 1048576\r\n\r\n" + strings.Repeat(" ", 1<<20),
	} {
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		go func() { _, _ = conn.Write([]byte(request)) }() // which may be cut off
		answer := make([]byte, 64)
		n, _ := conn.Read(answer)
		conn.Close()
		if !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 4") {
			t.Errorf("%s: %q", what, answer[:n])
		}
	}
}

// Whatever is wrong with a token: the answer is the same.
func TestAllThatIsWrongWithATokenIsAnsweredAlike(t *testing.T) {
	s := newSite(t)
	past := time.Now().Add(-time.Minute)
	expired := access.Credential{Kind: access.Token, Name: "expired", Role: access.Owner, ExpiresAt: &past}.WithSecret()
	if _, err := edit(s.catalogue).CreateCredential(t.Context(), expired); err != nil {
		t.Logf("an expired token cannot be made: %v", err)
	}
	revoked := s.credential(access.Token, access.Owner)
	must(t, edit(s.catalogue).DeleteCredential(t.Context(), access.Token, revoked.ID, revoked.Version))
	key := s.credential(access.Key, "")
	other := s.credential(access.Token, access.Owner)
	id, _, _ := strings.Cut(strings.TrimPrefix(other.Secret, "tl_token_"), "_")
	want := ""
	for what, header := range map[string]string{
		"none": "", "another scheme": "Basic " + adminToken, "nonsense": "Bearer nonsense", "expired": "Bearer " + expired.Secret,
		"revoked": "Bearer " + revoked.Secret, "a customer's key": "Bearer " + key.Secret, "the id of another": "Bearer tl_token_" + id + "_aaaaaaaaaaaaaaaaaaaaaaaaaa",
		"one that was never there": "Bearer tl_token_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaa", "cut short": "Bearer " + adminToken[:len(adminToken)-1],
	} {
		w := s.serve(s.admin, "GET", "/admin/v1/tiers", "", "Authorization", header)
		got := fmt.Sprint(w.Code, w.Header(), w.Body)
		if want == "" {
			want = got
		}
		if w.Code != http.StatusUnauthorized || got != want {
			t.Errorf("%s: %s, others: %s", what, got, want)
		}
	}
}

// Secrets are in no log, at the finest level, whatever goes wrong.
func TestSecretsAreInNoLog(t *testing.T) {
	file, err := binary()
	must(t, err)
	admin := newClient(t, redisServer.URL, testBudget)
	must(t, admin.Do(t.Context(), "ACL", "SETUSER", "logged", "on", ">redis-secret-4711", "~tl:*", "+@all").Err())
	defer admin.Do(context.Background(), "ACL", "DELUSER", "logged")
	database := newDatabase(t)
	must(t, execute(t.Context(), database, `DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'logged') THEN CREATE ROLE logged LOGIN SUPERUSER PASSWORD 'postgres-secret-4711'; END IF;
	END $$`))
	to, err := url.Parse(database)
	must(t, err)
	between := newProxy(t, admin)
	secrets := []string{"redis-secret-4711", "postgres-secret-4711", adminToken, "service-secret-4711", "guessed-secret-4711"}
	to.User = url.UserPassword("logged", "postgres-secret-4711")
	r, err := rig.StartReplica(file, "--redis-url", "redis://logged:redis-secret-4711@"+between.Addr, "--database-url", to.String(),
		"--admin-token", adminToken, "--service-token", "service-secret-4711", "--log-level", "debug")
	must(t, err)
	defer r.Kill()
	ask := func(method, url, token, body string) string {
		_, answer := askAs(t, method, url, token, body)
		return answer
	}
	ask("POST", r.Admin+"/admin/v1/subjects", adminToken, `{"id":"acct_42","tier":"pro"}`)
	for _, path := range []string{"/admin/v1/keys", "/admin/v1/tokens"} {
		made := ask("POST", r.Admin+path, adminToken, map[string]string{
			"/admin/v1/keys": `{"name":"k","subject":"acct_42"}`, "/admin/v1/tokens": `{"name":"t","role":"owner"}`,
		}[path])
		_, secret, _ := strings.Cut(made, `"secret":"`)
		secret, _, ok := strings.Cut(secret, `"`)
		if !ok {
			t.Fatalf("no secret in %s", made)
		}
		secrets = append(secrets, secret)
		ask("POST", r.Public+"/v1/take", secret, `{"subject":"acct_42"}`)
		ask("GET", r.Admin+"/admin/v1/tiers?token="+secret, secret, "")
		ask("POST", r.Admin+"/admin/v1/tokens", secret, `{"name":`)
	}
	ask("POST", r.Public+"/v1/take", "guessed-secret-4711", `{"subject":"acct_42"}`)
	ask("POST", r.Public+"/v1/take", "service-secret-4711", `{"subject":"acct_42"}`)
	between.Refuse(true)
	for range 10 {
		ask("POST", r.Public+"/v1/take", "service-secret-4711", `{"subject":"acct_42"}`)
	}
	ask("GET", r.Admin+"/readyz?verbose", adminToken, "")
	must(t, admin.Do(t.Context(), "ACL", "SETUSER", "logged", "resetpass", ">other").Err())
	between.Refuse(false)
	time.Sleep(500 * time.Millisecond) // until its breaker lets one try
	for range 10 {
		ask("POST", r.Public+"/v1/take", "service-secret-4711", `{"subject":"acct_42"}`)
	}
	answer := ask("GET", r.Admin+"/readyz?verbose", adminToken, "")
	must(t, r.Terminate())
	if !strings.Contains(r.Log(), "cannot be reached") || !strings.Contains(r.Log(), "WRONGPASS") {
		t.Errorf("nothing went wrong: the test shows nothing: %s", r.Log())
	}
	for _, secret := range secrets {
		if strings.Contains(r.Log(), secret) || strings.Contains(answer, secret) {
			t.Errorf("%q is in the log: %s", secret, r.Log())
		}
	}
}

func askAs(t *testing.T, method, url, token, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(text)
}
