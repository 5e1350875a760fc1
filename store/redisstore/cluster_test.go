package redisstore

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
)

// A master that left and came back under its address has another client. The line of the
// old one called a client that is closed.
func TestAMasterThatComesBackHasALineOfItsOwn(t *testing.T) {
	c := &cluster{byAddr: make(map[string]masterLine)}
	c.newLine = func(string, func(context.Context, *batch) error) *line {
		return newLine(testTimeout, testLongest, failuresInARow, nil, nil)
	}
	client := func(addr string) *redis.Client {
		made := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { made.Close() })
		return made
	}
	first, other := client("127.0.0.1:7001"), client("127.0.0.1:7002")
	line := c.lineFor(first)
	if c.lineFor(first) != line || c.lineFor(other) == line {
		t.Fatal("each master has one line")
	}
	back := client("127.0.0.1:7001")
	if again := c.lineFor(back); again == line || c.lineFor(back) != again {
		t.Error("a master that came back is on the line of the one that left")
	}
	if !line.closed {
		t.Error("the workers of the old line stay for good")
	}
	if len(c.lines()) != 2 {
		t.Errorf("%d lines for two masters", len(c.lines()))
	}
}

// A Cluster that accepts connections and never answers was waited for by every charge:
// without a line there was no breaker.
func TestAClusterThatNeverAnsweredIsNotAskedByEverybody(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	const budget = 10 * time.Millisecond
	opts, err := ClusterOptions("redis://"+deaf.Addr().String(), budget)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClusterClient(opts)
	defer client.Close()
	var opened atomic.Int64
	s, err := NewCluster(client, Config{Budget: budget, OnChange: func(string, bool, error) { opened.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	waited := 0
	for range 20 {
		_, err := s.Take(t.Context(), *chargeOf("acct_42"))
		if !errors.Is(err, tierlimit.ErrStoreUnavailable) {
			t.Fatalf("got %v", err)
		}
		if !errors.Is(err, ErrOpen) {
			waited++
		}
	}
	if waited > failuresInARow+2 || opened.Load() == 0 { // a busy machine may be at the next try
		t.Errorf("%d of 20 charges waited, and the breaker told %d times", waited, opened.Load())
	}
	// A charge with less time than the budget says nothing of the Cluster.
	other, err := NewCluster(client, Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	for range 20 {
		c := *chargeOf("acct_42")
		c.Deadline = time.Now()
		if _, err := other.Take(t.Context(), c); errors.Is(err, ErrOpen) {
			t.Fatal("callers without time opened the breaker")
		}
	}
}
