package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tierlimit/tierlimit/api/envoy"
	"github.com/tierlimit/tierlimit/integration/servers"
)

// envoyReference is Envoy's own rate limit service.
const envoyReference = "envoyproxy/ratelimit"

// overGRPC are the contenders that answer Envoy: each is a process of its own.
func overGRPC(descriptors int) []contender {
	return []contender{
		{ours, openEnvoyOurs(descriptors)},
		{envoyReference, openEnvoyTheirs(descriptors)},
	}
}

func openEnvoyOurs(descriptors int) func(string, []window) (decide, func(), error) {
	return func(addr string, windows []window) (decide, func(), error) {
		child, address, err := startChild("envoy", addr, strconv.FormatInt(windows[0].max, 10), windows[0].length.String())
		if err != nil {
			return nil, nil, err
		}
		ask, hangUp, err := askEnvoys(address, descriptors)
		return ask, func() { hangUp(); child() }, err
	}
}

func openEnvoyTheirs(descriptors int) func(string, []window) (decide, func(), error) {
	return func(addr string, windows []window) (decide, func(), error) {
		unit := map[time.Duration]string{time.Minute: "minute", time.Hour: "hour"}[windows[0].length]
		server, err := servers.EnvoyRateLimit(addr, fmt.Sprintf("domain: api\ndescriptors:\n- key: subject\n  rate_limit: {unit: %s, requests_per_unit: %d}\n", unit, windows[0].max))
		if err != nil {
			return nil, nil, err
		}
		ask, hangUp, err := askEnvoys(server.URL, descriptors)
		return ask, func() { hangUp(); server.Stop() }, err
	}
}

// askEnvoys returns a decide that asks as an Envoy does, over four connections.
func askEnvoys(address string, descriptors int) (decide, func(), error) {
	var conns []*grpc.ClientConn
	hangUp := func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	var clients [4]ratelimitv3.RateLimitServiceClient
	for i := range clients {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, hangUp, err
		}
		conns, clients[i] = append(conns, conn), ratelimitv3.NewRateLimitServiceClient(conn)
	}
	var next atomic.Uint32
	return func(ctx context.Context, subject string) (bool, error) {
		req := &ratelimitv3.RateLimitRequest{Domain: "api"}
		for i := range descriptors {
			value := subject
			if i > 0 {
				value += "/" + strconv.Itoa(i)
			}
			req.Descriptors = append(req.Descriptors, &ratelimitcommonv3.RateLimitDescriptor{
				Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "subject", Value: value}},
			})
		}
		answer, err := clients[next.Add(1)%uint32(len(clients))].ShouldRateLimit(ctx, req)
		return answer.GetOverallCode() == ratelimitv3.RateLimitResponse_OK, err
	}, hangUp, nil
}

// childVariable has the arguments of a process that serves a measurement.
const childVariable = "TIERLIMIT_BENCH_CHILD"

// startChild starts this program as a server, and returns its address.
func startChild(args ...string) (stop func(), address string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = servers.EndWithParent(nil)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return nil, "", fmt.Errorf("the server of a measurement: %w", err)
	}
	return stop, strings.TrimSpace(line), nil
}

// serveChild serves what the arguments in childVariable say. It does not return.
func serveChild(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	switch args[0] {
	case "envoy":
		most, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		length, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		lim, _, err := newLimiter(args[1], []window{{"limit", most, length}})
		if err != nil {
			return err
		}
		server, err := envoy.NewServer(lim, envoy.Config{})
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		return server.Serve(l)
	case "upstream":
		fmt.Println(l.Addr())
		return serveUpstream(l)
	}
	return fmt.Errorf("%s: no such server", args[0])
}
