package window

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

func at(text string) int64 {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t.UnixMilli()
}

func TestAWindowEnds(t *testing.T) {
	anchor := at("2024-01-31T06:30:00Z")
	for name, c := range map[string]struct {
		spec     Spec
		now, end string
	}{
		"a fixed length after its first charge":         {Spec{Length: 60_000}, "2026-03-10T12:00:00Z", "2026-03-10T12:01:00Z"},
		"at midnight":                                   {Spec{Kind: Day}, "2026-03-10T12:00:00Z", "2026-03-11T00:00:00Z"},
		"a day later, on the boundary":                  {Spec{Kind: Day}, "2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z"},
		"on Monday":                                     {Spec{Kind: Week}, "2026-03-10T12:00:00Z", "2026-03-16T00:00:00Z"},
		"on the first":                                  {Spec{Kind: Month}, "2026-12-10T12:00:00Z", "2027-01-01T00:00:00Z"},
		"at the anchor's time of day":                   {Spec{Kind: Day, Anchor: anchor}, "2026-03-10T06:30:00Z", "2026-03-11T06:30:00Z"},
		"on the anchor's weekday":                       {Spec{Kind: Week, Anchor: anchor}, "2026-03-10T06:30:00Z", "2026-03-11T06:30:00Z"},
		"on the last day of a month without the 31st":   {Spec{Kind: Month, Anchor: anchor}, "2026-02-10T06:30:00Z", "2026-02-28T06:30:00Z"},
		"on the 31st after a month without one":         {Spec{Kind: Month, Anchor: anchor}, "2026-02-28T06:30:00Z", "2026-03-31T06:30:00Z"},
		"on the 29th of February in a leap year":        {Spec{Kind: Month, Anchor: anchor}, "2028-02-10T06:30:00Z", "2028-02-29T06:30:00Z"},
		"also at an instant long before its anchor":     {Spec{Kind: Month, Anchor: anchor}, "1970-02-10T00:00:00Z", "1970-02-28T06:30:00Z"},
		"sliding, when it turns":                        {Spec{Kind: Sliding, Length: 60_000}, "2026-03-10T12:00:00Z", "2026-03-10T12:01:00Z"},
		"also a day that is before 1970 to its anchor":  {Spec{Kind: Day, Anchor: anchor}, "1970-01-01T00:00:00Z", "1970-01-01T06:30:00Z"},
		"also a week that is before 1970 to its anchor": {Spec{Kind: Week, Anchor: anchor}, "1970-01-01T00:00:00Z", "1970-01-07T06:30:00Z"},
	} {
		if end := c.spec.End(at(c.now)); end != at(c.end) {
			t.Errorf("%s: got %s, want %s", name, time.UnixMilli(end).UTC().Format(time.RFC3339), c.end)
		}
	}
}

// In floating point 25 * 16800 / 60000 came out a little above 7, and rounded up to 8.
func TestWeightedHasNoFloatNoise(t *testing.T) {
	for _, c := range []struct{ previous, turn, length, want int64 }{
		{25, 16_800, 60_000, 7},
		{25, 16_801, 60_000, 8},
		{25, 16_799, 60_000, 7},
		{100, 60_000, 60_000, 100},
		{100, 90_000, 60_000, 100},
		{100, 0, 60_000, 0},
		{100, -1, 60_000, 0},
		{0, 30_000, 60_000, 0},
		{1, 1, 60_000, 1},
		{MaxUsed, 59_999, 60_000, 9007049134753412},
		{1_000_000_000_000_000, 316_223_999_999, 316_224_000_000, 999_999_999_996_838},
	} {
		if got := Weighted(c.previous, c.turn, c.length); got != c.want {
			t.Errorf("%d of %d ms in %d ms: %d, want %d", c.previous, c.turn, c.length, got, c.want)
		}
	}
}

func TestWeightedIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		length := 1 + r.Int64N(1<<r.IntN(39))
		previous, turn := 1+r.Int64N(1<<(1+r.IntN(52))), 1+r.Int64N(length)
		product := new(big.Int).Mul(big.NewInt(previous), big.NewInt(turn))
		want := product.Add(product, big.NewInt(length-1)).Div(product, big.NewInt(length)).Int64()
		if got := Weighted(previous, turn, length); got != want {
			t.Fatalf("%d of %d ms in %d ms: %d, want %d", previous, turn, length, got, want)
		}
	}
}

func TestLongestIsTheLongest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		length := 1 + r.Int64N(1<<r.IntN(39))
		previous, turn := r.Int64N(1<<(1+r.IntN(52))), r.Int64N(length+1)
		room := r.Int64N(previous + 2)
		got := longest(previous, room, turn, length)
		if got < 0 || got > turn || Weighted(previous, got, length) > room || got < turn && Weighted(previous, got+1, length) <= room {
			t.Fatalf("%d of %d ms in %d ms, room for %d: %d", previous, turn, length, room, got)
		}
	}
}

