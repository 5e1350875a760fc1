package envoy_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api/envoy"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// newLimiter returns a limiter with 3 requests a day in all and 2 in the scope search. Subjects
// that begin with "open" or "closed" are on tiers with these failure policies.
func newLimiter(t *testing.T, store tierlimit.Store) *tierlimit.Limiter {
	t.Helper()
	day := tierlimit.Window{Period: tierlimit.Day}
	tier := func(key string, policy tierlimit.Policy, limits ...tierlimit.Limit) tiers.Tier {
		made := tiers.Tier{Key: key, Name: key, Default: key == "small", OnStoreError: policy, Limits: make(map[string]tiers.Limit)}
		for _, l := range limits {
			made.Limits[l.Name] = tiers.Limit{Max: l.Max, Window: l.Window, Scope: l.Scope}
		}
		return made
	}
	all := []tierlimit.Limit{{Name: "per_day", Max: 3, Window: day}, {Name: "search", Max: 2, Window: tierlimit.Window{Length: time.Minute}, Scope: "search"}}
	resolver, err := tiers.Static([]tiers.Tier{
		tier("small", tierlimit.Local, all...),
		tier("open", tierlimit.Open, all...),
		tier("closed", tierlimit.Closed, all...),
		{Key: "plain", Name: "plain", Denials: tierlimit.DenialsPlain, Limits: tiers.Limits{"per_minute": {Max: 3, Window: tierlimit.Window{Length: time.Minute}}}},
		tier("odd", tierlimit.Local, tierlimit.Limit{Name: "odd", Max: 5e9, Window: tierlimit.Window{Length: 90 * time.Second}}),
	}, func(subject string) string {
		name, _, _ := strings.Cut(subject, "_")
		if name == "open" || name == "closed" || name == "odd" || name == "plain" {
			return name
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: resolver, Budget: envoy.DefaultBudget})
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

type client struct {
	*testing.T
	ratelimitv3.RateLimitServiceClient
	authv3.AuthorizationClient
	conn *grpc.ClientConn
}

func keys(_ context.Context, key string) (string, error) {
	switch key {
	case "key-of-42":
		return "acct_42", nil
	case "broken":
		return "", errors.New("the catalogue is away")
	}
	return "", nil
}

func serve(t *testing.T, store tierlimit.Store, cfg envoy.Config) *client {
	t.Helper()
	cfg.Logger, cfg.Limit.Who.Keys = slog.New(slog.DiscardHandler), keys
	// No clock runs between a test and its answer: a busy machine is no lost store.
	lim, err := newLimiter(t, store).WithBudget(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	server, err := envoy.NewServer(lim, cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, server)
	return &client{t, ratelimitv3.NewRateLimitServiceClient(conn), authv3.NewAuthorizationClient(conn), conn}
}

// connect serves server and returns a connection to it. Both end with the test.
func connect(t *testing.T, server *envoy.Server) *grpc.ClientConn {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// descriptor returns a descriptor of pairs of key and value.
func descriptor(pairs ...string) *ratelimitcommonv3.RateLimitDescriptor {
	d := new(ratelimitcommonv3.RateLimitDescriptor)
	for i := 0; i < len(pairs); i += 2 {
		d.Entries = append(d.Entries, &ratelimitcommonv3.RateLimitDescriptor_Entry{Key: pairs[i], Value: pairs[i+1]})
	}
	return d
}

func (c *client) ask(hits uint32, descriptors ...*ratelimitcommonv3.RateLimitDescriptor) *ratelimitv3.RateLimitResponse {
	c.Helper()
	answer, err := c.ShouldRateLimit(c.Context(), &ratelimitv3.RateLimitRequest{Domain: "api", Descriptors: descriptors, HitsAddend: hits})
	if err != nil {
		c.Fatal(err)
	}
	if len(answer.GetStatuses()) != len(descriptors) {
		c.Fatalf("%d statuses for %d descriptors", len(answer.GetStatuses()), len(descriptors))
	}
	return answer
}

func (c *client) refused(code codes.Code, word string, req *ratelimitv3.RateLimitRequest) {
	c.Helper()
	_, err := c.ShouldRateLimit(c.Context(), req)
	if status.Code(err) != code || !strings.Contains(err.Error(), word) {
		c.Errorf("%v, want %v with %q", err, code, word)
	}
}

func headerOf(answer *ratelimitv3.RateLimitResponse, name string) string {
	for _, h := range answer.GetResponseHeadersToAdd() {
		if strings.EqualFold(h.GetKey(), name) {
			return h.GetValue()
		}
	}
	return ""
}

const (
	okay = ratelimitv3.RateLimitResponse_OK
	over = ratelimitv3.RateLimitResponse_OVER_LIMIT
)

func TestADescriptorIsHeldToThePlan(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	for i := range 4 {
		answer := c.ask(0, descriptor("subject", "acct_7"))
		s := answer.GetStatuses()[0]
		want, left := okay, uint32(2-i)
		if i == 3 {
			want, left = over, 0
		}
		if answer.GetOverallCode() != want || s.GetCode() != want || s.GetLimitRemaining() != left || s.GetDurationUntilReset().AsDuration() <= 0 {
			t.Errorf("request %d: %v", i+1, answer)
		}
		if l := s.GetCurrentLimit(); l.GetName() != "per_day" || l.GetRequestsPerUnit() != 3 || l.GetUnit() != ratelimitv3.RateLimitResponse_RateLimit_DAY {
			t.Errorf("the limit: %v", l)
		}
		if !strings.Contains(headerOf(answer, "RateLimit"), `"per_day";r=`) || (headerOf(answer, "Retry-After") != "") != (want == over) {
			t.Errorf("headers: %v", answer.GetResponseHeadersToAdd())
		}
	}
}

func TestHitsSayTheCost(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	own := func(hits uint64, pairs ...string) *ratelimitcommonv3.RateLimitDescriptor {
		d := descriptor(pairs...)
		d.HitsAddend = wrapperspb.UInt64(hits)
		return d
	}
	for _, step := range []struct {
		hits uint32
		d    *ratelimitcommonv3.RateLimitDescriptor
		code ratelimitv3.RateLimitResponse_Code
		left uint32
	}{
		{0, own(0, "subject", "a"), okay, 3}, // a present 0 is a peek
		{0, descriptor("subject", "a"), okay, 2},
		{2, own(0, "subject", "a"), okay, 2},
		{2, descriptor("subject", "a"), okay, 0},
		{0, own(0, "subject", "a"), over, 0}, // a request would be denied
		{0, own(1, "subject", "a"), over, 0},
		{0, descriptor("subject", "b", "cost", "2"), okay, 1},
		{1, descriptor("subject", "b", "cost", "2"), okay, 0},
		{0, own(4, "subject", "c", "cost", "1"), over, 3},
	} {
		s := c.ask(step.hits, step.d).GetStatuses()[0]
		if s.GetCode() != step.code || s.GetLimitRemaining() != step.left {
			t.Errorf("%d %v: %v, want %v and %d", step.hits, step.d, s, step.code, step.left)
		}
	}
}

func TestDescriptorsAreDecidedEachByItself(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	for range 2 {
		c.ask(0, descriptor("subject", "a", "scope", "search"))
	}
	answer := c.ask(0, descriptor("subject", "b"), descriptor("subject", "a", "scope", "search"), descriptor("remote_address", "203.0.113.7"))
	got := []ratelimitv3.RateLimitResponse_Code{answer.GetStatuses()[0].GetCode(), answer.GetStatuses()[1].GetCode(), answer.GetStatuses()[2].GetCode()}
	if got[0] != okay || got[1] != over || got[2] != okay || answer.GetOverallCode() != over {
		t.Errorf("%v", answer)
	}
	if !strings.Contains(headerOf(answer, "RateLimit"), `"search";r=0`) {
		t.Errorf("not the tightest is shown: %v", answer.GetResponseHeadersToAdd())
	}
	if l := answer.GetStatuses()[1].GetCurrentLimit(); l.GetUnit() != ratelimitv3.RateLimitResponse_RateLimit_MINUTE || l.GetRequestsPerUnit() != 2 {
		t.Errorf("%v", l)
	}
}

func TestWhoIsAskingIsADescriptorsEntry(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	left := func(pairs ...string) uint32 {
		t.Helper()
		return c.ask(0, descriptor(pairs...)).GetStatuses()[0].GetLimitRemaining()
	}
	for _, step := range []struct {
		pairs []string
		left  uint32
	}{
		{[]string{"api_key", "key-of-42", "remote_address", "203.0.113.1"}, 2},
		{[]string{"subject", "acct_42"}, 1},
		{[]string{"api_key", "Bearer key-of-42"}, 0},
		{[]string{"api_key", "made-up", "remote_address", "203.0.113.1"}, 2}, // charged by its address
		{[]string{"remote_address", "203.0.113.1:4711"}, 1},
		{[]string{"subject", "ip:203.0.113.1"}, 0},
		{[]string{"remote_address", "2001:db8::1"}, 2},
		{[]string{"remote_address", "2001:db8::2"}, 1},
		{[]string{"api_key", "made-up"}, 2}, // all made-up keys share limits
		{[]string{"api_key", "another"}, 1},
		{[]string{"generic_key", "x", "subject", "acct_50"}, 2},
	} {
		if got := left(step.pairs...); got != step.left {
			t.Errorf("%v: %d left, want %d", step.pairs, got, step.left)
		}
	}
	named := serve(t, memstore.New(memstore.Config{}), envoy.Config{Entries: envoy.Entries{Subject: "tenant", Scope: "route"}})
	for range 2 {
		named.ask(0, descriptor("tenant", "a", "route", "search"))
	}
	if answer := named.ask(0, descriptor("tenant", "a", "route", "search")); answer.GetOverallCode() != over {
		t.Errorf("%v", answer)
	}
}

func TestARequestThatCannotBeUnderstoodIsAnError(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	request := func(descriptors ...*ratelimitcommonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
		return &ratelimitv3.RateLimitRequest{Domain: "api", Descriptors: descriptors}
	}
	negative := descriptor("subject", "a")
	negative.IsNegativeHits = true
	huge := descriptor("subject", "a")
	huge.HitsAddend = wrapperspb.UInt64(math.MaxUint64)
	for word, req := range map[string]*ratelimitv3.RateLimitRequest{
		"domain":                        {Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{descriptor("subject", "a")}},
		"descriptors":                   request(),
		"who is asking":                 request(descriptor("generic_key", "x")),
		"descriptors[1].is_negative":    request(descriptor("subject", "a"), negative),
		"hits_addend":                   request(huge),
		"descriptors[0].cost":           request(descriptor("subject", "a", "cost", "many")),
		"descriptors[0].scope":          request(descriptor("subject", "a", "scope", "not a name")),
		"descriptors[0].remote_address": request(descriptor("remote_address", "somewhere")),
	} {
		c.refused(codes.InvalidArgument, word, req)
	}
	c.refused(codes.Unavailable, "who is asking", request(descriptor("api_key", "broken")))
	if left := c.ask(0, descriptor("subject", "a")).GetStatuses()[0].GetLimitRemaining(); left != 2 {
		t.Errorf("%d left: a refused request was charged", left)
	}
}

// away is a store that cannot be reached.
type away struct{ *memstore.Store }

func (away) Take(context.Context, tierlimit.Charge) (tierlimit.Outcome, error) {
	return tierlimit.Outcome{}, tierlimit.ErrStoreUnavailable
}

func TestTheFailurePolicyAnswersEnvoy(t *testing.T) {
	c := serve(t, away{memstore.New(memstore.Config{})}, envoy.Config{})
	if answer := c.ask(0, descriptor("subject", "open_1")); answer.GetOverallCode() != okay {
		t.Errorf("open: %v", answer)
	}
	if answer := c.ask(0, descriptor("subject", "closed_1")); answer.GetOverallCode() != over || headerOf(answer, "Retry-After") == "" {
		t.Errorf("closed: %v", answer)
	}
}

func TestAPlainDenialShowsEnvoyNoUsage(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	for range 3 {
		c.ask(0, descriptor("subject", "plain_1"))
	}
	for _, answer := range []*ratelimitv3.RateLimitResponse{
		c.ask(0, descriptor("subject", "plain_1")),
		c.ask(0, descriptor("subject", "a"), descriptor("subject", "plain_1")),
		c.ask(0, descriptor("subject", "plain_1"), descriptor("subject", "a")),
	} {
		if headerOf(answer, "RateLimit") != "" || headerOf(answer, "RateLimit-Policy") != "" || headerOf(answer, "Retry-After") == "" {
			t.Errorf("headers: %v", answer.GetResponseHeadersToAdd())
		}
		for _, s := range answer.GetStatuses() {
			if s.GetCode() == over && (s.GetCurrentLimit() != nil || s.GetLimitRemaining() != 0) {
				t.Errorf("%v", s)
			}
		}
	}
}

// One descriptor that is malformed must not leave another one charged.
func TestAMalformedDescriptorLeavesTheOthersUncharged(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	for _, bad := range []*ratelimitcommonv3.RateLimitDescriptor{
		descriptor("subject", strings.Repeat("x", 300)), descriptor("subject", "b", "scope", "No Name"), descriptor("subject", "b", "cost", "-1"),
	} {
		c.refused(codes.InvalidArgument, "descriptors[1]", &ratelimitv3.RateLimitRequest{
			Domain: "api", Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{descriptor("subject", "first"), bad},
		})
	}
	if left := c.ask(0, descriptor("subject", "first")).GetStatuses()[0].GetLimitRemaining(); left != 2 {
		t.Errorf("%d left", left)
	}
}

// A client of the health service keeps a stream open.
func TestAnOpenStreamDoesNotHoldUpTheEnd(t *testing.T) {
	server, err := envoy.NewServer(newLimiter(t, memstore.New(memstore.Config{})), envoy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, server)
	watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestAWindowOrMaxThatTheProtocolCannotSay(t *testing.T) {
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{})
	s := c.ask(0, descriptor("subject", "odd_1")).GetStatuses()[0]
	if s.GetCurrentLimit() != nil || s.GetLimitRemaining() != math.MaxUint32 || s.GetDurationUntilReset().AsDuration() <= time.Minute {
		t.Errorf("%v", s)
	}
}

func (c *client) check(path, address string, headers map[string]string) *authv3.CheckResponse {
	c.Helper()
	answer, err := c.Check(c.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711},
		}}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: path, Host: "api.example.com", Headers: headers, Protocol: "HTTP/1.1",
		}},
	}})
	if err != nil {
		c.Fatal(err)
	}
	return answer
}

