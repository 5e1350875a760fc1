package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// A class is a group of customers who behave alike.
type class struct {
	name      string // the tier, and what the customers are
	tier      string
	customers int
	share     float64 // of all requests
}

// population sums up to a share of 1. Its light customers stay within their limits at five times the
// capacity; its greedy ones do not.
var population = []class{
	{"enterprise", "enterprise", 20, 0.08},
	{"pro", "pro", 200, 0.15},
	{"pro, greedy", "pro", 2, 0.05},
	{"free", "free", 1500, 0.54},
	{"free, greedy", "free", 4, 0.18},
}

// The classes of light customers, by descending priority of their tier.
const (
	enterprise = 0
	pro        = 1
	free       = 3
)

// draw returns the class and the subject of a request at random.
func draw(random *rand.Rand) (of int, subject string) {
	x := random.Float64()
	for of < len(population)-1 && x >= population[of].share {
		x -= population[of].share
		of++
	}
	c := population[of]
	return of, fmt.Sprintf("%s:%d:%d", c.tier, of, random.IntN(c.customers))
}

// tierOf returns the tier of a subject that draw has named.
func tierOf(subject string) string {
	tier, _, _ := strings.Cut(subject, ":")
	return tier
}

// plans returns the tiers of the experiment: the built-in ones, with one limit each that holds for
// ten seconds, so that a run of some seconds shows what it does. Without limits the tiers count and
// deny nothing.
func plans(limits bool) []tiers.Tier {
	list := tiers.Builtin()
	most := map[string]int64{"free": 10, "pro": 50, "enterprise": 1000}
	for i := range list {
		limit := tiers.Limit{Max: tierlimit.Unlimited, Window: tierlimit.Window{Length: 10 * time.Second}}
		if limits {
			limit.Max, limit.Adaptive = most[list[i].Key], list[i].Key != "enterprise"
		}
		list[i].Limits = tiers.Limits{"per_10s": limit}
	}
	return list
}
