// Package integration holds what only real servers can show: the stores and
// catalogues on real Redis and Postgres, and the binary end to end.
package integration

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/integration/servers"
)

// One Redis and one Postgres serve all tests of a run; tests are told apart by
// subject and by database.
var redisServer, postgresServer *servers.Server

// scratch is a folder that lasts as long as the run.
var scratch string

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	// rapid would replay a saved failure in later runs, including those of mutants.
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(run(m))
}

// quiet keeps the Redis client's own lines out of what the tests say: it has many of
// them for connections that are cut on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "tierlimit-integration-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if redisServer, err = servers.Redis(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer redisServer.Stop()
	if postgresServer, err = servers.Postgres(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer postgresServer.Stop()
	code := m.Run()
	if err := writeMatrix(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
