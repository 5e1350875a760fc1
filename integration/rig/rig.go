// Package rig runs the service as its users do, with all around it that may fail: some
// replicas of the binary, a Redis that can be killed and frozen, and wires to Redis and
// Postgres that can be cut. Clients ask at a steady rate and write down what they are
// told, for comparison with what was counted.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// Config says what a Rig is made of.
type Config struct {
	Binary   string        // required: the built tierlimit
	Database string        // required: the URL of an empty database
	Replicas int           // default 2
	Budget   time.Duration // of a decision; default 100ms
	Args     []string      // more for `tierlimit serve`
	RedisURL string        // parameters of the URL, such as "?pool_size=1"
	Down     bool          // Redis is not started yet
	Direct   bool          // replicas reach Redis without RedisWire, which needs CPU of this process
}

// AdminToken opens everything.
const AdminToken = "owner-token-of-the-rig"

// The tiers of a Rig, beside the built-in ones.
const (
	Counted  = "counted"  // counts by the hour without a max
	Metered  = "metered"  // admits MeteredMax an hour, locally too
	Open     = "opens"    // as metered, but opens up without Redis
	Closed   = "closes"   // as metered, but closes without Redis
	Together = "together" // counts by the hour, and admits TogetherMax at once
)

// TogetherMax is the most open holds of a subject on Together.
const TogetherMax = 5

// MeteredMax is how many requests an hour the tiers with a max admit.
const MeteredMax = 15

// A Rig is the service, and what it needs. It is for one goroutine; a Run is for many.
type Rig struct {
	Config
	Machine      *servers.Machine
	Redis        *servers.Process
	RedisWire    *proxy.Proxy // between the replicas and Redis
	PostgresWire *proxy.Proxy // between the replicas and Postgres
	Replicas     []*Replica
	Client       *redis.Client // straight to Redis
	counters     *redisstore.Store
}

// New starts a Rig. Close it.
func New(cfg Config) (*Rig, error) {
	if cfg.Replicas == 0 {
		cfg.Replicas = 2
	}
	if cfg.Budget == 0 {
		cfg.Budget = 100 * time.Millisecond
	}
	r := &Rig{Config: cfg}
	if err := r.start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Rig) start() (err error) {
	if r.Machine, err = servers.NewMachine(3); err != nil {
		return err
	}
	if r.Redis, err = r.Machine.Redis(); err != nil {
		return err
	}
	if r.Down {
		if err := r.Redis.Kill(); err != nil {
			return err
		}
	}
	if r.RedisWire, err = proxy.New(r.Redis.Addr); err != nil {
		return err
	}
	database, err := url.Parse(r.Database)
	if err != nil {
		return err
	}
	if r.PostgresWire, err = proxy.New(database.Host); err != nil {
		return err
	}
	opts, err := redisstore.Options("redis://"+r.Redis.Addr, 5*time.Second)
	if err != nil {
		return err
	}
	r.Client = redis.NewClient(opts)
	if r.counters, err = redisstore.New(r.Client, redisstore.Config{Budget: 5 * time.Second}); err != nil {
		return err
	}
	for range r.Config.Replicas {
		if err := r.AddReplica(); err != nil {
			return err
		}
	}
	if err := r.addTiers(); err != nil {
		return err
	}
	return r.meet()
}

// meet returns once all replicas know how many they are.
func (r *Rig) meet() error {
	all := fmt.Sprintf(`"msg":"replicas alive","now":%d`, len(r.Replicas))
	return r.Await(10*time.Second, "all replicas know of each other", func() bool {
		for _, one := range r.Replicas[:max(0, len(r.Replicas)-1)] { // the last one found them there
			if !strings.Contains(one.Log(), all) {
				return false
			}
		}
		return true
	})
}

// AddReplica starts one more.
func (r *Rig) AddReplica() error {
	one, err := r.newReplica()
	if err == nil {
		r.Replicas = append(r.Replicas, one)
	}
	return err
}