func TestCheckHoldsAClientToItsPlan(t *testing.T) {
	routes, err := httplimit.NewRoutes([]httplimit.Route{
		{Pattern: "GET /search", Charge: httplimit.Charge{Scope: "search"}},
		{Pattern: "GET /healthz", Charge: httplimit.Charge{Skip: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, memstore.New(memstore.Config{}), envoy.Config{Limit: httplimit.Config{Routes: routes}})
	for i := range 3 {
		answer := c.check("/search?q=x", "203.0.113.7", map[string]string{":path": "/search", "x-forwarded-for": "10.0.0.1"})
		if i < 2 {
			headers := answer.GetOkResponse().GetResponseHeadersToAdd()
			if answer.GetStatus().GetCode() != 0 || len(headers) != 2 {
				t.Errorf("request %d: %v", i+1, answer)
			}
			continue
		}
		denied := answer.GetDeniedResponse()
		if answer.GetStatus().GetCode() == 0 || denied.GetStatus().GetCode() != 429 || !strings.Contains(denied.GetBody(), "quota-exceeded") {
			t.Errorf("%v", answer)
		}
		var retry string
		for _, h := range denied.GetHeaders() {
			if h.GetHeader().GetKey() == "Retry-After" {
				retry = h.GetHeader().GetValue()
			}
		}
		if retry == "" {
			t.Errorf("no Retry-After: %v", denied)
		}
	}
	for range 5 {
		if answer := c.check("/healthz", "203.0.113.8", nil); answer.GetStatus().GetCode() != 0 {
			t.Errorf("a skipped route: %v", answer)
		}
	}
	if answer := c.check("/", "203.0.113.9", map[string]string{"x-api-key": "key-of-42"}); answer.GetStatus().GetCode() != 0 {
		t.Errorf("%v", answer)
	}
	if left := c.ask(0, descriptor("subject", "acct_42")).GetStatuses()[0].GetLimitRemaining(); left != 1 {
		t.Errorf("%d left of the key's owner", left)
	}
	// Envoy lets a request pass for which it gets an error, if it is told so.
	for _, path := range []string{"not a path", "/search/%zz", "http://[/", "search", "/a\x7f"} {
		if denied := c.check(path, "203.0.113.7", nil).GetDeniedResponse(); denied.GetStatus().GetCode() != 400 {
			t.Errorf("%q: %v", path, denied)
		}
	}
	if answer := c.check("", "203.0.113.10", nil); answer.GetOkResponse() == nil { // CONNECT
		t.Errorf("no path: %v", answer)
	}
	if _, err := c.Check(t.Context(), &authv3.CheckRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an empty request: %v", err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	lim := newLimiter(t, memstore.New(memstore.Config{}))
	server, err := envoy.NewServer(lim, envoy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, server)
	serving := func() healthv1.HealthCheckResponse_ServingStatus {
		answer, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetStatus()
	}
	if got := serving(); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v", got)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	listed, err := stream.Recv()
	if err != nil || !strings.Contains(listed.String(), "envoy.service.ratelimit.v3.RateLimitService") || !strings.Contains(listed.String(), "envoy.service.auth.v3.Authorization") {
		t.Errorf("%v, %v", listed, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	server.Drain()
	if got := serving(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while it drains: %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestEntriesMustBeApart(t *testing.T) {
	_, err := envoy.NewServer(newLimiter(t, memstore.New(memstore.Config{})), envoy.Config{Entries: envoy.Entries{Subject: "scope"}})
	if field := new(tierlimit.FieldError); !errors.As(err, &field) || field.Field != "Entries.Scope" {
		t.Errorf("%v", err)
	}
}
