package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/window"
)

// The Lua function that says what still counts of a sliding window's previous charges
// agrees with window.Weighted, which is exact: on the numbers that floating point gets
// wrong, and on random ones of every size.
func TestLuaWeightsAsGoDoes(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	source := scripts.Take.Source
	first, last := strings.Index(source, "-- amount * part / whole"), strings.Index(source, "-- How far a sliding window")
	if first < 0 || last < first {
		t.Fatal("the functions are not where they were")
	}
	script := redis.NewScript("local floor = math.floor\n" + source[first:last] + `
		local out = {}
		for i = 1, #ARGV, 3 do
			out[#out + 1] = string.format('%.0f', weighted(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])))
		end
		return out`)
	type weighing struct{ previous, turn, length int64 }
	cases := []weighing{{25, 16_800, 60_000}, {25, 16_801, 60_000}, {window.MaxUsed, 59_999, 60_000}, {1, 1, 1}, {7, 0, 5}, {0, 3, 5}, {7, 9, 5}}
	r := rand.New(rand.NewPCG(*faultSeed, 7))
	for range 20_000 {
		length := 1 + r.Int64N(1<<r.IntN(39))
		length = min(length, 3660*86_400_000)
		cases = append(cases, weighing{1 + r.Int64N(1<<(1+r.IntN(52))), 1 + r.Int64N(length), length})
	}
	const batch = 500
	for len(cases) > 0 {
		some := cases[:min(batch, len(cases))]
		cases = cases[len(some):]
		var args []any
		for _, c := range some {
			args = append(args, c.previous, c.turn, c.length)
		}
		got, err := script.Run(t.Context(), client, nil, args...).StringSlice()
		must(t, err)
		for i, c := range some {
			if want := fmt.Sprint(window.Weighted(c.previous, c.turn, c.length)); got[i] != want {
				t.Fatalf("%+v: Lua has %s, Go %s", c, got[i], want)
			}
		}
	}
}
