package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
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
	s, err := redisstore.New(client)
	if err != nil {
		t.Fatal(err)
	}
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

// The clock of a real Redis cannot be set; miniredis runs the same scripts on
// one that can. TestLuaCalendar holds the calendar itself against real Redis.
func TestRedisScriptsClock(t *testing.T) {
	storetest.RunClock(t, func(t *testing.T) storetest.Harness {
		server := miniredis.RunT(t)
		now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
		set := func(to time.Time) { now = to; server.SetTime(to) }
		set(now)
		return storetest.Harness{
			Store:  newStore(t, newClient(t, "redis://"+server.Addr(), testBudget)),
			Now:    func() time.Time { return now },
			SetNow: set,
			// Keys do not expire here: miniredis counts a lifetime down where
			// Redis compares with an instant, and they part when the clock steps
			// back. That keys do expire is shown on the real one.
			Advance: func(d time.Duration) { set(now.Add(d)) },
		}
	})
}

func TestLuaCalendar(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	script := redis.NewScript(scripts.Time + `
		local ends = {}
		for i = 2, #ARGV do ends[i - 1] = string.format('%.0f', window_end(ARGV[1], tonumber(ARGV[i]))) end
		return ends`)
	for _, window := range []tierlimit.Window{{Period: tierlimit.Day}, {Period: tierlimit.Week}, {Period: tierlimit.Month}} {
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
		got, err := script.Run(t.Context(), client, nil, append([]any{string(window.Period)}, instants...)...).StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		for i, instant := range instants {
			at := time.UnixMilli(instant.(int64)).UTC()
			if want := fmt.Sprint(window.End(at).UnixMilli()); got[i] != want {
				t.Fatalf("%s at %s ends at %s in Lua, %s in Go", window, at, got[i], want)
			}
		}
	}
}

func perMinute(most int64) tierlimit.Ceiling {
	return tierlimit.Ceiling{Name: "per_minute", Max: most, Window: tierlimit.Window{Length: time.Minute}}
}

func charge(subject string, cost int64, c ...tierlimit.Ceiling) tierlimit.Charge {
	return tierlimit.Charge{Subject: subject, Cost: cost, Ceilings: c}
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
	var used, end int64
	value := client.Get(t.Context(), redisstore.Key(subject)).Val()
	if _, err := fmt.Sscanf(value, "per_minute=%d@%d", &used, &end); err != nil {
		t.Fatalf("value %q: %v", value, err)
	}
	if got := time.UnixMilli(end).Sub(before); used != 3 || got < 59*time.Second || got > 65*time.Second {
		t.Errorf("value %q shows %d used until %v from now; want 3 and a minute", value, used, got)
	}
	ttl := client.PTTL(t.Context(), redisstore.Key(subject)).Val()
	if ttl > o.Counts[0].Reset || ttl < o.Counts[0].Reset-5*time.Second {
		t.Errorf("the key expires in %v, the window ends in %v", ttl, o.Counts[0].Reset)
	}
}

// ulule, upstash and others never repair a key without expiry and block its
// user for ever.
func TestAKeyWithoutExpiryIsRepaired(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	key := redisstore.Key(subject)
	for name, value := range map[string]string{
		"in a window that ended":           fmt.Sprintf("per_minute=5@%d", time.Now().Add(-time.Hour).UnixMilli()),
		"in a window far too long":         fmt.Sprintf("per_minute=5@%d", time.Now().Add(1000*time.Hour).UnixMilli()),
		"with a count beyond all numbers":  fmt.Sprintf("per_minute=99999999999999999999@%d", time.Now().Add(30*time.Second).UnixMilli()),
		"with an end beyond all numbers":   "per_hour=1@99999999999999999999",
		"in a window that is full":         fmt.Sprintf("per_minute=9@%d", time.Now().Add(30*time.Second).UnixMilli()),
		"in a window of a limit not asked": fmt.Sprintf("per_hour=9@%d", time.Now().Add(time.Hour).UnixMilli()),
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
		if o.Counts[0].Reset > time.Minute {
			t.Errorf("%s: the window ends in %v", name, o.Counts[0].Reset)
		}
		if ttl := client.PTTL(t.Context(), key).Val(); ttl == -1 {
			t.Errorf("%s: the key still has no expiry", name)
		}
	}
}

