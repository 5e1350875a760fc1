//go:build peers

package integration

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api/envoy"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/tiers"
)

const perDayOfPeer = 5

func dialEnvoy(t *testing.T, address string) ratelimitv3.RateLimitServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return ratelimitv3.NewRateLimitServiceClient(conn)
}

// both returns clients of our rate limit service and of Envoy's own, with 5 a day for each
// subject.
func both(t *testing.T) (mine, theirs ratelimitv3.RateLimitServiceClient) {
	t.Helper()
	own, err := servers.Redis()
	must(t, err)
	t.Cleanup(own.Stop)
	peer, err := servers.EnvoyRateLimit(strings.TrimPrefix(own.URL, "redis://"),
		fmt.Sprintf("domain: api\ndescriptors:\n- key: subject\n  rate_limit: {unit: day, requests_per_unit: %d}\n", perDayOfPeer))
	must(t, err)
	t.Cleanup(peer.Stop)

	resolver, err := tiers.Static([]tiers.Tier{{Key: "day", Default: true, Limits: tiers.Limits{
		"per_day": {Max: perDayOfPeer, Window: tierlimit.Window{Period: tierlimit.Day}},
	}}}, nil)
	must(t, err)
	store := newStore(t, newClient(t, redisServer.URL, 5*time.Second))
	lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: resolver, Budget: 5 * time.Second})
	must(t, err)
	server, err := envoy.NewServer(lim, envoy.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return dialEnvoy(t, l.Addr().String()), dialEnvoy(t, peer.URL)
}

// Ours and Envoy's own service answer the same requests alike: codes, what is left, the limit and
// the time until the reset. A request of up to three subjects costs 1 a subject, or what
// hits_addend says.
//
// Where a cost does not fit, Envoy's service charges it all the same, and ours charges nothing:
// from then on a subject is no longer compared.
func TestPeersAnswerTheSame(t *testing.T) {
	mine, theirs := both(t)
	random := rand.New(rand.NewPCG(1, 2))
	names, apart, compared, denied := newSubject(t), make(map[string]bool), 0, 0
	for range 3000 {
		req := &ratelimitv3.RateLimitRequest{Domain: "api", HitsAddend: uint32(random.IntN(3))}
		var cost []int64
		var subjects []string
		for _, i := range random.Perm(400)[:1+random.IntN(3)] {
			subject := fmt.Sprint(names, i)
			d := &ratelimitcommonv3.RateLimitDescriptor{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "subject", Value: subject}}}
			c := int64(max(req.HitsAddend, 1))
			if random.IntN(4) == 0 {
				c = 1 + int64(random.IntN(3))
				d.HitsAddend = wrapperspb.UInt64(uint64(c))
			}
			req.Descriptors, cost, subjects = append(req.Descriptors, d), append(cost, c), append(subjects, subject)
		}
		a, err := mine.ShouldRateLimit(t.Context(), req)
		must(t, err)
		b, err := theirs.ShouldRateLimit(t.Context(), req)
		must(t, err)
		if len(a.Statuses) != len(b.Statuses) {
			t.Fatalf("%d and %d statuses", len(a.Statuses), len(b.Statuses))
		}
		for i, x := range a.Statuses {
			y := b.Statuses[i]
			if apart[subjects[i]] {
				continue
			}
			compared++
			over := y.Code == ratelimitv3.RateLimitResponse_OVER_LIMIT
			if over {
				denied++
				apart[subjects[i]] = cost[i] > 1
			}
			if x.Code != y.Code || !apart[subjects[i]] && x.LimitRemaining != y.LimitRemaining {
				t.Errorf("%s at a cost of %d: %v, and theirs %v", subjects[i], cost[i], x, y)
			}
			if l, m := x.CurrentLimit, y.CurrentLimit; l.GetUnit() != m.GetUnit() || l.GetRequestsPerUnit() != m.GetRequestsPerUnit() {
				t.Errorf("the limit %v, and theirs %v", l, m)
			}
			if apart := x.DurationUntilReset.AsDuration() - y.DurationUntilReset.AsDuration(); apart.Abs() > 2*time.Second && apart.Abs() < 24*time.Hour-2*time.Second {
				t.Errorf("the reset: %v, and theirs %v", x.DurationUntilReset.AsDuration(), y.DurationUntilReset.AsDuration())
			}
		}
	}
	if compared < 2000 || denied < 100 {
		t.Errorf("only %d answers were compared, %d of them denials", compared, denied)
	}
}

// What Envoy's service refuses, ours refuses.
func TestPeersRefuseTheSame(t *testing.T) {
	mine, theirs := both(t)
	for _, req := range []*ratelimitv3.RateLimitRequest{
		{Domain: "api"},
		{Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "subject", Value: "a"}}}}},
	} {
		_, a := mine.ShouldRateLimit(t.Context(), req)
		_, b := theirs.ShouldRateLimit(t.Context(), req)
		if a == nil || b == nil {
			t.Errorf("%v: %v, and theirs %v", req, a, b)
		}
	}
}
