package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api/envoy"
	"github.com/tierlimit/tierlimit/events"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/httplimit/routefile"
	"github.com/tierlimit/tierlimit/internal/listen"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/proxy"
	"github.com/tierlimit/tierlimit/replica"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// settings is the configuration of dev and serve, read.
type settings struct {
	addr, adminAddr            string
	redisURL, redisMode        string
	redisCA                    string
	redisCert, redisKey        string
	databaseURL                string
	databaseOption             option
	migrate                    string
	adminTokens, serviceTokens []string
	adminOption, serviceOption option
	dataFile                   string
	who                        httplimit.Who
	upstream                   *url.URL // nil: nothing is proxied
	proxyAddr, costHeader      string
	upstreamTimeout            time.Duration
	guard                      bool
	grpcAddr, grpcClientCA     string // grpcAddr "": gRPC is off
	entries                    envoy.Entries
	grpcBudget, checkBudget    time.Duration
	legacy                     httplimit.LegacyHeaders
	tls, adminTLS              tlsFiles
	socketMode                 os.FileMode
	connections                int // 0: as many as descriptors allow
	connectionsPerAddress      int // 0: no bound
	routesFile                 string
	routes                     *httplimit.Routes // of routesFile, once read
	budget, drain              time.Duration
	startTimeout               time.Duration
	auditRetention             time.Duration // 0: for ever
	historyRetention           time.Duration
	loadMode                   load.Mode
	loadMeter                  load.Meter // nil: measure
	loadSources                load.Sources
	logLevel                   slog.Level
	logJSON, accessLog         bool
	traceEndpoint              *url.URL // nil: no spans
	traceRatio                 float64
	webhooks                   events.Delivery
}