// Drop forgets a replica that has ended.
func (r *Rig) Drop(one *Replica) {
	r.Replicas = slices.DeleteFunc(r.Replicas, func(other *Replica) bool { return other == one })
}

func (r *Rig) newReplica() (*Replica, error) {
	database, err := url.Parse(r.Database)
	if err != nil {
		return nil, err
	}
	database.Host = r.PostgresWire.Addr
	addr := r.RedisWire.Addr
	if r.Direct {
		addr = r.Redis.Addr
	}
	return StartReplica(r.Binary, append([]string{
		"--redis-url", "redis://" + addr + "/0" + r.RedisURL, "--database-url", database.String(),
		"--admin-token", AdminToken, "--budget", r.Budget.String(), "--load-mode", "off",
	}, r.Args...)...)
}

func (r *Rig) addTiers() error {
	limits := fmt.Sprintf(`"limits":{"per_hour":{"max":%d,"window":"1h"}}`, MeteredMax)
	for _, tier := range []string{
		`{"key":"` + Counted + `","limits":{"per_hour":{"max":null,"window":"1h"}}}`,
		`{"key":"` + Metered + `",` + limits + `}`,
		`{"key":"` + Open + `","on_store_error":"open",` + limits + `}`,
		fmt.Sprintf(`{"key":%q,"limits":{"per_hour":{"max":null,"window":"1h"},"at_once":{"max":%d,"concurrent":true}}}`, Together, TogetherMax),
		`{"key":"` + Closed + `","on_store_error":"closed",` + limits + `}`,
	} {
		if err := r.Change("POST", "/admin/v1/tiers", tier); err != nil {
			return err
		}
	}
	return nil
}

// AddSubject puts a subject on a tier, on all replicas.
func (r *Rig) AddSubject(id, tier string) error {
	if err := r.Change("POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":%q}`, id, tier)); err != nil {
		return err
	}
	return r.Await(10*time.Second, fmt.Sprintf("%s is on %s", id, tier), func() bool {
		for _, one := range r.Replicas {
			if d, _ := one.Decide("peek", id); d.Tier != tier {
				return false
			}
		}
		return true
	})
}

// Change asks the first replica that lives to change something, and wants it done.
func (r *Rig) Change(method, path, body string) error {
	err := errors.New("no replica lives")
	for _, one := range r.Replicas {
		if one.Ended() {
			continue
		}
		var status int
		var answer []byte
		if status, answer, err = one.ask(method, one.Admin+path, body); err == nil && status > 299 {
			err = fmt.Errorf("%s %s: %d: %s", method, path, status, answer)
		}
		break
	}
	return err
}

// Await returns once something holds, or an error that says what does not.
func (r *Rig) Await(within time.Duration, what string, holds func() bool) error {
	for deadline := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v it does not hold that %s", within, what)
		}
	}
	return nil
}

// Used is what Redis has counted of a subject's hour.
func (r *Rig) Used(id string) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ceilings, err := tierlimit.NewCeilings(tierlimit.Ceiling{
		Name: "per_hour", Max: tierlimit.Unlimited, Window: tierlimit.Window{Length: time.Hour},
	})
	if err != nil {
		return 0, err
	}
	o, err := r.counters.Take(ctx, tierlimit.Charge{Subject: id, Ceilings: ceilings})
	if err != nil {
		return 0, err
	}
	return o.Counts[0].Used, nil
}

// Close ends all that the Rig started.
func (r *Rig) Close() {
	for _, one := range r.Replicas {
		one.Kill()
	}
	if r.counters != nil {
		_ = r.counters.Close(context.Background())
	}
	if r.Client != nil {
		_ = r.Client.Close()
	}
	for _, wire := range []*proxy.Proxy{r.RedisWire, r.PostgresWire} {
		if wire != nil {
			wire.Close()
		}
	}
	if r.Machine != nil {
		r.Machine.Stop()
	}
}

// client is for what is asked now and then.
var client = &http.Client{Timeout: 30 * time.Second}

func (r *Replica) ask(method, url, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+AdminToken)
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}
