package redisstore

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// The oldest Redis whose commands the scripts use.
const (
	oldestMajor = 6
	oldestMinor = 2
)

// Ping returns nil if Redis, or each master of a Cluster, answers within ctx's deadline
// and lets this user run the scripts. It reads the counters of subjects that do not exist
// and writes nothing, so a server that refuses writes passes too.
func (s *Store) Ping(ctx context.Context) error {
	asked := make(map[string]bool) // of a Cluster each master has rights of its own
	for i := range pings {
		subject := "tierlimit:ping" + strconv.Itoa(i)
		server := s.Server(subject)
		if i > 0 && asked[server] {
			continue
		}
		if _, err := s.Take(ctx, tierlimit.Charge{Subject: subject, Ceilings: pingCeilings}); err != nil {
			return err
		}
		asked[s.Server(subject)] = true
	}
	return s.server.each(ctx, func(ctx context.Context, server *redis.Client) error {
		if err := server.Ping(ctx).Err(); err != nil {
			return fmt.Errorf("ping of %s: %w", server.Options().Addr, classify(err))
		}
		return nil
	})
}

// pingCeilings are those of the subjects that Ping reads.
var pingCeilings = func() *tierlimit.Ceilings {
	c, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: "ping", Window: tierlimit.Window{Length: time.Second}})
	if err != nil {
		panic(err)
	}
	return c
}()

// pings is how many names are tried to find one on each master.
const pings = 200

// Check returns what an operator should know about the servers before they are trusted
// with quotas: a version that is too old, a policy that evicts counters, a Cluster that
// refuses everything while one master is missing. An error means that a server could not be
// asked. Check needs the right +info, which nothing else needs; without that right one of
// the warnings says so.
func (s *Store) Check(ctx context.Context) (warnings []string, err error) {
	_, one := s.server.(*single)
	var mu sync.Mutex
	err = s.server.each(ctx, func(ctx context.Context, server *redis.Client) error {
		found, err := check(ctx, server, !one)
		mu.Lock()
		defer mu.Unlock()
		for _, w := range found {
			if !slices.Contains(warnings, w) { // most often all servers are alike
				warnings = append(warnings, w)
			}
		}
		return err
	})
	return warnings, err
}

func check(ctx context.Context, server *redis.Client, cluster bool) (warnings []string, err error) {
	text, err := server.Info(ctx, "server", "memory").Result()
	if redis.HasErrorPrefix(err, "NOPERM") {
		return []string{"this user may not ask for INFO (+info): whether the server evicts counters is not known"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check the server: %w", classify(err))
	}
	info := make(map[string]string)
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok {
			info[name] = strings.TrimSpace(value)
		}
	}
	if version := info["redis_version"]; tooOld(version) {
		warnings = append(warnings, fmt.Sprintf("the server is version %s: %d.%d or newer is needed", version, oldestMajor, oldestMinor))
	}
	if info["redis_mode"] == "cluster" && !cluster {
		warnings = append(warnings, "the server belongs to a Cluster, and is spoken to as a single one: it refuses whoever it does not count")
	}
	if cluster && requiresAll(ctx, server) {
		warnings = append(warnings, "cluster-require-full-coverage is yes, or may not be asked for (+config|get): while a master without a successor is away, all the others refuse; set no")
	}
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		warnings = append(warnings, fmt.Sprintf("maxmemory-policy is %s: under memory pressure counters are evicted, and an evicted counter is a fresh quota; set noeviction", policy))
	}
	return warnings, nil
}

// requiresAll reports whether a server of a Cluster refuses while slots are without a
// master, or may.
func requiresAll(ctx context.Context, server *redis.Client) bool {
	const name = "cluster-require-full-coverage"
	found, err := server.ConfigGet(ctx, name).Result()
	return err != nil || found[name] != "no"
}

// tooOld reports whether version is older than the scripts need. It is false for text
// that is no version: other servers number theirs as they like.
func tooOld(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err == nil && err2 == nil && (major < oldestMajor || major == oldestMajor && minor < oldestMinor)
}
