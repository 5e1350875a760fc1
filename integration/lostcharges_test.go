package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// What becomes of charges when the way to Redis fails.

func TestALostReplyIsChargedAtMostOnce(t *testing.T) {
	direct := newClient(t, redisServer.URL, testBudget)
	between := newProxy(t, direct)
	client := newClient(t, "redis://"+between.Addr, 300*time.Millisecond)
	store, subject := newStore(t, client), newSubject(t)
	if _, err := store.Take(t.Context(), charge(subject, 1, perMinute(100))); err != nil {
		t.Fatal(err)
	}
	between.Replies(lost)
	_, err := store.Take(t.Context(), charge(subject, 1, perMinute(100)))
	if !isNoAnswer(err) {
		t.Fatalf("a lost reply gave %v, want store unavailable", err)
	}
	between.Replies(nil)
	o, err := newStore(t, direct).Take(t.Context(), charge(subject, 0, perMinute(100)))
	if err != nil || o.Counts[0].Used != 2 {
		t.Fatalf("after one charge and one whose reply was lost: %+v, %v; want 2 used", o, err)
	}
}

// A connection that is cut leaves time to ask again: nobody does, as the charge may
// have been made.
func TestAChargeWhoseConnectionIsCutIsNotSentAgain(t *testing.T) {
	direct := newClient(t, redisServer.URL, testBudget)
	between := newProxy(t, direct)
	store, subject := newStore(t, newClient(t, "redis://"+between.Addr, testBudget)), newSubject(t)
	if _, err := store.Take(t.Context(), charge(subject, 1, perMinute(100))); err != nil {
		t.Fatal(err)
	}
	between.Next(proxy.Fate{Cut: true})
	if _, err := store.Take(t.Context(), charge(subject, 1, perMinute(100))); !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		t.Errorf("a connection that was cut gave %v, want store unavailable", err)
	}
	o, err := newStore(t, direct).Take(t.Context(), charge(subject, 0, perMinute(100)))
	if err != nil || o.Counts[0].Used != 2 {
		t.Errorf("after one charge and one whose connection was cut: %+v, %v; want 2 used", o, err)
	}
}

func TestADecisionKeepsItsBudget(t *testing.T) {
	const budget, slack = 50 * time.Millisecond, 450 * time.Millisecond
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	direct := newClient(t, redisServer.URL, testBudget)
	silent := newProxy(t, direct)
	silent.Replies(lost)
	for name, url := range map[string]string{
		"replies that never come":      "redis://" + silent.Addr,
		"a connection that is refused": "redis://127.0.0.1:1",
		"a server that never accepts":  "redis://" + deaf.Addr().String(),
	} {
		store := newStore(t, newClient(t, url, budget))
		lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: builtinResolver(t), Budget: budget, Local: memstore.New(memstore.Config{})})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			began := time.Now()
			d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
			if took := time.Since(began); *onTime && took > budget+slack {
				t.Errorf("%s: a decision took %v", name, took)
			}
			if errors.Is(err, redisstore.ErrLate) && !*onTime {
				continue // a busy machine: nothing is known of Redis
			}
			if !errors.Is(err, tierlimit.ErrStoreUnavailable) || !d.Allowed || !d.Degraded {
				t.Errorf("%s: %+v, %v", name, d, err)
			}
		}
	}
}

func builtinResolver(t *testing.T) tierlimit.Resolver {
	t.Helper()
	r, err := tiers.Static(tiers.Builtin(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAChargeGivenUpBeforeItLeftIsNeverMade(t *testing.T) {
	direct := newClient(t, redisServer.URL, testBudget)
	between := newProxy(t, direct)
	store, subject := newStore(t, newClient(t, "redis://"+between.Addr, time.Second)), newSubject(t)
	between.Replies(lost)
	var sent, unsent atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			_, err := store.Take(ctx, charge(subject, 1, perMinute(100)))
			switch {
			case !isNoAnswer(err):
				t.Errorf("got %v", err)
			case errors.Is(err, redisstore.ErrNotSent):
				unsent.Add(1)
			default:
				sent.Add(1)
			}
		})
		time.Sleep(5 * time.Millisecond) // so that each finds the calls before it stuck
	}
	wg.Wait()
	if unsent.Load() == 0 {
		t.Fatal("nothing was given up in the queue: the test shows nothing")
	}
	between.Replies(nil)
	// The stuck calls end with their timeout; what they carried is counted once.
	eventually(t, 10*time.Second, "a call goes through", func() bool {
		_, err := store.Take(t.Context(), charge(subject, 0, perMinute(100)))
		return err == nil
	})
	o, err := newStore(t, direct).Take(t.Context(), charge(subject, 0, perMinute(100)))
	if err != nil || o.Counts[0].Used > sent.Load() {
		t.Errorf("%d used, %d were sent and %d given up before: %v", o.Counts[0].Used, sent.Load(), unsent.Load(), err)
	}
}

