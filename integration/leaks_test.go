package integration

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/durable"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers/cache"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// Whatever failed while it was used: once all parts are closed, none of their
// goroutines is left.
func TestNothingIsLeftRunningAfterAFault(t *testing.T) {
	database := newDatabase(t)
	cut := func(proxy.Reply) proxy.Fate { return proxy.Fate{Cut: true} }
	for name, fail := range map[string]func(redis, postgres *proxy.Proxy){
		"nothing fails":            func(*proxy.Proxy, *proxy.Proxy) {},
		"both are refused":         func(r, p *proxy.Proxy) { r.Refuse(true); p.Refuse(true) },
		"both are black holes":     func(r, p *proxy.Proxy) { r.Hole(true); p.Hole(true) },
		"connections are stranded": func(r, _ *proxy.Proxy) { r.Strand() }, // pgx looks after one that is cut off for 15 s
		"replies are lost":         func(r, p *proxy.Proxy) { r.Replies(lost); p.Replies(lost) },
		"connections are cut":      func(r, p *proxy.Proxy) { r.Replies(cut); p.Replies(cut) },
		"both are slow and come back": func(r, p *proxy.Proxy) {
			r.Replies(delayed(200 * time.Millisecond))
			p.Replies(delayed(200 * time.Millisecond))
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			useAndClose(t, database, fail)
			var err error
			for range 100 {
				if err = goleak.Find(before); err == nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Error(err)
		})
	}
}

// useAndClose makes all that a service is made of, uses it while something fails, and
// closes it.
func useAndClose(t *testing.T, database string, fail func(redis, postgres *proxy.Proxy)) {
	ctx := context.Background()
	at, err := url.Parse(database)
	must(t, err)
	postgresWire, err := proxy.New(at.Host)
	must(t, err)
	defer postgresWire.Close()
	at.Host = postgresWire.Addr
	opts, err := redis.ParseURL(redisServer.URL)
	must(t, err)
	redisWire, err := proxy.New(opts.Addr)
	must(t, err)
	defer redisWire.Close()

	catalogue, err := pgtiers.Open(ctx, at.String())
	must(t, err)
	defer catalogue.Close()
	plans, err := cache.New(ctx, catalogue, cache.Config{})
	must(t, err)
	defer plans.Close()
	cpu, err := load.New(load.Config{Tiers: plans.Tiers, Meter: load.Fixed(0)})
	must(t, err)
	defer cpu.Close()
	opts, err = redisstore.Options("redis://"+redisWire.Addr, 50*time.Millisecond)
	must(t, err)
	client := redis.NewClient(opts)
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Config{})
	must(t, err)
	closing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	defer store.Close(closing)
	ledger := durable.New(store, catalogue, durable.Config{Known: plans.Known, Every: 50 * time.Millisecond})
	defer ledger.Close(closing)
	lim, err := tierlimit.New(tierlimit.Config{
		Store: ledger, Tiers: plans, Load: cpu, Local: memstore.New(memstore.Config{}),
	})
	must(t, err)

	use := func() {
		var wg sync.WaitGroup
		for caller := range 16 {
			wg.Go(func() {
				for i := range 20 {
					ctx, cancel := context.WithCancel(ctx)
					if i%4 == 0 {
						time.AfterFunc(time.Millisecond, cancel)
					}
					_, _ = lim.Take(ctx, tierlimit.Request{Subject: fmt.Sprint("leak-", caller, "-", i)})
					cancel()
				}
			})
		}
		wg.Wait()
	}
	use()
	fail(redisWire, postgresWire)
	use()
	for _, wire := range []*proxy.Proxy{redisWire, postgresWire} {
		wire.Replies(nil)
		wire.Hole(false)
		wire.Refuse(false)
	}
	use()
}
