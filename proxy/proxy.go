// Package proxy is a reverse proxy that holds the clients of an API to their plans, for APIs that
// no middleware is put into.
package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/internal/lograte"
	"github.com/tierlimit/tierlimit/internal/problem"
)

// CostHeader is the default of Config.CostHeader.
const CostHeader = "Tierlimit-Cost"

// Config says what is proxied, and how it is limited.
type Config struct {
	Upstream *url.URL         // the API: http or https, a host, and perhaps a path that is put before each path
	Limit    httplimit.Config // who is asking and what requests cost; its Settle is the proxy's
	// CostHeader is a header of the API's responses: the actual cost of the request, a whole
	// number. The proxy removes the header. Default Tierlimit-Cost. Without the header the charge
	// is kept, or given back if the status is 5xx.
	CostHeader string
	// Timeout is how long the API may take to begin its response; default 60s. A WebSocket or a
	// stream that has begun may take for ever.
	Timeout time.Duration
	// Connections bounds the connections to the API; requests beyond wait. 0: no bound.
	Connections int
	// Transport sends the requests; default one with a pool of connections that suits a proxy.
	Transport http.RoundTripper
	Observe   func(Event)  // told of what went wrong, for metrics; default nobody
	Logger    *slog.Logger // told of errors of the API, once a minute; default slog.Default
}

// An Event is what went wrong with a request.
type Event string

// The events.
const (
	Aborted     Event = "aborted"     // the client hung up before the response began
	Unreachable Event = "unreachable" // the API did not answer: 502
	TooLate     Event = "late"        // the API did not answer in time: 504
	Incomplete  Event = "incomplete"  // the body of the request ended early: 400
)

// New returns a handler that limits requests of any method and forwards the allowed ones. Bodies
// and responses are streamed. Trailers, upgrades (WebSocket) and server-sent events work.
//
// The handler sets X-Forwarded-For, -Host and -Proto. It discards the client's own values unless
// cfg.Limit.Who trusts the client as a proxy. If the API does not answer, the response is 502;
// if the API is late, 504. Both are problem+json.
func New(lim httplimit.Limiter, cfg Config) (http.Handler, error) {
	if cfg.Upstream == nil || cfg.Upstream.Scheme != "http" && cfg.Upstream.Scheme != "https" || cfg.Upstream.Host == "" {
		return nil, &tierlimit.FieldError{Field: "Upstream", Value: textOf(cfg.Upstream), Want: "http:// or https:// and a host"}
	}
	if cfg.CostHeader == "" {
		cfg.CostHeader = CostHeader
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Transport == nil {
		cfg.Transport = newTransport(cfg.Timeout, cfg.Connections)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Event) {}
	}
	p := &proxy{cfg: cfg}
	fromHeader := httplimit.CostHeader(cfg.CostHeader)
	cfg.Limit.Settle = func(r *http.Request, status int, _ http.Header) (int64, map[string]int64) {
		return fromHeader(r, status, exchangeOf(r.Context()).said)
	}
	gate, err := httplimit.NewGate(lim, cfg.Limit)
	if err != nil {
		return nil, err
	}
	limited := gate.Wrap(withPatience(&httputil.ReverseProxy{
		Rewrite: p.rewrite, ModifyResponse: p.modifyResponse, ErrorHandler: p.fail, Transport: cfg.Transport,
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{header: w.Header(), said: make(http.Header)}
		limited.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
	}), nil
}

func textOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}

// newTransport returns a transport for one API: http.DefaultTransport keeps two idle connections
// to a host, and a proxy would open a new one for nearly every request.
func newTransport(timeout time.Duration, connections int) http.RoundTripper {
	const idle = 512
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          idle,
		MaxIdleConnsPerHost:   idle,
		MaxConnsPerHost:       connections,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: timeout,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // the client says what it takes
	}
}

type proxy struct {
	cfg    Config
	failed lograte.Line // requests that the API did not answer
}

// An exchange is what is known of one request and its response.
type exchange struct {
	header http.Header // of the response to the client
	said   http.Header // the cost header of the API's response
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// rewrite makes the request to the API of the client's. ReverseProxy has taken away Forwarded
// and X-Forwarded-*.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	pr.SetURL(p.cfg.Upstream)
	pr.Out.Host = pr.In.Host
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it was sent, also where Go could not read it
	pr.Out.Trailer = pr.In.Trailer           // which gets its values with the end of the body
	if p.cfg.Limit.Who.Address.Trusts(pr.In) {
		for _, name := range [...]string{"X-Forwarded-For", "Forwarded"} {
			if values := pr.In.Header[name]; values != nil {
				pr.Out.Header[name] = values
			}
		}
	} else {
		pr.Out.Header.Del("X-Real-Ip")
	}
	pr.SetXForwarded()
}

func (p *proxy) modifyResponse(resp *http.Response) error {
	x := exchangeOf(resp.Request.Context())
	x.said.Set(p.cfg.CostHeader, resp.Header.Get(p.cfg.CostHeader))
	resp.Header.Del(p.cfg.CostHeader)
	// Of an API that limits too the tightest is shown, not both.
	if d, ok := tierlimit.FromContext(resp.Request.Context()); ok && httplimit.HasHeaders(x.header) {
		switch tighter, theirs := httplimit.Tighter(resp.Header, &d); {
		case tighter:
			httplimit.DeleteHeaders(x.header)
		case theirs:
			httplimit.DeleteHeaders(resp.Header)
		}
	}
	return nil
}

// fail answers for an API that did not.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil { // the client is gone, and nobody hears the answer
		p.cfg.Observe(Aborted)
		panic(http.ErrAbortHandler)
	}
	event, answer := Unreachable, problem.Problem{Status: http.StatusBadGateway, Detail: "The service behind this address does not answer."}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		event, answer.Status, answer.Detail = TooLate, http.StatusGatewayTimeout, "The service behind this address does not answer in time."
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || errors.Is(err, io.ErrUnexpectedEOF) {
		event, answer.Status, answer.Detail = Incomplete, http.StatusBadRequest, "The request ended early."
	}
	p.cfg.Observe(event)
	p.failed.Add(1, func(total int64) {
		p.cfg.Logger.Warn("proxy: the upstream does not answer", "upstream", p.cfg.Upstream.Redacted(), "requests", total, "error", err)
	})
	problem.Write(w, answer)
}