// common are the options that dev and serve share.
func (s *settings) common(addr, adminAddr, proxyAddr, logFormat string, loadMode load.Mode, loadSources string) options {
	s.tls.setting, s.adminTLS.setting = "TIERLIMIT_TLS", "TIERLIMIT_ADMIN_TLS"
	return options{
		{
			name: "upstream", usage: "the API that the proxy listener forwards to",
			want: "http:// or https:// and a host, such as http://127.0.0.1:3000", parse: s.parseUpstream,
		},
		{
			name: "proxy-addr", usage: "proxy listener, if there is an upstream", fallback: proxyAddr,
			want: "host:port, such as :8000, or unix: and the path of a socket", parse: address(&s.proxyAddr),
		},
		{
			name: "guard", usage: "have the proxy answer 503 to the lowest tiers while this process, or the API behind it, is saturated", fallback: "off",
			want: "on or off", parse: func(v string) error { s.guard = v == "on"; return oneOf("on", "off")(v) },
		},
		{
			name: "cost-header", usage: "where the upstream's responses say what a request really cost", fallback: proxy.CostHeader,
			want: "the name of a header", parse: func(v string) error { s.costHeader = v; return checkHeader(v) },
		},
		{
			name: "upstream-timeout", usage: "how long the upstream may take to begin its response", fallback: "60s",
			want: "a duration from 100ms to 1h", parse: duration(&s.upstreamTimeout, 100*time.Millisecond, time.Hour),
		},
		{
			name: "addr", usage: "public listener", fallback: addr,
			want: "host:port, such as :8080, or unix: and the path of a socket", parse: address(&s.addr),
		},
		{
			name: "admin-addr", usage: "admin listener", fallback: adminAddr,
			want: "host:port, such as 127.0.0.1:8081, or unix: and the path of a socket", parse: address(&s.adminAddr),
		},
		{
			name: "grpc-addr", usage: "gRPC listener for Envoy; off if it is left out",
			want: "host:port, such as :8082, or unix: and the path of a socket", parse: address(&s.grpcAddr),
		},
		{
			name: "grpc-budget", usage: "longest a decision over gRPC may take, at most the budget; " + envoy.DefaultBudget.String() + " if it is left out, as Envoy waits 20ms by default",
			want: "a duration from 1ms to 10s, such as 15ms", parse: duration(&s.grpcBudget, time.Millisecond, 10*time.Second),
		},
		{
			name: "grpc-entries", usage: "names of the descriptor entries that say who is asking and what for",
			want: "some of subject=, api_key=, address=, scope= and cost= with a name each, between commas, such as subject=tenant,scope=route", parse: s.parseEntries,
		},
		{
			name: "grpc-client-ca", usage: "who signs the certificates that gRPC clients must show",
			want: "a file of certificates in PEM", parse: fileName(&s.grpcClientCA),
		},
		{
			name: "check-budget", usage: "longest a decision for a gateway may take, at most the budget; the budget if it is left out",
			want: "a duration from 1ms to 10s, such as 50ms", parse: duration(&s.checkBudget, time.Millisecond, 10*time.Second),
		},
		{
			name: "legacy-headers", usage: "send X-RateLimit-* to clients: beside RateLimit (epoch, delta) or in its place (epoch-only, delta-only)",
			want: "epoch, delta, epoch-only or delta-only", parse: s.parseLegacy,
		},
		{
			name: "tls-cert", usage: "certificate of the public, proxy and gRPC listeners; read again when it changes",
			want: "a file of a certificate in PEM", parse: fileName(&s.tls.cert),
		},
		{
			name: "tls-key", usage: "the key of that certificate",
			want: "a file of a key in PEM", parse: fileName(&s.tls.key),
		},
		{
			name: "admin-tls-cert", usage: "certificate of the admin listener",
			want: "a file of a certificate in PEM", parse: fileName(&s.adminTLS.cert),
		},
		{
			name: "admin-tls-key", usage: "the key of that certificate",
			want: "a file of a key in PEM", parse: fileName(&s.adminTLS.key),
		},
		{
			name: "socket-mode", usage: "permissions of listeners that are unix sockets", fallback: "0660",
			want: "an octal number, such as 0660 or 0666", parse: s.parseSocketMode,
		},
		{
			name: "connections", usage: "most open connections of clients; as many as open files allow, and at most 10000, if it is left out",
			want: "a whole number from 1 to 1000000", parse: wholeNumber(&s.connections, 1, 1_000_000),
		},
		{
			name: "connections-per-address", usage: "most open connections of one address that is not a trusted proxy; no bound if it is left out",
			want: "a whole number from 1 to 1000000", parse: wholeNumber(&s.connectionsPerAddress, 1, 1_000_000),
		},
		{
			name: "trusted-proxies", usage: "whose X-Forwarded-For, subject header and subject claim are believed",
			want: "addresses or prefixes between commas, such as 10.0.0.0/8,192.0.2.1, without bits behind the prefix; unix is whoever comes by a unix socket", parse: s.parseProxies,
		},
		{
			name: "address-header", usage: "where trusted proxies write the client's address", fallback: httplimit.ForwardedFor,
			want: "the name of a header, such as X-Forwarded-For, Forwarded or CF-Connecting-IP", parse: s.parseAddressHeader,
		},
		{
			name: "key-headers", usage: "where API keys stand", fallback: "X-Api-Key,Authorization",
			want: "names of headers between commas", parse: s.parseKeyHeaders,
		},
		{
			name: "subject-header", usage: "where trusted proxies write the subject",
			want: "the name of a header", parse: s.parseSubjectHeader,
		},
		{
			name: "subject-claim", usage: "the claim of a bearer JWT that names the subject; trusted proxies must have verified the token",
			want: "the name of a claim, such as sub", parse: func(v string) error { s.who.Claim = v; return nil },
		},
		{
			name: "routes", usage: "file that says what requests cost",
			want: "a YAML file of routes", parse: fileName(&s.routesFile),
		},
		{
			name: "load-mode", usage: "what load does to adaptive limits", fallback: string(loadMode),
			want: "off, observe or enforce", parse: s.parseLoadMode,
		},
		{
			name: "load-sources", usage: "whose CPU is the load: own is that of this process' container or machine, * that of all who report", fallback: loadSources,
			want: load.SourcesRule, parse: s.parseLoadSources,
		},
		{
			name: "load-fixed", usage: "pretend this CPU utilisation instead of measuring it, and have it count",
			want: "a number from 0 to 1, such as 0.95", parse: s.parseLoadFixed,
		},
		{
			name: "access-log", usage: "log every HTTP request", fallback: "off",
			want: "on or off", parse: func(v string) error { s.accessLog = v == "on"; return oneOf("on", "off")(v) },
		},
		{
			name: "trace-endpoint", usage: "the OpenTelemetry collector that spans are sent to, by OTLP over HTTP; none are made if it is left out",
			want: "http:// or https:// and a host, such as http://127.0.0.1:4318", parse: s.parseTraceEndpoint,
		},
		{
			name: "trace-ratio", usage: "the part of requests that spans are made of, unless a client's traceparent says so", fallback: "0.01",
			want: "a number from 0 to 1, such as 0.01", parse: s.parseTraceRatio,
		},
		{
			name: "log-level", usage: "what is logged", fallback: "info",
			want: "debug, info, warn or error", parse: func(v string) error { return s.logLevel.UnmarshalText([]byte(v)) },
		},
		{
			name: "log-format", usage: "how it is logged", fallback: logFormat,
			want: "json or text", parse: s.parseLogFormat,
		},
	}
}

