package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/api/envoy"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/internal/listen"
	"github.com/tierlimit/tierlimit/load/guard"
	"github.com/tierlimit/tierlimit/observe/prom"
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
	proxyStreams      = 100 // requests at a time of one HTTP/2 connection
	shutdownTimeout   = 20 * time.Second
)

// listeners are those of dev and serve. They are open before anything is served.
type listeners struct {
	public, admin net.Listener
	proxy         net.Listener // nil: there is no upstream
	grpc          net.Listener // nil: gRPC is off

	pools               map[string]*listen.Pool // by the name of the listener
	secure, secureAdmin *tls.Config             // nil: no TLS
}

// listen opens the listeners that set configures, or takes over those that systemd has opened
// under the same name.
func (s *settings) listen(ctx context.Context, log *slog.Logger) (l *listeners, err error) {
	l = &listeners{pools: map[string]*listen.Pool{
		adminListener: listen.NewPool(adminConnections, 0, nil, log),
	}}
	for _, name := range []string{publicListener, proxyListener, grpcListener} {
		l.pools[name] = listen.NewPool(s.mostConnections(), s.connectionsPerAddress, s.isGateway, log)
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.secure, err = s.tls.config(log); err != nil {
		return l, usage(err)
	}
	if l.secureAdmin, err = s.adminTLS.config(log); err != nil {
		return l, usage(err)
	}
	passedOn, err := activation.ListenersWithNames()
	if err != nil {
		return l, fmt.Errorf("sockets of systemd: %w", err)
	}
	type wantedListener struct {
		name, setting, address string
		into                   *net.Listener
	}
	wanted := []wantedListener{{publicListener, "TIERLIMIT_ADDR", s.addr, &l.public}, {adminListener, "TIERLIMIT_ADMIN_ADDR", s.adminAddr, &l.admin}}
	if s.upstream != nil {
		wanted = append(wanted, wantedListener{proxyListener, "TIERLIMIT_PROXY_ADDR", s.proxyAddr, &l.proxy})
	}
	if s.grpcAddr != "" {
		wanted = append(wanted, wantedListener{grpcListener, "TIERLIMIT_GRPC_ADDR", s.grpcAddr, &l.grpc})
	}
	for _, w := range wanted {
		var opened net.Listener
		if given := passedOn[w.name]; len(given) == 1 {
			opened = given[0]
			delete(passedOn, w.name)
		} else if opened, err = listen.Open(ctx, w.address, s.socketMode); err != nil {
			return l, fmt.Errorf("%s listener (%s): %w", w.name, w.setting, err)
		}
		*w.into = l.pools[w.name].Listener(opened)
	}
	for name, unused := range passedOn { // a client would wait for ever
		log.Warn("systemd passes a socket on that is not served", "name", name, "sockets", len(unused))
		for _, one := range unused {
			if one != nil {
				_ = one.Close()
			}
		}
	}
	return l, nil
}

// The names of the listeners, also for sockets that systemd passes on.
const (
	publicListener = "public"
	adminListener  = "admin"
	proxyListener  = "proxy"
	grpcListener   = "grpc"
)

const (
	// adminConnections bounds the connections of the admin listener, which has a reserve of its
	// own.
	adminConnections = 128
	// otherDescriptors are left for Redis, Postgres, files and the admin listener.
	otherDescriptors = adminConnections + 128
	// defaultConnections is the default bound where descriptors are plenty.
	defaultConnections = 10_000
)

// mostConnections returns the bound on the connections of each listener for clients. Each has its
// own, so that clients of one cannot silence another. By default the bound follows from the files
// that the process may have open; each connection of the proxy may need a second one.
func (s *settings) mostConnections() int {
	if s.connections > 0 {
		return s.connections
	}
	shares := 1
	if s.upstream != nil {
		shares += 2
	}
	if s.grpcAddr != "" {
		shares++
	}
	return min(max((listen.Descriptors()-otherDescriptors)/shares, 16), defaultConnections)
}

// isGateway reports whether addr is a trusted proxy or this machine: many clients come from there.
func (s *settings) isGateway(addr netip.Addr) bool {
	return addr.IsLoopback() || s.who.Address.Trusts(&http.Request{RemoteAddr: netip.AddrPortFrom(addr, 0).String()})
}

// tlsFiles names the files of a certificate and its key. The zero tlsFiles is no TLS.
type tlsFiles struct {
	setting   string // the name of the setting of cert, without _CERT
	cert, key string
}

// config returns a TLS configuration whose certificate is read again when the files change, nil
// for no TLS.
func (f *tlsFiles) config(log *slog.Logger) (*tls.Config, error) {
	if f.cert == "" && f.key == "" {
		return nil, nil
	}
	certificate, err := listen.LoadCertificate(f.cert, f.key, log)
	if err != nil {
		return nil, fmt.Errorf("%s_CERT %q and %s_KEY %q: must be files that can be read, of a certificate in PEM and of its key: %w", f.setting, f.cert, f.setting, f.key, err)
	}
	return certificate.Config("h2", "http/1.1"), nil
}

// withTLS returns l with TLS if config is not nil.
func withTLS(l net.Listener, config *tls.Config) net.Listener {
	if config == nil {
		return l
	}
	return tls.NewListener(l, config)
}

// close closes the listeners. A server may have closed them already.
func (l *listeners) close() {
	for _, one := range []net.Listener{l.public, l.admin, l.proxy, l.grpc} {
		if one != nil {
			_ = one.Close()
		}
	}
}

// A server serves one listener.
type server interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
}

