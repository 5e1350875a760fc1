package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/scripts"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/store/storetest"
)

// testBudget is generous: these tests ask what is counted, not how fast.
const testBudget = 5 * time.Second

func newClient(t *testing.T, url string, budget time.Duration) *redis.Client {
	t.Helper()
	opts, err := redisstore.Options(url, budget)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}

func newStore(t *testing.T, client *redis.Client) *redisstore.Store {
	t.Helper()
	return newStoreWith(t, client, 0)
}

func newStoreWith(t *testing.T, client *redis.Client, failures int) *redisstore.Store {
	t.Helper()
	s, err := redisstore.New(client, redisstore.Config{Budget: client.Options().ReadTimeout / 2, Failures: failures})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) }) // before the client
	return s
}

func TestRedisConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		return storetest.Harness{
			Store:   newStore(t, newClient(t, redisServer.URL, testBudget)),
			Now:     time.Now,
			Advance: time.Sleep, // a real server's clock can only be waited for
		}
	})
}

func TestLuaCalendar(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	script := redis.NewScript(scripts.Time + `
		local ends = {}
		for i = 3, #ARGV do ends[i - 2] = string.format('%.0f', period_end(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[i]))) end
		return ends`)
	anchors := []int64{0}
	for _, anchor := range []string{
		"2024-02-29T00:00:00Z", "2025-01-31T17:03:04.005Z", "2026-03-30T23:59:59.999Z", "1971-12-01T00:00:00Z", "2090-06-15T12:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, anchor)
		if err != nil {
			t.Fatal(err)
		}
		anchors = append(anchors, at.UnixMilli())
	}
	for i := range 3 * len(anchors) {
		number := i%3 + 1 // as scripts/time.lua has them
		window := tierlimit.Window{Period: []tierlimit.Period{tierlimit.Day, tierlimit.Week, tierlimit.Month}[i%3], Anchor: anchors[i/3]}
		var instants []any
		for year := 1999; year < 2402; year++ {
			for _, edge := range []time.Time{
				time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(year, 2, 28, 12, 0, 0, 0, time.UTC),
				time.Date(year, 2, 29, 23, 59, 59, 999e6, time.UTC), time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC),
				time.Date(year, 12, 31, 23, 59, 59, 999e6, time.UTC), time.Date(year, 12, 1, 0, 0, 0, 0, time.UTC),
			} {
				instants = append(instants, edge.UnixMilli(), edge.UnixMilli()-1)
			}
		}
		for range 3000 {
			instants = append(instants, rand.Int64N(13_600_000_000_000))
		}
		got, err := script.Run(t.Context(), client, nil, append([]any{number, window.Anchor}, instants...)...).StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		for i, instant := range instants {
			at := time.UnixMilli(instant.(int64)).UTC()
			if want := fmt.Sprint(window.End(at).UnixMilli()); got[i] != want {
				t.Fatalf("%+v at %s ends at %s in Lua, %s in Go", window, at, got[i], want)
			}
		}
	}
}

func perMinute(most int64) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_minute", Max: most, Window: tierlimit.Window{Length: time.Minute}}
}

func charge(subject string, cost int64, c ...tierlimit.Ceiling) tierlimit.Charge {
	return storetest.Charge(subject, cost, c...)
}

func perHour(most int64) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_hour", Max: most, Window: tierlimit.Window{Length: time.Hour}}
}

func newSubject(t *testing.T) string {
	return fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano())
}

