package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit/api"
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

// listeners are the two of dev and serve, open before anything is served.
type listeners struct{ public, admin net.Listener }

func listen(ctx context.Context, s *settings) (l listeners, err error) {
	var lc net.ListenConfig
	if l.public, err = lc.Listen(ctx, "tcp", s.addr); err != nil {
		return l, fmt.Errorf("public listener: %w", err)
	}
	if l.admin, err = lc.Listen(ctx, "tcp", s.adminAddr); err != nil {
		_ = l.public.Close() // nothing was served on it
		return l, fmt.Errorf("admin listener: %w", err)
	}
	return l, nil
}

// close gives up what was opened; what a server closed already is no matter.
func (l listeners) close() {
	_ = l.public.Close()
	_ = l.admin.Close()
}

// serveUntil serves both listeners until ctx ends. Then /readyz says so for as
// long as drain, while requests are still served, and what was accepted
// finishes.
func serveUntil(ctx context.Context, l listeners, cfg api.Config, drain time.Duration) error {
	cfg.Health.Draining = new(atomic.Bool)
	public, err := api.Public(cfg)
	if err != nil {
		return err
	}
	servers := []*http.Server{newServer(public, cfg.Logger), newServer(api.Admin(cfg), cfg.Logger)}
	failed := make(chan error, len(servers))
	for i, listener := range []net.Listener{l.public, l.admin} {
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

func newLogger(s *settings, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.logLevel}
	if s.logJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
