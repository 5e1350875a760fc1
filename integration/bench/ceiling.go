package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// A ceiling is what Redis gives a client that does nothing but send: one script
// call for a decision, many of them ahead of their replies.
type ceiling struct {
	title   string
	clients int
	callers int // whom it is held against
}

var ceilings = []ceiling{
	{"EVALSHA, 1 connection, 64 ahead", 1, 64},
	{"EVALSHA, 50 connections, 64 ahead", 50, 1024},
}

// measureCeiling is decisions a second, by redis-benchmark.
func (b *bench) measureCeiling(c ceiling) (float64, error) {
	ctx := context.Background()
	if err := b.admin.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	sha, err := b.admin.ScriptLoad(ctx, incrScript).Result()
	if err != nil {
		return 0, err
	}
	host, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, "redis-benchmark", "-h", host, "-p", port, "--csv",
		"-c", strconv.Itoa(c.clients), "-P", "64", "-n", "400000", "-r", strconv.Itoa(subjects),
		"evalsha", sha, "1", "acct___rand_int__", "60000").Output()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark: %w", err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	if err != nil || len(rows) == 0 || len(rows[len(rows)-1]) < 2 {
		return 0, fmt.Errorf("redis-benchmark wrote %q: %w", out, err)
	}
	return strconv.ParseFloat(rows[len(rows)-1][1], 64)
}

func middle(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}