// messages are the options of sending messages to webhooks.
func (s *settings) messages(allow string) options {
	return options{
		{
			name: "webhook-allow", usage: "addresses that are not public and that webhooks may have, also without TLS", fallback: allow,
			want: "addresses or prefixes between commas, such as 10.1.0.0/16,192.0.2.1, without bits behind the prefix", parse: s.parseWebhookAllow,
		},
		{
			name: "webhook-retry", usage: "the wait after the first failed attempt to send a message; each later wait is four times as long, and at most 12h", fallback: events.DefaultRetry.String(),
			want: "a duration from 1ms to 1h", parse: duration(&s.webhooks.Retry, time.Millisecond, time.Hour),
		},
	}
}

// escapes names the characters of a password that a URL must escape (RFC 3986, 3.2.1).
const escapes = "in a user or password, % is written %25, @ %40, / %2F, # %23 and ? %3F"

func (s *settings) serve() options {
	return append(options{
		{
			name: "redis-url", usage: "the Redis that counts", fallback: "redis://127.0.0.1:6379/0", secret: true,
			want: "redis://, rediss:// or unix:// and an address, such as redis://user:password@host:6379/0; " + escapes, parse: s.parseRedisURL,
		},
		{
			name: "redis-mode", usage: "how Redis is run", fallback: string(replica.Single),
			want: "single, sentinel or cluster", parse: s.parseRedisMode,
		},
		{
			name: "redis-ca", usage: "who signs the Redis servers' certificates, for rediss://",
			want: "a file of certificates in PEM", parse: fileName(&s.redisCA),
		},
		{
			name: "redis-cert", usage: "the certificate to show to Redis, for rediss://",
			want: "a file of a certificate in PEM", parse: fileName(&s.redisCert),
		},
		{
			name: "redis-key", usage: "the key of that certificate",
			want: "a file of a key in PEM", parse: fileName(&s.redisKey),
		},
		s.database(),
		s.adminTokenOption(),
		s.serviceTokenOption(),
		{
			name: "budget", usage: "longest a decision may take", fallback: tierlimit.DefaultBudget.String(),
			want: "a duration from 1ms to 10s, such as 50ms", parse: duration(&s.budget, time.Millisecond, 10*time.Second),
		},
		{
			name: "drain", usage: "how long /readyz says that the process stops before it does", fallback: "3s",
			want: "a duration from 0s to 60s", parse: duration(&s.drain, 0, time.Minute),
		},
		{
			name: "migrate", usage: "what to do about a database that is not of this release: bring it there, refuse to start, or nothing", fallback: string(replica.MigrateAuto),
			want: "auto, check or off", parse: s.parseMigrate,
		},
		{
			name: "start-timeout", usage: "how long a Postgres that is not there yet is waited for", fallback: "30s",
			want: "a duration from 0s to 10m", parse: duration(&s.startTimeout, 0, 10*time.Minute),
		},
		{
			name: "history-retention", usage: "how long the usage of windows that have ended is kept", fallback: pgtiers.DefaultHistory.String(),
			want: "a duration of 24h or more, such as 2160h", parse: duration(&s.historyRetention, 24*time.Hour, 100*365*24*time.Hour),
		},
		{
			name: "audit-retention", usage: "delete events of the audit log that are older; for ever if it is left out",
			want: "a duration of 24h or more, such as 8760h", parse: duration(&s.auditRetention, 24*time.Hour, 100*365*24*time.Hour),
		},
	}, append(s.messages(""), s.common(":8080", "127.0.0.1:8081", ":8000", "json", load.Observe, "*")...)...)
}

