package redisstore

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
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