func TestAWindowThroughTime(t *testing.T) {
	minute := Spec{Length: 60_000}
	sliding := Spec{Kind: Sliding, Length: 60_000}
	for name, c := range map[string]struct {
		spec   Spec
		stored Stored
		now    int64
		want   State
	}{
		"has not begun":                     {minute, Stored{}, 1000, State{}},
		"runs":                              {minute, Stored{Used: 7, End: 61_000}, 21_000, State{Used: 7, Since: 7, Reset: 40_000, End: 61_000}},
		"has ended":                         {minute, Stored{Used: 7, End: 61_000}, 61_000, State{}},
		"lasts no longer than its limit":    {minute, Stored{Used: 7, End: 900_000}, 1000, State{Used: 7, Since: 7, Reset: 60_000, End: 61_000}},
		"a day that has not begun ends":     {Spec{Kind: Day}, Stored{}, 1000, State{Reset: day - 1000}},
		"slides before its first turn":      {sliding, Stored{Used: 10, End: 121_000}, 31_000, State{Used: 10, Since: 10, Reset: 90_000, End: 61_000, Turn: 30_000}},
		"slides after its turn":             {sliding, Stored{Used: 10, End: 121_000}, 61_000, State{Used: 10, Reset: 60_000, End: 121_000, Previous: 10, Turn: 60_000}},
		"counts half of the window before":  {sliding, Stored{Used: 10, End: 121_000}, 91_000, State{Used: 5, Reset: 30_000, End: 121_000, Previous: 10, Turn: 30_000}},
		"slides with charges in both":       {sliding, Stored{Used: 3, End: 181_000, Previous: 10, PreviousEnd: 121_000}, 91_000, State{Used: 8, Since: 3, Reset: 90_000, End: 121_000, Previous: 10, Turn: 30_000}},
		"knows a window of another length":  {sliding, Stored{Used: 3, End: 181_000, Previous: 10, PreviousEnd: 120_000}, 91_000, State{Used: 3, Since: 3, Reset: 90_000, End: 121_000, Turn: 30_000}},
		"stops at the largest exact number": {sliding, Stored{Used: MaxUsed, End: 181_000, Previous: 10, PreviousEnd: 121_000}, 91_000, State{Used: MaxUsed, Since: MaxUsed, Reset: 90_000, End: 121_000, Previous: 10, Turn: 30_000}},
	} {
		w := c.spec.Advance(c.stored, c.now)
		if got := c.spec.State(w, c.now); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestLaterAgreesWithStateUntilTheWindowTurns(t *testing.T) {
	sliding, stored := Spec{Kind: Sliding, Length: 1000}, Stored{Used: 7, End: 2500, Previous: 9, PreviousEnd: 1500}
	was := sliding.State(sliding.Advance(stored, 600), 600)
	for elapsed := range int64(2001) {
		want := sliding.State(sliding.Advance(stored, 600+elapsed), 600+elapsed)
		got, ok := sliding.Later(was, elapsed)
		if ok != (600+elapsed < 1500) || ok && got != want {
			t.Fatalf("%d ms later: %+v, %v, want %+v", elapsed, got, ok, want)
		}
	}
	fixed := Spec{Length: 1000}
	if _, ok := fixed.Later(State{Used: 7, Since: 7, Reset: 100, End: 1100}, 100); ok {
		t.Error("a window that has ended goes on")
	}
}

// The wait is exact to the millisecond: the charge fits then, and not before.
func TestAfterTheWaitTheChargeFitsAndNotBefore(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		s := Spec{Kind: Sliding, Length: 1 + r.Int64N(300)}
		now := r.Int64N(1000)
		end := now + 1 + r.Int64N(2*s.Length)
		w := s.Advance(Stored{Used: r.Int64N(20), End: end, Previous: r.Int64N(20), PreviousEnd: end - s.Length}, now)
		most, cost := 1+r.Int64N(20), int64(1)
		cost += r.Int64N(most)
		c := s.State(w, now)
		if c.Used+cost <= most {
			continue
		}
		fits := func(at int64) bool { return s.State(s.Advance(w, at), at).Used+cost <= most }
		wait := s.Wait(c, most, cost)
		if !fits(now+wait) || wait > 0 && fits(now+wait-1) {
			t.Fatalf("%+v at %d, max %d, cost %d: a wait of %d ms", w, now, most, cost, wait)
		}
	}
	if wait := (Spec{Length: 1000}).Wait(State{Used: 5, Since: 5, Reset: 400, End: 1400}, 5, 1); wait != 400 {
		t.Errorf("a fixed window frees after %d ms, want 400", wait)
	}
}

// A cost above the max has no wait that helps: it is the window's end, and no panic.
func TestACostAboveTheMaxWaitsForTheWindowsEnd(t *testing.T) {
	s := Spec{Kind: Sliding, Length: 1000}
	for _, w := range []Stored{{Used: 5, End: 1900}, {Used: 5, End: 1900, Previous: 9, PreviousEnd: 900}, {End: 1900, Previous: 9, PreviousEnd: 900}} {
		c := s.State(s.Advance(w, 500), 500)
		if wait := s.Wait(c, 3, 7); wait < 0 || wait > c.Reset {
			t.Errorf("%+v: a wait of %d ms", c, wait)
		}
	}
}