// serveUntil serves all listeners until ctx ends. Then /readyz reports that the process stops
// for as long as set.drain, while requests are still served, and requests under way finish.
func serveUntil(ctx context.Context, set *settings, l *listeners, m *metrics, spans *tracing, cfg api.Config) error {
	m.addLoad(cfg.Load)
	m.addListeners(l)
	cfg.Metrics = m.handler()
	cfg.Health.Draining = new(atomic.Bool)
	cfg.CheckBudget, cfg.Legacy = set.checkBudget, set.legacy
	public, err := api.Public(cfg)
	if err != nil {
		return err
	}
	admin, pages, err := withConsole(public, api.Admin(cfg), m, &cfg)
	if err != nil {
		return err
	}
	defer pages.Close()
	if cfg.Open { // dev
		public, admin = onlyLocal(public), onlyLocal(admin)
	}
	seen := func(listener string, h http.Handler) http.Handler {
		return requestWatch{listener: listener, metrics: m, spans: spans, access: set.accessLog, log: cfg.Logger}.wrap(h)
	}
	servers := map[server]net.Listener{
		newServer(seen(publicListener, public), l.pools[publicListener], cfg.Logger): withTLS(l.public, l.secure),
		newServer(seen(adminListener, admin), l.pools[adminListener], cfg.Logger):    withTLS(l.admin, l.secureAdmin),
	}
	addresses := []any{"version", version(), "public", l.public.Addr().String(), "admin", l.admin.Addr().String()}
	if l.proxy != nil {
		forward, err := newForward(set, m, &cfg)
		if err != nil {
			return err
		}
		servers[newProxyServer(seen(proxyListener, forward), l.pools[proxyListener], cfg.Logger)] = withTLS(l.proxy, l.secure)
		addresses = append(addresses, "proxy", l.proxy.Addr().String(), "upstream", set.upstream.String())
	}
	var forEnvoy *envoy.Server
	if l.grpc != nil {
		if forEnvoy, err = newEnvoy(set, l, spans, &cfg); err != nil {
			return err
		}
		servers[forEnvoy] = l.grpc
		addresses = append(addresses, "grpc", l.grpc.Addr().String())
	}
	failed := make(chan error, len(servers))
	for s, listener := range servers {
		go func() { failed <- s.Serve(listener) }()
	}
	cfg.Logger.Info("serving", addresses...)
	notify(daemon.SdNotifyReady, cfg.Logger)
	select {
	case err = <-failed:
	case <-ctx.Done():
		cfg.Logger.Info("stopping", "drain", set.drain.String(), "timeout", shutdownTimeout.String())
		notify(daemon.SdNotifyStopping, cfg.Logger)
		cfg.Health.Draining.Store(true)
		if forEnvoy != nil {
			forEnvoy.Drain()
		}
		time.Sleep(set.drain)
	}
	return errors.Join(err, shutDown(servers))
}

// notify tells systemd the state of the service, if systemd asked for it.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told the state of the service", "error", err)
	}
}

// shutDown ends all servers at once. What takes longer than shutdownTimeout is cut off.
func shutDown(servers map[server]net.Listener) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for s := range servers {
		wg.Go(func() {
			err := s.Shutdown(ctx)
			if h, ok := s.(*http.Server); ok && err != nil {
				err = errors.Join(err, h.Close())
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func newServer(h http.Handler, pool *listen.Pool, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ConnState:         pool.ConnState,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// newProxyServer returns a server for streams and uploads of any length, over HTTP/1.1 or HTTP/2,
// with or without TLS.
func newProxyServer(h http.Handler, pool *listen.Pool, log *slog.Logger) *http.Server {
	s := newServer(h, pool, log)
	s.WriteTimeout = 0 // the proxy lifts ReadTimeout for requests that pass
	s.MaxHeaderBytes = 64 << 10
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: proxyStreams}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// newForward returns the handler of the proxy listener.
func newForward(s *settings, m *metrics, cfg *api.Config) (http.Handler, error) {
	limit := s.limits(cfg)
	if s.guard {
		limit.Guard = guard.New(guard.Config{})
		m.registry.MustRegister(prom.NewGuard(limit.Guard))
	}
	return proxy.New(cfg.Limiter, proxy.Config{
		Upstream: s.upstream, CostHeader: s.costHeader, Timeout: s.upstreamTimeout, Logger: cfg.Logger,
		Observe:     func(e proxy.Event) { m.proxied.WithLabelValues(string(e)).Inc() },
		Connections: s.mostConnections(), Limit: limit,
	})
}

// limits returns how requests of clients are limited.
func (s *settings) limits(cfg *api.Config) httplimit.Config {
	return httplimit.Config{Who: cfg.WhoAsks(), Routes: cfg.Routes, Legacy: s.legacy, Logger: cfg.Logger}
}

// newEnvoy returns the gRPC server.
func newEnvoy(s *settings, l *listeners, spans *tracing, cfg *api.Config) (*envoy.Server, error) {
	lim, err := cfg.Limiter.WithBudget(s.grpcBudget)
	if err != nil {
		return nil, err
	}
	var options []grpc.ServerOption
	if spans != nil {
		options = append(options, grpc.ChainUnaryInterceptor(spans.unary))
	}
	if l.secure != nil {
		secure := l.secure.Clone()
		secure.NextProtos = []string{"h2"}
		if s.grpcClientCA != "" {
			if secure.ClientCAs, err = readAuthorities("TIERLIMIT_GRPC_CLIENT_CA", s.grpcClientCA); err != nil {
				return nil, usage(err)
			}
			secure.ClientAuth = tls.RequireAndVerifyClientCert
		}
		options = append(options, grpc.Creds(credentials.NewTLS(secure)))
	}
	return envoy.NewServer(lim, envoy.Config{Entries: s.entries, Limit: s.limits(cfg), Logger: cfg.Logger}, options...)
}

func newLogger(s *settings, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.logLevel}
	if s.logJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
