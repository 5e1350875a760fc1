package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// envoyRateLimit is the version of Envoy's own rate limit service that ours is compared with.
const envoyRateLimit = "v1.4.1-0.20260122083618-3fb702589d36"

// EnvoyRateLimit starts envoyproxy/ratelimit on a Redis, with a configuration in YAML. Its URL is
// the address of its gRPC listener. The first start on a machine builds the program, which takes
// minutes.
func EnvoyRateLimit(redisAddr, config string) (*Server, error) {
	binary, err := buildEnvoyRateLimit()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tierlimit-ratelimit-")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "ratelimit", "config"), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ratelimit", "config", "api.yaml"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	s, err := run(dir, nil, "env", "RUNTIME_ROOT="+dir, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false",
		"USE_STATSD=false", "LOG_LEVEL=error", "REDIS_SOCKET_TYPE=tcp", "REDIS_TYPE=SINGLE", "REDIS_URL="+redisAddr,
		"HOST=127.0.0.1", "GRPC_HOST=127.0.0.1", "DEBUG_HOST=127.0.0.1",
		"GRPC_PORT="+ports[0], "PORT="+ports[1], "DEBUG_PORT="+ports[2], binary)
	if err != nil {
		return nil, err
	}
	s.URL = "127.0.0.1:" + ports[0]
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return s, s.await(ctx, func() error { return grpcServes(ctx, s.URL) })
}

// grpcServes returns nil if the health service at address answers SERVING.
func grpcServes(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = errors.New(answer.GetStatus().String())
	}
	return err
}

// buildEnvoyRateLimit returns the program, which is built once on a machine.
func buildEnvoyRateLimit() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tierlimit-peers", envoyRateLimit)
	binary := filepath.Join(dir, "service_cmd")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	cmd := exec.Command("go", "install", "github.com/envoyproxy/ratelimit/src/service_cmd@"+envoyRateLimit)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build envoyproxy/ratelimit: %w: %s", err, out)
	}
	return binary, nil
}
