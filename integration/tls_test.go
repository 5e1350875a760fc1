package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// An authority signs what servers and clients show each other.
type authority struct {
	*testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{T: t}
	a.key, a.cert, a.pem = a.make(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// make signs a certificate with a key of its own, or itself if there is nobody yet.
func (a *authority) make(want *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, []byte) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = want, key
	}
	der, err := x509.CreateCertificate(rand.Reader, want, parent, &key.PublicKey, signer)
	if err != nil {
		a.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issue returns a certificate and its key, both in PEM.
func (a *authority) issue(name string) (cert, key []byte) {
	a.Helper()
	private, _, cert := a.make(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// leastRights is what docs/configuration.md gives the Redis user of the service.
var leastRights = []any{
	"reset", "on", ">hunter2", "~tl:*", "-@all", "+eval", "+evalsha", "+get", "+mget", "+set", "+setrange", "+del", "+hget", "+hgetall", "+hset", "+hdel",
	"+time", "+pttl", "+pexpireat", "+ping", "+hello", "+info", "+cluster|slots", "+asking", "+config|get",
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestARedisWithTLSAndAUserOfFewRights(t *testing.T) {
	a := newAuthority(t)
	m := newMachine(t, 1)
	cert, key := a.issue("redis")
	paths := make([]string, 3)
	for i, file := range [][]byte{cert, key, a.pem} {
		path, err := m.Write(fmt.Sprintf("tls-%d.pem", i), file)
		must(t, err)
		paths[i] = path
	}
	p, err := m.Redis("--tls-port", "PORT", "--port", "0", "--tls-cert-file", paths[0], "--tls-key-file", paths[1], "--tls-ca-cert-file", paths[2], "--tls-auth-clients", "yes")
	must(t, err)

	mine, mineKey := a.issue("tierlimit")
	pair, err := tls.X509KeyPair(mine, mineKey)
	must(t, err)
	secure := &tls.Config{RootCAs: a.pool(), Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1"}
	admin := redis.NewClient(&redis.Options{Addr: p.Addr, TLSConfig: secure})
	defer admin.Close()
	must(t, admin.Do(t.Context(), append([]any{"acl", "setuser", "tierlimit"}, leastRights...)...).Err())

	redisURL := "rediss://tierlimit:hunter2@" + p.Addr
	t.Run("the store does all it does", func(t *testing.T) {
		opts, err := redisstore.Options(redisURL, testBudget)
		must(t, err)
		opts.TLSConfig.RootCAs, opts.TLSConfig.Certificates = secure.RootCAs, secure.Certificates
		client := redis.NewClient(opts)
		defer client.Close()
		everything(t, newStore(t, client))
		for _, forbidden := range [][]any{{"flushall"}, {"config", "set", "maxmemory", "1"}, {"keys", "*"}, {"get", "other"}} {
			if err := client.Do(t.Context(), forbidden...).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
				t.Errorf("%v: %v, want NOPERM", forbidden, err)
			}
		}
	})

	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, data, 0o600))
		return path
	}
	with := []string{"--redis-ca", file("ca.pem", a.pem), "--redis-cert", file("cert.pem", mine), "--redis-key", file("key.pem", mineKey)}
	t.Run("the service does", func(t *testing.T) {
		r := startReplica(t, redisURL, newDatabase(t), with...)
		if d := r.must("take", "acct_42"); !d.Allowed || d.Degraded {
			t.Errorf("%+v", d)
		}
	})
	t.Run("a server of another authority is not trusted", func(t *testing.T) {
		stranger := file("stranger.pem", newAuthority(t).pem)
		r := startReplica(t, redisURL, newDatabase(t), append([]string{"--budget", "1s"}, "--redis-ca", stranger, "--redis-cert", with[3], "--redis-key", with[5])...)
		if d := r.must("take", "acct_42"); !d.Degraded || !strings.Contains(r.log(), "certificate") {
			t.Errorf("%+v: %s", d, r.log())
		}
	})
	t.Run("a file that is none is named", func(t *testing.T) {
		out := refusesToStart(t, "--redis-url", redisURL, "--redis-ca", "nothing.pem")
		if !strings.Contains(out, "TIERLIMIT_REDIS_CA") || !strings.Contains(out, "nothing.pem") {
			t.Errorf("%s", out)
		}
	})
}

// everything calls all that a store can be asked.
func everything(t *testing.T, s *redisstore.Store) {
	t.Helper()
	subject := newSubject(t)
	must(t, s.Ping(t.Context()))
	warnings, err := s.Check(t.Context())
	if err != nil || len(warnings) > 0 {
		t.Errorf("check: %v, %v", warnings, err)
	}
	for range 20 {
		_, err := s.Take(t.Context(), charge(subject, 1, perHour(1000)))
		must(t, err)
	}
	hold := held(t, s, subject, 1, perDay(1000))
	if found, err := s.Renew(t.Context(), tierlimit.Renewal{Subject: subject, ID: hold, For: time.Minute}); err != nil || !found {
		t.Errorf("renew: %v, %v", found, err)
	}
	if list, err := s.Holds(t.Context(), subject); err != nil || len(list) != 1 {
		t.Errorf("holds: %v, %v", list, err)
	}
	if settled, err := s.Settle(t.Context(), tierlimit.Correction{Subject: subject, ID: hold}); err != nil || len(settled.Limits) != 1 {
		t.Errorf("settle: %+v, %v", settled, err)
	}
	must(t, s.Reset(t.Context(), subject, "per_day"))
	must(t, s.Reset(t.Context(), subject))
	must(t, s.Close(t.Context()))
}

// refusesToStart runs serve, which must not come up, and returns what it said. A start on
// a machine so busy that Redis answered too late proves nothing, and is repeated.
func refusesToStart(t *testing.T, args ...string) string {
	t.Helper()
	const starts = 20
	for n := 1; ; n++ {
		out, late := startOnce(t, args...)
		if !late {
			return out
		}
		if n == starts {
			t.Fatalf("Redis answered too late %d times: %s", n, out)
		}
	}
}

// startOnce runs serve until it ends, comes up, or takes Redis for one that is away, and
// reports the last.
func startOnce(t *testing.T, args ...string) (out string, late bool) {
	t.Helper()
	file, err := binary()
	must(t, err)
	ctx, end := context.WithTimeout(t.Context(), 5*time.Minute)
	defer end()
	cmd := exec.CommandContext(ctx, file, append([]string{
		"serve", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--database-url", "postgres://nobody@127.0.0.1:1/none", "--admin-token", adminToken,
	}, args...)...)
	said := &watchedOutput{until: []string{`"msg":"serving"`, "redis cannot be reached"}, seen: end}
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	out = said.String()
	late = strings.Contains(out, "redis cannot be reached")
	if !late && (err == nil || ctx.Err() != nil) {
		t.Errorf("it started: %s", out)
	}
	return out, late
}

// A watchedOutput calls seen when one of the texts has been written.
type watchedOutput struct {
	lockedLog
	until []string
	seen  func()
}

func (w *watchedOutput) Write(p []byte) (int, error) {
	n, err := w.lockedLog.Write(p)
	if slices.ContainsFunc(w.until, func(text string) bool { return strings.Contains(w.String(), text) }) {
		w.seen()
	}
	return n, err
}

func TestAClusterUserOfFewRights(t *testing.T) {
	c := newCluster(t, false)
	for _, p := range c.Masters {
		admin := newClient(t, "redis://"+p.Addr, testBudget)
		must(t, admin.Do(t.Context(), append([]any{"acl", "setuser", "tierlimit"}, leastRights...)...).Err())
	}
	everything(t, clusterStore(t, strings.Replace(c.URL(), "redis://", "redis://tierlimit:hunter2@", 1), testBudget, nil))
}

// A Cluster that refuses was taken for one that is away, and opened up.
func TestAClusterThatRefusesIsNotAway(t *testing.T) {
	c := newCluster(t, false)
	for _, p := range c.Masters {
		admin := newClient(t, "redis://"+p.Addr, testBudget)
		must(t, admin.Do(t.Context(), append([]any{"acl", "setuser", "tierlimit"}, leastRights...)...).Err())
		must(t, admin.Do(t.Context(), append(append([]any{"acl", "setuser", "noslots"}, leastRights...), "-cluster|slots")...).Err())
	}
	for what, user := range map[string]string{"WRONGPASS": "tierlimit:wrong-one", "NOPERM": "noslots:hunter2"} {
		url := strings.Replace(c.URL(), "redis://", "redis://"+user+"@", 1)
		_, err := clusterStore(t, url, testBudget, nil).Take(t.Context(), charge("acct_42", 1, perHour(1)))
		if err == nil || errors.Is(err, tierlimit.ErrStoreUnavailable) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
		out := refusesToStart(t, "--redis-mode", "cluster", "--redis-url", url, "--database-url", newDatabase(t))
		if !strings.Contains(out, "redis refuses") || !strings.Contains(out, what) || strings.Contains(out, "wrong-one") {
			t.Errorf("%s: %s", what, out)
		}
	}
}

// A Cluster that is taken for a single server: whoever has a slot elsewhere is refused,
// and the operator is told at the start.
func TestAClusterThatIsTakenForASingleServerIsWarnedOf(t *testing.T) {
	c := newCluster(t, false)
	s := newStore(t, newClient(t, "redis://"+c.Masters[1].Addr, testBudget))
	warnings, err := s.Check(t.Context())
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "belongs to a Cluster") {
		t.Errorf("%v, %v", warnings, err)
	}
	refused := 0
	for _, subject := range newSubjects(t, 30) {
		_, err := s.Take(t.Context(), charge(subject, 1, perHour(1)))
		if errors.Is(err, tierlimit.ErrStoreUnavailable) {
			t.Errorf("%s: %v is no outage", subject, err)
		} else if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nobody was refused: the test shows nothing")
	}
}

// Sentinels that do not know the master said that a reset was made.
func TestSentinelsThatDoNotKnowTheMasterMakeNoReset(t *testing.T) {
	watch, err := servers.NewSentinel(newMachine(t, 5))
	must(t, err)
	s := sentinelStore(t, strings.Replace(watch.URL(), "master_name="+servers.MasterName, "master_name=nobody", 1), testBudget, nil)
	_, err = s.Take(t.Context(), charge("acct_42", 1, perHour(1)))
	for what, err := range map[string]error{"reset": s.Reset(t.Context(), "acct_42"), "take": err} {
		if err == nil || errors.Is(err, tierlimit.ErrStoreUnavailable) || !strings.Contains(err.Error(), "do not know a master") {
			t.Errorf("%s: %v, want a refusal that says why", what, err)
		}
	}
}

func TestServeRunsOnAClusterAndBehindSentinels(t *testing.T) {
	c := newCluster(t, false)
	watch, err := servers.NewSentinel(newMachine(t, 5))
	must(t, err)
	for mode, redisURL := range map[string]string{"cluster": c.URL(), "sentinel": watch.URL()} {
		t.Run(mode, func(t *testing.T) {
			r := startReplica(t, redisURL, newDatabase(t), "--redis-mode", mode)
			for i := range 9 {
				if d := r.must("take", fmt.Sprint("acct_", i)); !d.Allowed || d.Degraded || d.Source != "redis" {
					t.Errorf("%+v", d)
				}
			}
			if n := storm(t, []*replica{r}, 32, 40, "acct_one"); n != 5 {
				t.Errorf("%d of 5 admitted", n)
			}
			r.want(200, "GET", r.admin+"/readyz?verbose", "")
		})
	}
	for mode, redisURL := range map[string]string{"sentinel": "redis://127.0.0.1:26379", "cluster": "unix:///tmp/redis.sock"} {
		out := refusesToStart(t, "--redis-mode", mode, "--redis-url", redisURL)
		if !strings.Contains(out, "TIERLIMIT_REDIS_URL") || !strings.Contains(out, mode) {
			t.Errorf("%s with %s: %s", mode, redisURL, out)
		}
	}
}
