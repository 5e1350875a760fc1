package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
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

// serveUntil serves both listeners until ctx ends, then lets what was accepted
// finish.
func serveUntil(ctx context.Context, l listeners, cfg api.Config) error {
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
		cfg.Logger.Info("stopping: finishing what was accepted", "timeout", shutdownTimeout)
	}
	cfg.Health.Draining.Store(true)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	for _, server := range servers {
		err = errors.Join(err, server.Shutdown(ending))
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
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
