package main

import (
	"context"
	"strconv"
	"strings"
)

// measureMemory is what Redis holds for a subject, in bytes, the key and its
// part of the tables included.
func (b *bench) measureMemory(c contender, windows []window) (float64, error) {
	ctx := context.Background()
	if err := b.admin.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	before, err := b.redisMemory(ctx)
	if err != nil {
		return 0, err
	}
	ask, stop, err := c.open(b.addr, windows)
	if err != nil {
		return 0, err
	}
	for range 2 { // the second time in the window is what there is for long
		if err := settle(ctx, ask); err != nil {
			return 0, err
		}
	}
	stop()
	after, err := b.redisMemory(ctx)
	return (after - before) / subjects, err
}

func (b *bench) redisMemory(ctx context.Context) (float64, error) {
	info, err := b.admin.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, nil
}