func TestOneSubjectsFaultLeavesThoseInItsBatchAlone(t *testing.T) {
	client := newClient(t, redisServer.URL, testBudget)
	store, subject := newStore(t, client), newSubject(t)
	if err := client.LPush(t.Context(), redisstore.Key(subject), "x").Err(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			name := subject
			if i%3 != 0 {
				name = fmt.Sprint(subject, i)
			}
			o, err := store.Take(context.Background(), charge(name, 1, perMinute(5)))
			if faulty := name == subject; faulty != (err != nil) || !faulty && o.Counts[0].Used != 1 {
				t.Errorf("%s: %+v, %v", name, o, err)
			}
		})
	}
	wg.Wait()
}

// newProxy stands before the server of a client, until the test ends.
func newProxy(t *testing.T, upstream *redis.Client) *proxy.Proxy {
	t.Helper()
	p, err := proxy.New(upstream.Options().Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// lost is the fate of all replies of a server that only listens.
func lost(proxy.Reply) proxy.Fate { return proxy.Fate{Lost: true} }

// A program that was wired as the README says waited a whole budget for each of its
// requests while Redis was stopped; only the service had a breaker.
func TestAProgramThatImportsThePackageHasABreaker(t *testing.T) {
	opts, err := redisstore.Options("redis://"+deafServer(t), tierlimit.DefaultBudget)
	must(t, err)
	client := redis.NewClient(opts)
	defer client.Close()
	opened := make(chan struct{}, 1)
	store, err := redisstore.New(client, redisstore.Config{
		OnChange: func(string, bool, error) { opened <- struct{}{} },
	})
	must(t, err)
	defer store.Close(t.Context())
	lim, err := tierlimit.New(tierlimit.Config{Store: store, Tiers: builtinResolver(t), Local: memstore.New(memstore.Config{})})
	must(t, err)

	slow, fast := 0, 0
	for fast < 8 && slow < 40 { // five failures open it; a busy machine is at the next try sooner
		d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42"})
		if err == nil || !d.Degraded {
			t.Fatalf("%+v, %v", d, err)
		}
		if errors.Is(err, redisstore.ErrOpen) {
			fast++
		} else {
			slow++
		}
	}
	if fast < 8 || *onTime && slow > 8 {
		t.Errorf("%d decisions waited for Redis, and %d did not", slow, fast)
	}
	select {
	case <-opened:
	default:
		t.Error("nobody was told")
	}
}

// deafServer listens, and answers nobody.
func deafServer(t *testing.T) (addr string) {
	t.Helper()
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { deaf.Close() })
	return deaf.Addr().String()
}

// A Redis 30 ms away was never reached with a budget of 50 ms: the greeting of each new
// connection had to fit into it, beside the call.
func TestAFarRedisIsReachedAlthoughAConnectionTakesLongerThanTheBudget(t *testing.T) {
	const budget = 300 * time.Millisecond // of a machine that may be busy; what is shown is a ratio
	direct := newClient(t, redisServer.URL, testBudget)
	between := newProxy(t, direct)
	between.Replies(func(proxy.Reply) proxy.Fate { return proxy.Fate{Delay: 6 * budget / 10} })
	store, subject := newStore(t, newClient(t, "redis://"+between.Addr+"/1", budget)), newSubject(t)
	eventually(t, 10*time.Second, "a charge is answered in time", func() bool {
		_, err := store.Take(t.Context(), charge(subject, 1, perMinute(1000)))
		return err == nil
	})
}

// Of a Cluster also the map of its slots has to be asked for.
func TestAFarClusterIsReachedToo(t *testing.T) {
	const budget = 300 * time.Millisecond
	c, w := newCluster(t, false), newWires(t)
	w.replies(func(proxy.Reply) proxy.Fate { return proxy.Fate{Delay: 6 * budget / 10} })
	store, subject := clusterStore(t, c.URL(), budget, w), newSubject(t)
	eventually(t, 10*time.Second, "a charge is answered in time", func() bool {
		_, err := store.Take(t.Context(), charge(subject, 1, perMinute(1000)))
		return err == nil
	})
}