func (s *settings) database() *option {
	s.databaseOption = option{
		name: "database-url", usage: "the Postgres that holds tiers and subjects", secret: true, required: true,
		want: "postgres:// and an address, such as postgres://user:password@host:5432/tierlimit; " + escapes, parse: s.parseDatabaseURL,
	}
	return &s.databaseOption
}

func (s *settings) dev() options {
	return append(options{
		{
			name: "data", usage: "file that keeps tiers and subjects across restarts; it begins with the built-in tiers",
			want: "a file name", parse: fileName(&s.dataFile),
		},
		{
			name: "admin-token", usage: "bearer token of the admin listener; a new one is made if none is given", secret: true,
			want: tokensWanted, parse: tokens(&s.adminTokens),
		},
	}, append(s.messages("127.0.0.0/8,::1"), s.common("127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8000", "text", "", "own,*")...)...)
}

// devLoadMode is dev's when none is given: whoever tries a limit on a machine
// that is busy building wants to see the limit, and whoever pretends a load
// wants to see that.
func (s *settings) devLoadMode() load.Mode {
	switch {
	case s.loadMode != "":
		return s.loadMode
	case s.loadMeter != nil:
		return load.Enforce
	default:
		return load.Observe
	}
}

var errInvalid = errors.New("invalid")

func check(ok bool) error {
	if !ok {
		return errInvalid
	}
	return nil
}

func oneOf(allowed ...string) func(string) error {
	return func(v string) error { return check(slices.Contains(allowed, v)) }
}

// fileName refuses what is a file's text rather than its name.
func fileName(into *string) func(string) error {
	return func(v string) error {
		*into = v
		return check(!strings.ContainsAny(v, "\r\n\x00"))
	}
}

// serverURL reads a URL of a server.
func serverURL(v string, schemes ...string) error {
	u, err := url.Parse(v)
	return errors.Join(err, check(err == nil && slices.Contains(schemes, u.Scheme) && whole(u, v)))
}

// whole reports whether a URL is what it looks like. Where a password has a character
// that ends the part of a URL it stands in, the rest would be taken for something else,
// and shown.
func whole(u *url.URL, text string) bool {
	return !strings.Contains(text, "#") && !strings.Contains(u.Path, "@") && !strings.Contains(u.Host, "@")
}

// maxSocketPath is the longest path of a unix socket on Linux, in bytes.
const maxSocketPath = 107

func address(into *string) func(string) error {
	return func(v string) error {
		if path, isUnix := strings.CutPrefix(v, listen.UnixPrefix); isUnix {
			*into = v
			return check(path != "" && len(path) <= maxSocketPath)
		}
		_, port, err := net.SplitHostPort(v)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(port)
		*into = v
		return check(err == nil && n >= 0 && n <= 65535)
	}
}

// tokensWanted describes a valid token setting. During a rotation the setting has two
// tokens, the old and the new one.
const tokensWanted = "a token of 16 to 256 characters, or two with a space between while one is rotated"

func (s *settings) adminTokenOption() *option {
	s.adminOption = option{
		name: "admin-token", usage: "bearer token that opens everything", secret: true, required: true,
		want: tokensWanted, parse: tokens(&s.adminTokens),
	}
	return &s.adminOption
}

func (s *settings) serviceTokenOption() *option {
	s.serviceOption = option{
		name: "service-token", usage: "bearer token for applications that ask for decisions", secret: true,
		want: tokensWanted, parse: tokens(&s.serviceTokens),
	}
	return &s.serviceOption
}

// checkTokens returns an error if owners and services share a token.
func checkTokens(owners, services []string) error {
	for _, token := range services {
		if slices.Contains(owners, token) {
			return &tierlimit.FieldError{Field: "TIERLIMIT_SERVICE_TOKEN", Want: "another than TIERLIMIT_ADMIN_TOKEN: applications are no owners"}
		}
	}
	return nil
}

// tokens returns a parser for one or two tokens.
func tokens(into *[]string) func(string) error {
	return func(v string) error {
		list := strings.Fields(v)
		for _, one := range list {
			var kept string
			if err := token(&kept)(one); err != nil {
				return err
			}
		}
		*into = list
		return check(len(list) >= 1 && len(list) <= 2)
	}
}

