package redisstore_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/redisstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// Compiled and not run: it needs a Redis.
func Example() {
	opts, err := redisstore.Options("redis://127.0.0.1:6379/0", tierlimit.DefaultBudget)
	if err != nil {
		log.Fatal(err)
	}
	client := redis.NewClient(opts)
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	resolver, err := tiers.Static([]tiers.Tier{{
		Key: "trial", Default: true,
		Limits: tiers.Limits{
			"burst":     {Max: 10, Window: tierlimit.Window{Length: time.Second}},
			"per_month": {Max: 10_000, Window: tierlimit.Window{Period: tierlimit.Month}},
			"exports":   {Scope: "exports", Max: 3, Window: tierlimit.Window{Period: tierlimit.Day}},
		},
	}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{
		Store: store,
		Tiers: resolver,
		Local: memstore.New(memstore.Config{}), // counts here while Redis is away
	})
	if err != nil {
		log.Fatal(err)
	}
	d, err := lim.Take(context.Background(), tierlimit.Request{Subject: "acct_42", Scope: "exports"})
	if err != nil {
		log.Print(err) // d is filled in all the same
	}
	fmt.Println(d.Allowed, d.Reason, d.RetryAfter)
}

func ExampleKey() {
	fmt.Println(redisstore.Key("acct_42"))
	fmt.Println(redisstore.Key("ip:203.0.113.7"))
	fmt.Println(redisstore.Key("a}{b"))
	// Output:
	// tl:{acct_42}
	// tl:{ip:203.0.113.7}
	// tl:{a%7D%7Bb}
}