func TestTheValueCanBeReadByWhoeverIsOnCall(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	before := time.Now()
	o, err := store.Take(t.Context(), charge(subject, 3, perMinute(5)))
	if err != nil {
		t.Fatal(err)
	}
	value := client.Get(t.Context(), redisstore.Key(subject)).Val()
	if !strings.HasPrefix(value, "per_minute:") {
		t.Errorf("value %q does not say what it counts", value)
	}
	lines, err := client.Eval(t.Context(), scripts.Show.Source, []string{redisstore.Key(subject)}).StringSlice()
	if err != nil || len(lines) != 1 {
		t.Fatalf("show.lua: %q, %v", lines, err)
	}
	var used, left int64
	if _, err := fmt.Sscanf(lines[0], "per_minute used %d, ends in %d ms", &used, &left); err != nil {
		t.Fatalf("%q: %v", lines[0], err)
	}
	if used != 3 || left < 59_000-time.Since(before).Milliseconds() || left > 60_000 {
		t.Errorf("%q, want 3 used and a minute", lines[0])
	}
	ttl := client.PTTL(t.Context(), redisstore.Key(subject)).Val()
	left = o.Counts[0].Reset
	if ttl.Milliseconds() > left || ttl < 0 {
		t.Errorf("the key expires in %v, the window ends in %d ms", ttl, left)
	}
}

func TestEveryKeyExpires(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store := newStore(t, client)
	lone, batch := newSubject(t), newSubjects(t, 200)
	take := func(subject string) {
		if _, err := store.Take(t.Context(), charge(subject, 1, perMinute(5))); err != nil {
			t.Error(err)
		}
	}
	take(lone)
	var wg sync.WaitGroup
	for _, subject := range batch {
		wg.Go(func() { take(subject) })
	}
	wg.Wait()
	for _, subject := range append(batch, lone) {
		if ttl := client.PTTL(t.Context(), redisstore.Key(subject)).Val(); ttl <= 0 || ttl > time.Minute {
			t.Errorf("the key of %s expires in %v", subject, ttl)
		}
	}
}

