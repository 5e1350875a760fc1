package listen_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/internal/listen"
)

func TestAListenerMayBeAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := listen.Open(t.Context(), "unix:"+path, 0o660)
	if err != nil {
		t.Fatal(first, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := listen.Open(t.Context(), "unix:"+path, 0o660); err == nil {
		t.Error("taken from somebody who listens")
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // as of a process that was killed
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := listen.Open(t.Context(), "unix:"+path, 0o660)
	if err != nil {
		t.Fatal("a socket that was left behind: ", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen.Open(t.Context(), "unix:"+path, 0o660); err == nil {
		t.Error("a file was replaced")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("%s, %v", text, err)
	}
}

// Regression test: a listener whose backlog was full was taken for one that nobody serves.
func TestASocketThatIsBusyIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen.Open(t.Context(), "unix:"+path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ended, end := context.WithCancel(t.Context())
	end()
	if taken, err := listen.Open(ended, "unix:"+path, 0o660); err == nil {
		_ = taken.Close()
		t.Error("taken, although somebody listens")
	}
}

// serve serves an HTTP server on a listener with the bounds of a pool, and returns its address.
func serve(t *testing.T, most, perAddress int, exempt func(netip.Addr) bool) (address string, log *lockedBuffer) {
	t.Helper()
	log = new(lockedBuffer)
	pool := listen.NewPool(most, perAddress, exempt, slog.New(slog.NewTextHandler(log, nil)))
	l, err := listen.Open(t.Context(), "127.0.0.1:0", 0o660)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }),
		ConnState: pool.ConnState,
	}
	go func() { _ = server.Serve(pool.Listener(l)) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String(), log
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a request on a connection that stays open, and reports whether it was answered.
func ask(c net.Conn) bool {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return false
	}
	var said []byte
	for part := make([]byte, 512); !bytes.Contains(said, []byte("served")); {
		n, err := c.Read(part)
		if err != nil {
			return false
		}
		said = append(said, part[:n]...)
	}
	return true
}

// 520 idle connections once silenced a listener.
func TestIdleConnectionsGiveWayToNewOnes(t *testing.T) {
	address, log := serve(t, 8, 0, nil)
	var idle []net.Conn
	for range 8 {
		c := dial(t, address)
		if !ask(c) {
			t.Fatal("not served")
		}
		idle = append(idle, c)
	}
	for range 4 {
		if !ask(dial(t, address)) {
			t.Fatal("a new connection is not served")
		}
	}
	open := 0
	for _, c := range idle {
		if ask(c) {
			open++
		}
	}
	if open != 4 {
		t.Errorf("%d of 8 idle connections are open, want 4", open)
	}
	if !strings.Contains(log.String(), "connections are scarce") {
		t.Errorf("the log: %s", log)
	}
}

func TestSilentConnectionsGiveWayBeforeIdleOnes(t *testing.T) {
	address, _ := serve(t, 4, 0, nil)
	customer := dial(t, address)
	if !ask(customer) {
		t.Fatal("not served")
	}
	for range 3 {
		dial(t, address) // and says nothing
	}
	time.Sleep(1100 * time.Millisecond) // beyond minSilence
	for range 3 {
		if !ask(dial(t, address)) {
			t.Fatal("a new connection is not served")
		}
	}
	if !ask(customer) {
		t.Error("an idle connection was closed although silent ones were open")
	}
}

// A connection that waits for a place is served once another one is closed.
func TestABusyPoolMakesNewConnectionsWait(t *testing.T) {
	address, _ := serve(t, 1, 0, nil)
	first := dial(t, address)
	if _, err := io.WriteString(first, "GET / HTTP/1.1\r\n"); err != nil { // a request that does not end
		t.Fatal(err)
	}
	served := make(chan bool)
	go func() { served <- ask(dial(t, address)) }()
	select {
	case <-served:
		t.Fatal("served beyond the bound")
	case <-time.After(100 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if !<-served {
		t.Error("not served")
	}
}

// listenBounded returns a listener for two connections, and its pool. The listener is closed with the
// test.
func listenBounded(t *testing.T) (net.Listener, *listen.Pool) {
	t.Helper()
	pool := listen.NewPool(2, 0, nil, slog.New(slog.DiscardHandler))
	l, err := listen.Open(t.Context(), "127.0.0.1:0", 0o660)
	if err != nil {
		t.Fatal(err)
	}
	bounded := pool.Listener(l)
	t.Cleanup(func() { _ = bounded.Close() })
	return bounded, pool
}

// Regression test: a server without ConnState, such as that of gRPC, lost its busiest connections,
// as they were taken for silent ones.
func TestABusyConnectionOfAServerWithoutStatesIsKept(t *testing.T) {
	bounded, _ := listenBounded(t)
	go func() { // echoes
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	echoes := func(c net.Conn) bool {
		_, err := io.WriteString(c, "x")
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err == nil
	}
	busy := dial(t, bounded.Addr().String())
	if !echoes(busy) {
		t.Fatal("no echo")
	}
	dial(t, bounded.Addr().String())   // silent
	time.Sleep(600 * time.Millisecond) // beyond minSilence
	if !echoes(dial(t, bounded.Addr().String())) || !echoes(busy) {
		t.Error("the busy connection was closed, and not the silent one")
	}
}

// Regression test: half of a tunnel could not be closed.
func TestHalfOfAConnectionCanBeClosed(t *testing.T) {
	bounded, pool := listenBounded(t)
	client := dial(t, bounded.Addr().String())
	c, err := bounded.Accept()
	if err != nil {
		t.Fatal(err)
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		t.Fatal("it cannot")
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client reads %v", err)
	}
	if _, err := io.WriteString(client, "x"); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if open, _ := pool.Open(); open != 0 {
		t.Errorf("%d open", open)
	}
}

func TestAnAddressHasABoundOfItsOwn(t *testing.T) {
	address, log := serve(t, 100, 2, nil)
	a, b := dial(t, address), dial(t, address)
	if !ask(a) || !ask(b) {
		t.Fatal("not served")
	}
	if ask(dial(t, address)) {
		t.Error("a third connection of an address was served")
	}
	if !strings.Contains(log.String(), "an address has too many connections") {
		t.Errorf("the log: %s", log)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !ask(dial(t, address)); {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection still counts")
		}
	}
	exempt, _ := serve(t, 100, 2, func(a netip.Addr) bool { return a.IsLoopback() })
	for range 5 {
		if !ask(dial(t, exempt)) {
			t.Error("a gateway was bound")
		}
	}
}

func TestManyConnectionsComeAndGo(t *testing.T) {
	address, _ := serve(t, 4, 0, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				ask(c) // may have been closed early
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	if !ask(dial(t, address)) {
		t.Error("the places were not given back")
	}
}

// pair returns a certificate and its key in PEM.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func TestACertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(file string, text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := listen.LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("files that are not there were accepted")
	}
	cert, key := pair(t, 1)
	write(certFile, cert)
	write(keyFile, key)
	c, err := listen.LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	config := c.Config("h2", "http/1.1")
	serial := func() int64 {
		t.Helper()
		got, err := config.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber.Int64()
	}
	awaitSerial := func(want int64) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); serial() != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("serial %d, want %d", serial(), want)
			}
		}
	}
	cert, key = pair(t, 2)
	write(certFile, cert) // the key of another: the change is half done
	time.Sleep(1100 * time.Millisecond)
	if got := serial(); got != 1 {
		t.Errorf("serial %d while the files do not belong together", got)
	}
	write(keyFile, key)
	awaitSerial(2)
}
