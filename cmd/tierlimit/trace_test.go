package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// A receiver is a collector of OpenTelemetry.
type receiver struct {
	mu    sync.Mutex
	raw   bytes.Buffer
	spans map[string]string // name by span id
	of    map[string]string // "name of trace parent" by name
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	text, err := io.ReadAll(body)
	var sent collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(text, &sent)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.raw.Write(text)
	for _, resource := range sent.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				rc.spans[fmt.Sprintf("%x", span.GetSpanId())] = span.GetName()
				rc.of[span.GetName()] = fmt.Sprintf("%x %x", span.GetTraceId(), span.GetParentSpanId())
			}
		}
	}
}

func TestSpansFollowARequestAndNameNoSubject(t *testing.T) {
	rc := &receiver{spans: make(map[string]string), of: make(map[string]string)}
	server := httptest.NewServer(rc)
	t.Cleanup(server.Close)
	var upstream sync.Map
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		upstream.Store("traceparent", r.Header.Get("Traceparent"))
		upstream.Store("id", r.Header.Get("X-Request-Id"))
	}))
	t.Cleanup(api.Close)
	proxy, envoy := freeAddress(t), freeAddress(t)
	for envoy == proxy { // it is free until somebody listens there
		envoy = freeAddress(t)
	}
	public, admin, token, stop := shell{T: t}.dev("--trace-endpoint", server.URL, "--trace-ratio", "0", "--upstream", api.URL, "--proxy-addr", proxy, "--grpc-addr", envoy)
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	ask := func(method, url, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", "00-"+traceID+"-"+parent+"-01")
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	if resp := ask("POST", public+"/v1/take", `{"subject":"acct_secret"}`); resp.StatusCode != http.StatusOK || resp.Header.Get("X-Request-Id") != traceID {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	ask("GET", admin+"/admin/v1/subjects/acct_secret", "")
	ask("GET", "http://"+proxy+"/acct_secret", "")
	conn, err := grpc.NewClient(envoy, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+traceID+"-"+parent+"-01")
	if _, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx, &ratelimitv3.RateLimitRequest{
		Domain: "api", Descriptors: []*commonv3.RateLimitDescriptor{{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "subject", Value: "acct_secret"}}}},
	}); err != nil {
		t.Error(err)
	}
	status(t, public+"/livez") // not chosen: no span
	stop()                     // sends the spans
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if bytes.Contains(rc.raw.Bytes(), []byte("acct_secret")) || bytes.Contains(rc.raw.Bytes(), []byte("127.0.0.1")) {
		t.Error("a span names a subject")
	}
	id := func(name string) string {
		for id, is := range rc.spans {
			if is == name {
				return id
			}
		}
		return ""
	}
	for name, of := range map[string]string{
		"HTTP public": parent, "HTTP admin": parent, "HTTP proxy": parent, "gRPC": parent, "tierlimit.store": "",
	} {
		got := rc.of[name]
		if !strings.HasPrefix(got, traceID+" ") || of != "" && got != traceID+" "+of {
			t.Errorf("%s is %q", name, got)
		}
	}
	if got := rc.of["tierlimit.decide"]; !slices.Contains([]string{traceID + " " + id("HTTP public"), traceID + " " + id("HTTP proxy"), traceID + " " + id("gRPC")}, got) {
		t.Errorf("the decision is %q of %v", got, rc.spans)
	}
	if sent, _ := upstream.Load("traceparent"); sent != "00-"+traceID+"-"+id("HTTP proxy")+"-01" {
		t.Errorf("the upstream got %v of %v", sent, rc.spans)
	}
	if sent, _ := upstream.Load("id"); sent != traceID {
		t.Errorf("the upstream got the id %v", sent)
	}
}

func TestRequestsHaveIDsAndMayBeLogged(t *testing.T) {
	var log lockedBuffer
	sh := shell{T: t}
	address := freeAddress(t)
	done := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- run(ctx, []string{"dev", "--addr", address, "--admin-addr", "127.0.0.1:0", "--access-log", "on"}, sh.streams(io.Discard, &log))
	}()
	get := func(id string) string {
		for {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/livez?secret=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Request-Id", id)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
				return resp.Header.Get("X-Request-Id")
			}
		}
	}
	if got := get("req-42"); got != "req-42" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{"", "with space", strings.Repeat("x", 200), `"quoted"`} {
		if got := get(bad); got == bad || len(got) != 26 {
			t.Errorf("%q became %q", bad, got)
		}
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("%d: %s", code, log.String())
	}
	if !regexp.MustCompile(`msg=request listener=public method=GET path=/livez status=200 bytes=3 duration=\S+ peer=127\.0\.0\.1:\d+ request_id=req-42\n`).MatchString(log.String()) ||
		strings.Contains(log.String(), "secret") {
		t.Errorf("the log: %s", log.String())
	}
	if code, _, errs := sh.run("dev", "--trace-endpoint", "collector:4318"); code != exitUsage || !strings.Contains(errs, "--trace-endpoint") {
		t.Errorf("%d %s", code, errs)
	}
}
