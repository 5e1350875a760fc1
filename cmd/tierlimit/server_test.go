package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// certificate writes a certificate of localhost and its key to files.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return certFile, keyFile, pool
}

func TestListenersMayHaveTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	public, admin, _, _ := shell{T: t}.dev("--tls-cert", cert, "--tls-key", key, "--admin-tls-cert", cert, "--admin-tls-key", key)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	for _, url := range []string{public, admin} {
		if !strings.HasPrefix(url, "https://") {
			t.Fatalf("printed %s", url)
		}
		resp, err := (&http.Client{Transport: transport}).Get(url + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Proto != "HTTP/2.0" {
			t.Errorf("%s: %s %s", url, resp.Status, resp.Proto)
		}
	}
	for _, args := range [][]string{{"--tls-cert", cert}, {"--tls-cert", cert, "--tls-key", cert}, {"--admin-tls-key", "nothing"}} {
		code, _, errs := shell{T: t}.run(append([]string{"dev", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}, args...)...)
		if code != exitUsage || !strings.Contains(errs, "TLS_CERT") {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
}

func TestAdministratorsMayUseASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin")
	ctx, cancel := context.WithCancel(t.Context())
	var out lockedBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"dev", "--addr", "127.0.0.1:0", "--admin-addr", "unix:" + path}, shell{T: t}.streams(&out, io.Discard))
	}()
	sh := shell{T: t, env: map[string]string{"TIERLIMIT_ADMIN_URL": "unix:" + path}}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if m := banner.FindStringSubmatch(out.String()); m != nil {
			sh.env["TIERLIMIT_TOKEN"] = m[3]
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(out.String())
		}
	}
	if code, said, errs := sh.run("tiers", "list"); code != exitOK || !strings.Contains(said, "enterprise") {
		t.Errorf("%d: %s%s", code, said, errs)
	}
	if code, _, errs := sh.run("tiers", "list", "--admin-url", "unix:"); code != exitUsage || !strings.Contains(errs, "--admin-url") {
		t.Errorf("%d: %s", code, errs)
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Error(code)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestDevServesEnvoy(t *testing.T) {
	address := freeAddress(t)
	shell{T: t}.dev("--grpc-addr", address, "--grpc-entries", "subject=tenant", "--grpc-budget", "10s")
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for i := range 6 {
		answer, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{
			Domain:      "api",
			Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: "acct_42"}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := ratelimitv3.RateLimitResponse_OK
		if i == 5 {
			want = ratelimitv3.RateLimitResponse_OVER_LIMIT
		}
		if answer.GetOverallCode() != want {
			t.Errorf("request %d: %v", i+1, answer)
		}
	}
	for _, v := range []string{"subject", "subject=", "tenant=subject", "subject=a,scope=a"} {
		if code, _, errs := (shell{T: t}).run("dev", "--grpc-entries", v); code != exitUsage || !strings.Contains(errs, "--grpc-entries") {
			t.Errorf("%s: %d %s", v, code, errs)
		}
	}
}

// A page in a browser on the same machine could ask dev, which asks for no token.
func TestDevAnswersToLocalNamesAndNoForms(t *testing.T) {
	public, admin, _, _ := shell{T: t}.dev()
	do := func(url, host string, header ...string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/take", strings.NewReader(`{"subject":"acct_42"}`))
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "localhost:8080": 200, "api.localhost": 200, "[::1]:8080": 200, "192.168.1.7": 200, "tierlimit": 200, "host.docker.internal": 200,
		"rebound.example.com": 421, "127.0.0.1.example.com:8080": 421, "localhost.example.com": 421,
	} {
		if got := do(public, host); got != want {
			t.Errorf("Host %q: %d, want %d", host, got, want)
		}
	}
	if got := do(admin, "rebound.example.com"); got != 421 {
		t.Errorf("admin: %d", got)
	}
	for _, c := range []struct {
		header []string
		want   int
	}{
		{[]string{"Content-Type", "text/plain"}, 415},
		{[]string{"Content-Type", "text/plain; charset=utf-8"}, 415},
		{[]string{"Content-Type", "text/plain;a=1;a=2"}, 415},
		{[]string{"Content-Type", "application/json"}, 200},
		{[]string{"Content-Type", "application/x-www-form-urlencoded"}, 200}, // as curl -d sends
		{[]string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "https://example.com"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		if got := do(public, "", c.header...); got != c.want {
			t.Errorf("%v: %d, want %d", c.header, got, c.want)
		}
	}
}

// Regression test: a gateway passes on the Host and the media type of its client.
func TestDevAnswersGatewaysAboutAnyHost(t *testing.T) {
	public, _, _, _ := shell{T: t}.dev()
	for _, path := range []string{"/v1/check", "/v1/check/nginx", "/v1/check/envoy/x", "/livez"} {
		method := http.MethodPost
		if path == "/livez" {
			method = http.MethodGet
		}
		req, err := http.NewRequestWithContext(t.Context(), method, public+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "app.example.com"
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Origin", "https://app.example.com")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// Regression test: requests that were denied, and whose bodies did not come, held their connections
// for ever, and so silenced all listeners.
func TestBodiesThatDoNotComeHoldNoConnection(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "served")
	}))
	t.Cleanup(upstream.Close)
	proxy := freeAddress(t)
	public, _, _, _ := shell{T: t}.dev("--upstream", upstream.URL, "--proxy-addr", proxy, "--connections", "8")
	for range 5 { // the limit
		if got := status(t, "http://"+proxy+"/"); got != http.StatusOK {
			t.Fatal(got)
		}
	}
	for range 8 {
		c, err := net.Dial("tcp", proxy)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	if got := status(t, public+"/livez"); got != http.StatusOK {
		t.Errorf("the public listener: %d", got)
	}
	if got := status(t, "http://"+proxy+"/"); got != http.StatusTooManyRequests {
		t.Errorf("the proxy: %d", got)
	}
}

func TestIdleConnectionsLeaveRoomForOthers(t *testing.T) {
	public, admin, _, _ := shell{T: t}.dev("--connections", "20")
	address := strings.TrimPrefix(public, "http://")
	for range 40 { // each stays open
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	if got := status(t, admin+"/livez"); got != 200 {
		t.Errorf("the admin listener: %d", got)
	}
	if got := status(t, public+"/livez"); got != 200 {
		t.Errorf("the public listener: %d", got)
	}
	if code, _, errs := (shell{T: t}).run("dev", "--connections", "0"); code != exitUsage || !strings.Contains(errs, "--connections") {
		t.Errorf("%d %s", code, errs)
	}
}
