package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/proxy"
)

// Bounds on clients, so that a slow or greedy one cannot hold a connection or
// memory: facts of HTTP servers that face strangers.
const (
	readHeaderTimeout = 2 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 15 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	shutdownTimeout   = 20 * time.Second
)

// listeners are those of dev and serve, open before anything is served.
type listeners struct {
	public, admin net.Listener
	proxy         net.Listener // nil: there is no upstream
}

func listen(ctx context.Context, s *settings) (l listeners, err error) {
	if l.public, err = open(ctx, s.addr); err != nil {
		return l, fmt.Errorf("public listener: %w", err)
	}
	if l.admin, err = open(ctx, s.adminAddr); err != nil {
		_ = l.public.Close() // nothing was served on it
		return l, fmt.Errorf("admin listener: %w", err)
	}
	if s.upstream == nil {
		return l, nil
	}
	if l.proxy, err = open(ctx, s.proxyAddr); err != nil {
		l.close()
		return l, fmt.Errorf("proxy listener: %w", err)
	}
	return l, nil
}

// unixPrefix begins an address that is the path of a socket.
const unixPrefix = "unix:"

// open listens on host:port, or on a unix socket. A socket that nobody listens on any more is
// replaced.
func open(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	path, isUnix := strings.CutPrefix(address, unixPrefix)
	if !isUnix {
		return lc.Listen(ctx, "tcp", address)
	}
	l, err := lc.Listen(ctx, "unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	var d net.Dialer
	if conn, dialled := d.DialContext(ctx, "unix", path); dialled == nil {
		_ = conn.Close() // somebody listens
		return nil, err
	}
	if info, gone := os.Lstat(path); gone != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return lc.Listen(ctx, "unix", path)
}

// close gives up what was opened; what a server closed already is no matter.
func (l listeners) close() {
	_ = l.public.Close()
	_ = l.admin.Close()
	if l.proxy != nil {
		_ = l.proxy.Close()
	}
}

// serveUntil serves both listeners until ctx ends. Then /readyz says so for as
// long as drain, while requests are still served, and what was accepted
// finishes.
func serveUntil(ctx context.Context, l listeners, cfg api.Config, forward http.Handler, drain time.Duration) error {
	cfg.Health.Draining = new(atomic.Bool)
	public, err := api.Public(cfg)
	if err != nil {
		return err
	}
	servers := []*http.Server{newServer(public, cfg.Logger), newServer(api.Admin(cfg), cfg.Logger)}
	opened := []net.Listener{l.public, l.admin}
	if l.proxy != nil {
		servers, opened = append(servers, newProxyServer(forward, cfg.Logger)), append(opened, l.proxy)
	}
	failed := make(chan error, len(servers))
	for i, listener := range opened {
		go func() { failed <- servers[i].Serve(listener) }()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
		cfg.Logger.Info("stopping", "drain", drain.String(), "timeout", shutdownTimeout.String())
		cfg.Health.Draining.Store(true)
		time.Sleep(drain)
	}
	return errors.Join(err, shutDown(servers))
}

// shutDown ends all servers at once, and cuts off what takes too long.
func shutDown(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			if errs[i] = server.Shutdown(ctx); errs[i] != nil {
				errs[i] = errors.Join(errs[i], server.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// newProxyServer returns a server for streams and uploads of any length, over HTTP/1.1 or HTTP/2
// without TLS.
func newProxyServer(h http.Handler, log *slog.Logger) *http.Server {
	s := newServer(h, log)
	s.ReadTimeout, s.WriteTimeout = 0, 0
	s.MaxHeaderBytes = 64 << 10
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// newForward returns the handler of the proxy listener, nil if there is no upstream.
func newForward(s *settings, lim *tierlimit.Limiter, cfg *api.Config) (http.Handler, error) {
	if s.upstream == nil {
		return nil, nil
	}
	return proxy.New(lim, proxy.Config{
		Upstream: s.upstream, CostHeader: s.costHeader, Timeout: s.upstreamTimeout, Logger: cfg.Logger,
		Limit: httplimit.Config{Who: cfg.WhoAsks(), Routes: cfg.Routes, Logger: cfg.Logger},
	})
}

func newLogger(s *settings, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.logLevel}
	if s.logJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