// ulule, upstash and others never repair a key without expiry and block its
// user for ever.
func TestAKeyWithoutExpiryIsRepaired(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	key := redisstore.Key(subject)
	for name, value := range map[string]string{
		"in a window that ended":           storedValue(storedWindow{"per_minute", 5, time.Now().Add(-time.Hour).UnixMilli()}),
		"in a window far too long":         storedValue(storedWindow{"per_minute", 5, time.Now().Add(1000 * time.Hour).UnixMilli()}),
		"with a count beyond all numbers":  storedValue(storedWindow{"per_minute", 1<<56 - 1, time.Now().Add(30 * time.Second).UnixMilli()}),
		"with an end beyond all numbers":   storedValue(storedWindow{"per_hour", 1, 1<<48 - 1}),
		"in a window that is full":         storedValue(storedWindow{"per_minute", 9, time.Now().Add(30 * time.Second).UnixMilli()}),
		"in a window of a limit not asked": storedValue(storedWindow{"per_hour", 9, time.Now().Add(time.Hour).UnixMilli()}),
	} {
		if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		o, err := store.Take(t.Context(), charge(subject, 1, perMinute(9)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if o.Counts[0].Used < 0 || o.Allowed && o.Counts[0].Used > 9 {
			t.Errorf("%s: %+v", name, o)
		}
		if o.Counts[0].Reset > time.Minute.Milliseconds() {
			t.Errorf("%s: the window ends in %d ms", name, o.Counts[0].Reset)
		}
		if ttl := client.PTTL(t.Context(), key).Val(); ttl == -1 {
			t.Errorf("%s: the key still has no expiry", name)
		}
	}
}

// The script for whoever is on call knew no name that slides.
func TestASlidingValueCanBeReadToo(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	limit := tierlimit.Ceiling{Name: "burst", Max: 9, Window: tierlimit.Window{Length: time.Second}, Sliding: true}
	for range 2 {
		if o, err := store.Take(t.Context(), charge(subject, 2, limit)); err != nil || !o.Allowed {
			t.Fatalf("%+v, %v", o, err)
		}
		time.Sleep(1010 * time.Millisecond) // real Redis, real time: it turns
	}
	if _, err := store.Take(t.Context(), charge(subject, 1, limit)); err != nil {
		t.Fatal(err)
	}
	lines, err := client.Eval(t.Context(), scripts.Show.Source, []string{redisstore.Key(subject)}).StringSlice()
	if err != nil || len(lines) != 2 || !strings.HasPrefix(lines[0], "burst used 1, ends in ") || !strings.HasPrefix(lines[1], "burst~ used 2, ends in ") {
		t.Errorf("%q, %v", lines, err)
	}
}

// A repair that looked only at the limits asked for let the key expire with
// them, and with it what was used of the others.
func TestARepairKeepsTheOtherLimits(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	key := redisstore.Key(subject)
	end := time.Now().Add(time.Hour)
	value := storedValue(storedWindow{"exports", 10, end.UnixMilli()}, storedWindow{"per_minute", 5, time.Now().Add(time.Second).UnixMilli()})
	for name, cost := range map[string]int64{"a denial": 1, "a peek": 0} {
		if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Take(t.Context(), charge(subject, cost, perMinute(5))); err != nil {
			t.Fatal(err)
		}
		if ttl := client.PTTL(t.Context(), key).Val(); ttl < time.Until(end)-5*time.Second || ttl > time.Hour {
			t.Errorf("%s: the key expires in %v, the last window ends in an hour", name, ttl)
		}
	}
}

// 72 charges of the largest size, sent as one, passed what 7 bytes hold: the count began
// again at a small number, and the quota with it.
func TestManyOfTheLargestChargesStopWhereCountsStop(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store := newStore(t, client)
	for _, counts := range [][]uint64{{1, 72, 1}, {72, 72}, {1, 8, 1, 1}} {
		subject := newSubject(t)
		key := redisstore.Key(subject)
		used := uint64(0)
		for _, count := range counts {
			text := frame{groups: []frameGroup{{1, 1, 1, "per_minute:", [][3]uint64{{1<<56 - 1, 0, 60000}}, [][2]uint64{{1e15, count}}}}}.String()
			if err := client.Eval(t.Context(), scripts.Take.Source, []string{key}, text).Err(); err != nil {
				t.Fatal(err)
			}
			used = min(used+count*1e15, 1<<53-1)
			stored := client.Get(t.Context(), key).Val()
			if got := stored[len("per_minute:"):][:7]; got != bytesOf(7, used) {
				t.Fatalf("%v: after %d charges the value is %x, want %x", counts, count, got, bytesOf(7, used))
			}
		}
		o, err := store.Take(t.Context(), charge(subject, 0, perMinute(5)))
		if err != nil || o.Counts[0].Used != int64(used) {
			t.Errorf("%+v, %v; want %d", o, err, used)
		}
	}
}

// bytesOf writes numbers as a script does, in size bytes each.
func bytesOf(size int, numbers ...uint64) string {
	var b []byte
	for _, n := range numbers {
		b = append(b, binary64(n)[8-size:]...)
	}
	return string(b)
}

func TestAKeyThatHoldsSomethingElseIsAFaultAndNotAFreshWindow(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	key := redisstore.Key(subject)
	for name, fill := range map[string]func() error{
		"a list":       func() error { return client.LPush(t.Context(), key, "x").Err() },
		"other text":   func() error { return client.Set(t.Context(), key, "hello", 0).Err() },
		"half a value": func() error { return client.Set(t.Context(), key, "per_minute:\x00\x00\x01", 0).Err() },
		"no names":     func() error { return client.Set(t.Context(), key, ":", 0).Err() },
		"a bad name":   func() error { return client.Set(t.Context(), key, "per minute:0123456789abc", 0).Err() },
	} {
		client.Del(t.Context(), key)
		if err := fill(); err != nil {
			t.Fatal(err)
		}
		_, err := store.Take(t.Context(), charge(subject, 1, perMinute(5)))
		if err == nil || errors.Is(err, tierlimit.ErrStoreUnavailable) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, want a fault that names the key and that no policy opens up on", name, err)
		}
	}
	client.Del(t.Context(), key)
}

func TestScriptsRefuseWhatGoWouldNotSend(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	key := redisstore.Key(newSubject(t))
	take := func(text string) error {
		return client.Eval(t.Context(), scripts.Take.Source, []string{key}, text).Err()
	}
	good := func(change func(*frameGroup)) string {
		g := frameGroup{1, 1, 1, "per_minute:", [][3]uint64{{5, 0, 60000}}, [][2]uint64{{2, 1}}}
		if change != nil {
			change(&g)
		}
		return frame{groups: []frameGroup{g}}.String()
	}
	if err := take(good(nil)); err != nil {
		t.Fatal(err)
	}
	before := client.Get(t.Context(), key).Val()
	for name, text := range map[string]string{
		"a huge cost":             good(func(g *frameGroup) { g.runs[0][0] = 1e15 + 1 }),
		"a second cost is huge":   good(func(g *frameGroup) { g.m = 2; g.runs = append(g.runs, [2]uint64{1 << 55, 1}) }),
		"no window":               good(func(g *frameGroup) { g.limits[0][2] = 0 }),
		"a window of ages":        good(func(g *frameGroup) { g.limits[0][2] = 1 << 47 }),
		"an unknown period":       good(func(g *frameGroup) { g.limits[0][1] = 5 }),
		"a period and a length":   good(func(g *frameGroup) { g.limits[0][1] = 9 }),
		"no limits":               good(func(g *frameGroup) { g.n, g.limits = 0, nil }),
		"17 limits":               good(func(g *frameGroup) { g.n, g.limits = 17, slices.Repeat(g.limits, 17) }),
		"no runs":                 good(func(g *frameGroup) { g.m, g.runs = 0, nil }),
		"no keys":                 good(func(g *frameGroup) { g.keys = 0 }),
		"two keys":                good(func(g *frameGroup) { g.keys = 2 }),
		"a name with a space":     good(func(g *frameGroup) { g.head = "per minute:" }),
		"an empty name":           good(func(g *frameGroup) { g.head = ":" }),
		"no head":                 good(func(g *frameGroup) { g.head = "" }),
		"no colon":                good(func(g *frameGroup) { g.head = "per_minute" }),
		"two names for one limit": good(func(g *frameGroup) { g.head = "a,b:" }),
		"one name for two limits": good(func(g *frameGroup) { g.n, g.limits = 2, slices.Repeat(g.limits, 2) }),
		"names out of order":      good(func(g *frameGroup) { g.n, g.limits, g.head = 2, slices.Repeat(g.limits, 2), "b,a:" }),
		"the same name twice":     good(func(g *frameGroup) { g.n, g.limits, g.head = 2, slices.Repeat(g.limits, 2), "a,a:" }),
		"half a frame":            good(nil)[:20],
		"more than a frame":       good(nil) + "x",
		"a second group":          good(nil) + good(nil)[1:],
		"nothing":                 "",
		"only a byte":             "\x00",
	} {
		err := take(text)
		if err == nil {
			reply := client.Eval(t.Context(), scripts.Take.Source, []string{key}, text).Val().(string)
			if reply[6] == 2 {
				continue // an error in the key's place
			}
			t.Errorf("%s: answered %q, want a refusal", name, reply)
		}
	}
	if after := client.Get(t.Context(), key).Val(); after != before {
		t.Errorf("the value went from %q to %q", before, after)
	}
}

func TestOneKeysFailureLeavesTheOthersAlone(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	keys := []string{redisstore.Key(newSubject(t) + "a"), redisstore.Key(newSubject(t) + "b"), redisstore.Key(newSubject(t) + "c")}
	client.LPush(t.Context(), keys[1], "x")
	reply, err := client.Eval(t.Context(), scripts.Take.Source, keys,
		frame{groups: []frameGroup{
			{2, 1, 1, "per_minute:", [][3]uint64{{5, 0, 60000}}, [][2]uint64{{1, 1}}},
			{1, 1, 2, "per_minute:", [][3]uint64{{5, 0, 60000}}, [][2]uint64{{2, 1}, {1, 9}}},
		}}.String()).Text()
	if err != nil {
		t.Fatal(err)
	}
	text := "WRONGTYPE " + keys[1] + " does not hold counters"
	want := "\x00" + // opened
		"\x02\x00\x00\x00" + string(rune(len(text))) + text +
		"\x01" + bytesOf(7, 1, 3) + bytesOf(7, 0) + bytesOf(6, 0) + bytesOf(7, 0) // of costs 2, and nine times 1, with a max of 5
	if reply[6:] != want {
		t.Errorf("answered %q, want %q", reply[6:], want)
	}
	for i, used := range map[int]string{0: "used 1", 2: "used 5"} {
		lines, err := client.Eval(t.Context(), scripts.Show.Source, []string{keys[i]}).StringSlice()
		if err != nil || len(lines) != 1 || !strings.Contains(lines[0], used) {
			t.Errorf("key %d holds %v, %v; want %s", i, lines, err, used)
		}
	}
}

func TestAServerThatForgetsTheScriptsIsTaughtAgain(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	for n := int64(1); n <= 3; n++ {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		o, err := store.Take(t.Context(), charge(subject, 1, perMinute(5)))
		if err != nil || o.Counts[0].Used != n {
			t.Fatalf("after SCRIPT FLUSH: %+v, %v; want %d used", o, err, n)
		}
	}
}

// docs/configuration.md names the least rights; this is a user who has no others.
func TestTheLeastRightsAreEnough(t *testing.T) {
	admin := newClient(t, redisServer.URL, testBudget)
	user := fmt.Sprintf("tl%d", time.Now().UnixNano())
	err := admin.Do(t.Context(), "ACL", "SETUSER", user, "on", ">secret", "~tl:*", "-@all",
		"+eval", "+evalsha", "+get", "+mget", "+set", "+setrange", "+del", "+hget", "+hgetall", "+hset", "+hdel", "+time", "+pttl", "+pexpireat", "+ping", "+hello").Err()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Do(context.Background(), "ACL", "DELUSER", user)
	opts := *admin.Options()
	client := newClient(t, "redis://"+user+":secret@"+opts.Addr, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	for _, c := range []tierlimit.Charge{charge(subject, 5, perMinute(5)), charge(subject, 1, perMinute(5)), charge(subject, 0, perMinute(5))} {
		if _, err := store.Take(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Persist(t.Context(), redisstore.Key(subject)).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Take(t.Context(), charge(subject, 1, perMinute(5))); err != nil {
		t.Errorf("repair: %v", err)
	}
	if err := errors.Join(store.Ping(t.Context()), store.Reset(t.Context(), subject, "per_minute"), store.Reset(t.Context(), subject)); err != nil {
		t.Error(err)
	}
	if err := client.FlushAll(t.Context()).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("FLUSHALL: %v", err)
	}
}

// An operator is told at the start, not when a customer has a second quota.
func TestAServerThatEvictsIsWarnedOf(t *testing.T) {
	own, err := servers.Redis()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	client := newClient(t, own.URL, time.Second)
	s := newStore(t, client)
	if warnings, err := s.Check(t.Context()); err != nil || len(warnings) != 0 {
		t.Errorf("a server as it should be: %q, %v", warnings, err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	if warnings, err := s.Check(t.Context()); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "allkeys-lru") {
		t.Errorf("one that evicts: %q, %v", warnings, err)
	}
	r := startReplica(t, own.URL, newDatabase(t))
	if !strings.Contains(r.log(), "maxmemory-policy is allkeys-lru") {
		t.Errorf("the log says %s", r.log())
	}
	if err := client.Do(t.Context(), "ACL", "SETUSER", "lesser", "on", ">hunter2", "~tl:*", "-@all", "+ping", "+hello").Err(); err != nil {
		t.Fatal(err)
	}
	lesser := newStore(t, newClient(t, strings.Replace(own.URL, "redis://", "redis://lesser:hunter2@", 1), time.Second))
	if warnings, err := lesser.Check(t.Context()); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "+info") {
		t.Errorf("without the right to ask: %q, %v", warnings, err)
	}
}

func TestAClientThatIgnoresDeadlinesIsRefused(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	if _, err := redisstore.New(client, redisstore.Config{}); err == nil || !strings.Contains(err.Error(), "ContextTimeoutEnabled") {
		t.Fatalf("got %v", err)
	}
}

// A hold from before Redis lost its memory cannot be settled against later charges.
func TestNoHoldOutlivesTheMemoryOfRedis(t *testing.T) {
	client := newClient(t, redisServer.URL, 5*time.Second)
	store, subject := newStore(t, client), newSubject(t)
	var ids []tierlimit.HoldID
	for range 20 {
		ids = append(ids, held(t, store, subject, 1, perDay(100)))
	}
	flushAll(t, client)
	for range 5 {
		_, err := store.Take(t.Context(), charge(subject, 1, perDay(100)))
		must(t, err)
	}
	for _, id := range ids {
		if settled, err := store.Settle(t.Context(), tierlimit.Correction{Subject: subject, ID: id}); err != nil || settled.Found {
			t.Fatalf("%+v, %v", settled, err)
		}
	}
	if n := used(t, store, subject, perDay(100)); n != 5 {
		t.Errorf("%d used", n)
	}
}

// A subject has at most two keys, and one key when it has no open holds.
func TestHoldsLeaveNoKeysBehind(t *testing.T) {
	client := newClient(t, redisServer.URL, 5*time.Second)
	store, subject := newStore(t, client), newSubject(t)
	keys := func() int {
		list, err := client.Keys(t.Context(), "tl:{"+subject+"}*").Result()
		must(t, err)
		return len(list)
	}
	for i := range 1000 {
		id := held(t, store, subject, 1, perMinute(10_000))
		if i%100 == 0 && keys() != 2 {
			t.Fatalf("%d keys with an open hold", keys())
		}
		if settled, err := store.Settle(t.Context(), tierlimit.Correction{Subject: subject, ID: id, Cost: 1}); err != nil || !settled.Found {
			t.Fatalf("%+v, %v", settled, err)
		}
	}
	if n := keys(); n != 1 {
		t.Errorf("%d keys without one", n)
	}
	held(t, store, subject, 1, perMinute(10_000))
	if ttl := client.PTTL(t.Context(), "tl:{"+subject+"}:holds").Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("the key of the holds expires in %v", ttl)
	}
}

// A reset of all limits repairs a key of any type; a reset of one limit does not change it.
func TestAResetHealsKeysThatHoldSomethingElse(t *testing.T) {
	client := newClient(t, redisServer.URL, 5*time.Second)
	store := newStore(t, client)
	for _, suffix := range []string{"", ":holds"} {
		subject := newSubject(t)
		held(t, store, subject, 5, perHour(100), perMinute(100))
		key := "tl:{" + subject + "}" + suffix
		must(t, client.Del(t.Context(), key).Err())
		must(t, client.LPush(t.Context(), key, "x").Err())
		if err := store.Reset(t.Context(), subject, "per_hour"); err == nil {
			t.Errorf("%s: a reset of one limit", key)
		}
		must(t, store.Reset(t.Context(), subject))
		held(t, store, subject, 5, perHour(100), perMinute(100))
		if n := used(t, store, subject, perMinute(100)); n != 5 {
			t.Errorf("%s: %d used", key, n)
		}
	}
}
