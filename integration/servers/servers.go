// Package servers starts real Redis and Postgres servers for tests.
//
// Through testcontainers where a Docker engine answers, else as throw-away
// processes of the binaries on this machine. TEST_SERVERS=docker or
// TEST_SERVERS=local asks for one of them; what was asked for and cannot be had
// is a failure, never a skip. Images: TEST_REDIS_IMAGE and TEST_POSTGRES_IMAGE.
package servers

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
	"github.com/testcontainers/testcontainers-go/modules/redis"
)

const startTimeout = time.Minute

// A Server is a running server and the URL that reaches it.
type Server struct {
	URL  string
	stop func()
}

// Stop ends the server and removes what it wrote.
func (s *Server) Stop() { s.stop() }

// Redis starts a Redis that keeps nothing on disk.
func Redis() (*Server, error) {
	return start("redis", redisContainer, redisProcess)
}

// Postgres starts a Postgres with one empty database.
func Postgres() (*Server, error) {
	return start("postgres", postgresContainer, postgresProcess)
}

func start(name string, container, process func(context.Context) (*Server, error)) (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	run, kind := process, "local"
	if useDocker() {
		run, kind = container, "docker"
	}
	s, err := run(ctx)
	if err != nil {
		return nil, fmt.Errorf("start %s (TEST_SERVERS=%s): %w", name, kind, err)
	}
	return s, nil
}

// Docker reports whether servers run in containers.
func Docker() bool { return useDocker() }

var useDocker = sync.OnceValue(func() bool {
	switch os.Getenv("TEST_SERVERS") {
	case "docker":
		return true
	case "local":
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "docker", "info").Run() == nil
})

func redisContainer(ctx context.Context) (*Server, error) {
	c, err := redis.Run(ctx, cmp.Or(os.Getenv("TEST_REDIS_IMAGE"), "redis:7"))
	if err != nil {
		return nil, err
	}
	url, err := c.ConnectionString(ctx)
	return &Server{URL: url, stop: terminate(c)}, err
}

func postgresContainer(ctx context.Context) (*Server, error) {
	c, err := postgres.Run(ctx, cmp.Or(os.Getenv("TEST_POSTGRES_IMAGE"), "postgres:15"),
		postgres.WithUsername("tierlimit"), postgres.WithPassword("tierlimit"), postgres.WithDatabase("tierlimit"),
		postgres.BasicWaitStrategies())
	if err != nil {
		return nil, err
	}
	url, err := c.ConnectionString(ctx, "sslmode=disable")
	return &Server{URL: url, stop: terminate(c)}, err
}

func terminate(c testcontainers.Container) func() {
	return func() {
		if err := testcontainers.TerminateContainer(c, testcontainers.StopTimeout(0)); err != nil {
			fmt.Fprintln(os.Stderr, "terminate container:", err)
		}
	}
}

// Binary returns the path of a program of Redis or Postgres. It looks in PATH and where Debian
// keeps Postgres.
func Binary(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not on this machine: run `make test`, which installs it where it may, or install redis-server and postgresql", name)
	}
	return found[len(found)-1], nil
}