func token(into *string) func(string) error {
	return func(v string) error {
		*into = v
		return check(len(v) >= 16 && len(v) <= 256 && !strings.ContainsAny(v, " \t\r\n"))
	}
}

func (s *settings) parseProxies(v string) error {
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		if part == "unix" {
			s.who.Address.TrustUnix = true
			continue
		}
		prefix, err := parsePrefix(part)
		if err != nil {
			return err
		}
		s.who.Address.Trusted = append(s.who.Address.Trusted, prefix)
	}
	return s.who.Address.Validate()
}

// parsePrefix reads an address or a prefix.
func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return prefix, err
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix != prefix.Masked() || prefix.Addr().Is4In6() {
		return prefix, errInvalid // which of the two is meant is not known
	}
	return prefix, nil
}

func (s *settings) parseWebhookAllow(v string) error {
	s.webhooks.Allow = nil
	for part := range strings.SplitSeq(v, ",") {
		prefix, err := parsePrefix(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		s.webhooks.Allow = append(s.webhooks.Allow, prefix)
	}
	return nil
}

func (s *settings) parseAddressHeader(v string) error {
	s.who.Address.Header = v
	return s.who.Address.Validate()
}

func (s *settings) parseKeyHeaders(v string) error {
	s.who.KeyHeaders = nil
	for name := range strings.SplitSeq(v, ",") {
		s.who.KeyHeaders = append(s.who.KeyHeaders, strings.TrimSpace(name))
	}
	return (&httplimit.Who{KeyHeaders: s.who.KeyHeaders}).Validate()
}

func (s *settings) parseSubjectHeader(v string) error {
	s.who.Header = v
	return checkHeader(v) // whether somebody is trusted is checked later
}

func checkHeader(name string) error {
	return (&httplimit.Who{KeyHeaders: []string{name}}).Validate()
}

func (s *settings) parseUpstream(v string) (err error) {
	if s.upstream, err = url.Parse(v); err != nil {
		return err
	}
	port, err := strconv.Atoi(cmp.Or(s.upstream.Port(), "80"))
	return errors.Join(err, check((s.upstream.Scheme == "http" || s.upstream.Scheme == "https") && s.upstream.Hostname() != "" &&
		s.upstream.User == nil && s.upstream.RawQuery == "" && !strings.Contains(v, "#") && port >= 1 && port <= 65535))
}

// parseEntries reads names of descriptor entries, such as "subject=tenant,scope=route".
func (s *settings) parseEntries(v string) error {
	into := map[string]*string{
		"subject": &s.entries.Subject, "api_key": &s.entries.APIKey, "address": &s.entries.Address,
		"scope": &s.entries.Scope, "cost": &s.entries.Cost,
	}
	for part := range strings.SplitSeq(v, ",") {
		meaning, name, _ := strings.Cut(strings.TrimSpace(part), "=")
		if into[meaning] == nil || name == "" {
			return errInvalid
		}
		if *into[meaning] != "" {
			return errInvalid
		}
		*into[meaning] = name
	}
	return s.entries.Validate()
}

func (s *settings) parseSocketMode(v string) error {
	n, err := strconv.ParseUint(v, 8, 32)
	s.socketMode = os.FileMode(n)
	return errors.Join(err, check(n <= 0o777))
}

func (s *settings) parseLegacy(v string) error {
	s.legacy = httplimit.LegacyHeaders(v)
	return check(s.legacy.Valid())
}

func wholeNumber(into *int, least, most int) func(string) error {
	return func(v string) (err error) {
		*into, err = strconv.Atoi(v)
		return errors.Join(err, check(*into >= least && *into <= most))
	}
}

// budgets fills in the budgets of gateways. They are at most the budget of all decisions, because
// calls to Redis take no longer than that.
func (s *settings) budgets() error {
	most := cmp.Or(s.budget, 10*time.Second) // dev has no Redis
	for _, b := range []struct {
		budget   *time.Duration
		setting  string
		fallback time.Duration
	}{
		{&s.checkBudget, "TIERLIMIT_CHECK_BUDGET", cmp.Or(s.budget, tierlimit.DefaultBudget)},
		{&s.grpcBudget, "TIERLIMIT_GRPC_BUDGET", min(envoy.DefaultBudget, most)},
	} {
		if *b.budget == 0 {
			*b.budget = b.fallback
		}
		if *b.budget > most {
			return &tierlimit.FieldError{Field: b.setting, Value: b.budget.String(), Want: "at most TIERLIMIT_BUDGET, " + most.String()}
		}
	}
	return nil
}

// addresses returns an error if two listeners have the same address.
func (s *settings) addresses() error {
	taken := make(map[string]string)
	for _, l := range []struct{ setting, address string }{
		{"TIERLIMIT_ADDR", s.addr}, {"TIERLIMIT_ADMIN_ADDR", s.adminAddr}, {"TIERLIMIT_PROXY_ADDR", s.proxyAddr}, {"TIERLIMIT_GRPC_ADDR", s.grpcAddr},
	} {
		unused := l.address == "" || strings.HasSuffix(l.address, ":0") || l.setting == "TIERLIMIT_PROXY_ADDR" && s.upstream == nil
		if other := taken[l.address]; !unused && other != "" {
			return &tierlimit.FieldError{Field: l.setting, Value: l.address, Want: "another address than " + other}
		}
		if !unused {
			taken[l.address] = l.setting
		}
	}
	return nil
}

// requests reads the file of routes, and returns an error if options contradict each other.
func (s *settings) requests() error {
	if err := s.who.Validate(); err != nil && s.who.Header != "" && len(s.who.Address.Trusted) > 0 {
		return &tierlimit.FieldError{Field: "TIERLIMIT_SUBJECT_HEADER", Value: s.who.Header, Want: "a header of its own, which says nothing else"}
	}
	if (s.who.Header != "" || s.who.Claim != "") && len(s.who.Address.Trusted) == 0 && !s.who.Address.TrustUnix {
		return &tierlimit.FieldError{Field: "TIERLIMIT_TRUSTED_PROXIES", Want: "given: whose TIERLIMIT_SUBJECT_HEADER or TIERLIMIT_SUBJECT_CLAIM is believed"}
	}
	if err := s.budgets(); err != nil {
		return err
	}
	if err := s.addresses(); err != nil {
		return err
	}
	if s.grpcClientCA != "" && s.tls.cert == "" {
		return &tierlimit.FieldError{Field: "TIERLIMIT_TLS_CERT", Want: "given, as TIERLIMIT_GRPC_CLIENT_CA is"}
	}
	if s.routesFile == "" {
		return nil
	}
	var err error
	if s.routes, err = routefile.Load(s.routesFile); err != nil {
		return fmt.Errorf("TIERLIMIT_ROUTES: %w", err)
	}
	return nil
}

func (s *settings) parseLoadMode(v string) error {
	s.loadMode = load.Mode(v)
	return oneOf(string(load.Off), string(load.Observe), string(load.Enforce))(v)
}

func (s *settings) parseLoadSources(v string) (err error) {
	s.loadSources, err = load.ParseSources(v)
	return err
}

func (s *settings) parseLoadFixed(v string) error {
	u, err := strconv.ParseFloat(v, 64)
	s.loadMeter, s.loadSources.Own = load.Fixed(u), true
	return check(err == nil && u >= 0 && u <= 1)
}

func (s *settings) parseTraceRatio(v string) (err error) {
	s.traceRatio, err = strconv.ParseFloat(v, 64)
	return errors.Join(err, check(s.traceRatio >= 0 && s.traceRatio <= 1))
}

func (s *settings) parseLogFormat(v string) error {
	s.logJSON = v == "json"
	return oneOf("json", "text")(v)
}

func duration(into *time.Duration, least, most time.Duration) func(string) error {
	return func(v string) (err error) {
		*into, err = time.ParseDuration(v)
		return errors.Join(err, check(*into >= least && *into <= most))
	}
}

func (s *settings) parseRedisURL(v string) error {
	s.redisURL = v
	return serverURL(v, "redis", "rediss", "unix")
}

func (s *settings) parseRedisMode(v string) error {
	s.redisMode = v
	return oneOf(string(replica.Single), string(replica.Sentinel), string(replica.Cluster))(v)
}

func (s *settings) parseMigrate(v string) error {
	s.migrate = v
	return oneOf(string(replica.MigrateAuto), string(replica.MigrateCheck), string(replica.MigrateOff))(v)
}

func (s *settings) parseDatabaseURL(v string) error {
	s.databaseURL = v
	return serverURL(v, "postgres", "postgresql")
}
