package servers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
)

func redisProcess(ctx context.Context) (*Server, error) { return redisLike(ctx, "redis-server") }

// Valkey starts the valkey-server that is installed on this machine, without persistence.
// It returns an error if none is installed.
func Valkey() (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return redisLike(ctx, "valkey-server")
}

// redisLike starts a server that takes the arguments of redis-server.
func redisLike(ctx context.Context, name string) (*Server, error) {
	binary, err := Binary(name)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tierlimit-redis-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := run(dir, nil, binary, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no")
	if err != nil {
		return nil, err
	}
	s.URL = "redis://127.0.0.1:" + port
	client := goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:" + port})
	defer client.Close()
	return s, s.await(ctx, func() error { return client.Ping(ctx).Err() })
}

// postgresProcess runs as the user postgres when the tests run as root, which
// Postgres refuses to serve.
func postgresProcess(ctx context.Context) (*Server, error) {
	binary, err := Binary("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tierlimit-postgres-")
	if err != nil {
		return nil, err
	}
	as, err := postgresUser(dir)
	if err != nil {
		return nil, err
	}
	if binary, err = filepath.EvalSymlinks(binary); err != nil {
		return nil, err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(filepath.Dir(binary), "initdb"),
		"-D", dir+"/data", "-U", "tierlimit", "-A", "trust", "-E", "UTF8", "--locale=C")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := run(dir, as, binary, "-D", dir+"/data", "-p", port, "-k", dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200")
	if err != nil {
		return nil, err
	}
	s.URL = "postgres://tierlimit@127.0.0.1:" + port + "/postgres?sslmode=disable"
	return s, s.await(ctx, func() error {
		conn, err := pgx.Connect(ctx, s.URL)
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	})
}

func postgresUser(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("postgres does not run as root: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}

// run starts a process that ends with Stop, or with this one.
func run(dir string, as *syscall.Credential, binary string, args ...string) (*Server, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = EndWithParent(as)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Server{stop: func() {
		_ = cmd.Process.Kill() // the one we started; nothing of it is kept
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}}, nil
}

// await returns once the server answers, or stops it.
func (s *Server) await(ctx context.Context, answers func() error) error {
	for {
		err := answers()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			s.Stop()
			return fmt.Errorf("did not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