func TestAKeyThatHoldsSomethingElseIsAFaultAndNotAFreshWindow(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	key := redisstore.Key(subject)
	for name, fill := range map[string]func() error{
		"a list":        func() error { return client.LPush(t.Context(), key, "x").Err() },
		"other text":    func() error { return client.Set(t.Context(), key, "hello", 0).Err() },
		"half an entry": func() error { return client.Set(t.Context(), key, "per_minute=5@17 per_da", 0).Err() },
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
	take := func(args ...any) error {
		reply, err := client.Eval(t.Context(), scripts.Take.Source, []string{key}, args...).Slice()
		if err == nil && len(reply) == 1 {
			err, _ = reply[0].(error)
		}
		return err
	}
	if err := take(2, 1, "per_minute", 5, 60000); err != nil {
		t.Fatal(err)
	}
	before := client.Get(t.Context(), key).Val()
	for _, args := range [][]any{
		{-1, 1, "per_minute", 5, 60000},
		{0.5, 1, "per_minute", 5, 60000},
		{"1e300", 1, "per_minute", 5, 60000},
		{"nan", 1, "per_minute", 5, 60000},
		{"inf", 1, "per_minute", 5, 60000},
		{"", 1, "per_minute", 5, 60000},
		{1, 1, "per_minute", -2, 60000},
		{1, 1, "per_minute", 1.5, 60000},
		{1, 1, "per_minute", "1e16", 60000},
		{1, 1, "per_minute", "five", 60000},
		{1, 1, "per_minute", 5, 0},
		{1, 1, "per_minute", 5, -60000},
		{1, 1, "per_minute", 5, 0.5},
		{1, 1, "per_minute", 5, "1e300"},
		{1, 1, "per_minute", 5, "year"},
		{1, 1, "per minute", 5, 60000},
		{1, 1, "a=1@2", 5, 60000},
		{1, 1, "", 5, 60000},
		{1, 0},
		{1, 17},
		{1, -1},
		{1, 1.5},
		{1},
		{},
		{1, 2, "per_minute", 5, 60000},
		{1, 1, "per_minute", 5, 60000, "more"},
	} {
		if err := take(args...); err == nil || !strings.Contains(err.Error(), "TIERLIMIT") {
			t.Errorf("%v: %v, want the script's own refusal", args, err)
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
		1, 1, "per_minute", 5, 60000, 1, 1, "per_minute", 5, 60000, 2, 1, "per_minute", 5, 60000).Slice()
	if err != nil {
		t.Fatal(err)
	}
	if _, failed := reply[1].(error); !failed {
		t.Errorf("the list was answered %v", reply[1])
	}
	for i, want := range map[int]int64{0: 1, 2: 2} {
		if fields, ok := reply[i].([]any); !ok || fields[0] != int64(1) || fields[1] != want {
			t.Errorf("key %d was answered %v, want %d used", i, reply[i], want)
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

// go-redis with its defaults sends a call up to four times: one request would
// be counted four times.
// The README names the least rights; this is a user who has no others.
func TestTheLeastRightsAreEnough(t *testing.T) {
	admin := newClient(t, redisServer.URL, testBudget)
	user := fmt.Sprintf("tl%d", time.Now().UnixNano())
	err := admin.Do(t.Context(), "ACL", "SETUSER", user, "on", ">secret", "~tl:*", "-@all",
		"+eval", "+evalsha", "+get", "+set", "+del", "+time", "+pttl", "+pexpireat", "+ping", "+hello").Err()
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

// Contract: a decision never takes longer than its budget, whatever Redis does.
// The slack is the machine's: what is shown is that nothing waits for seconds.
// With every call stuck, a charge that is given up in the queue must not turn
// up later.
func TestAClientThatIgnoresDeadlinesIsRefused(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	if _, err := redisstore.New(client); err == nil || !strings.Contains(err.Error(), "ContextTimeoutEnabled") {
		t.Fatalf("got %v", err)
	}
}

// A replyEater passes everything on to Redis, and while told to, nothing back.
