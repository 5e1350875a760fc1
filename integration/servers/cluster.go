package servers

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Slots is how many hash slots a Cluster has.
const Slots = 16384

// A Cluster is masters of a Redis Cluster that share the slots evenly, and a replica
// of each if asked for.
type Cluster struct {
	Masters, Replicas []*Process
}

// NewCluster starts a Cluster on m, with more arguments for each redis-server.
func NewCluster(m *Machine, masters int, replicas bool, args ...string) (*Cluster, error) {
	c := &Cluster{}
	args = append([]string{
		"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-announce-ip", "127.0.0.1",
		"--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0",
	}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for i := range masters {
		p, err := m.Redis(args...)
		if err != nil {
			return nil, err
		}
		c.Masters = append(c.Masters, p)
		first, last := i*Slots/masters, (i+1)*Slots/masters-1
		if err := c.on(p, func(r *redis.Client) error { return r.ClusterAddSlotsRange(ctx, first, last).Err() }); err != nil {
			return nil, err
		}
		// Epochs of their own, or the masters argue about who is who for a while.
		if err := c.on(p, func(r *redis.Client) error { return r.Do(ctx, "cluster", "set-config-epoch", i+1).Err() }); err != nil {
			return nil, err
		}
	}
	if replicas {
		for range masters {
			p, err := m.Redis(args...)
			if err != nil {
				return nil, err
			}
			c.Replicas = append(c.Replicas, p)
		}
	}
	all := append(append([]*Process{}, c.Masters...), c.Replicas...)
	for _, p := range all[1:] {
		if err := c.on(p, func(r *redis.Client) error { return r.ClusterMeet(ctx, "127.0.0.1", c.Masters[0].Port).Err() }); err != nil {
			return nil, err
		}
	}
	if err := c.await(ctx, all); err != nil {
		return nil, err
	}
	return c, c.follow(ctx)
}

// follow makes the replicas follow their masters.
func (c *Cluster) follow(ctx context.Context) error {
	for i, p := range c.Replicas {
		id, err := c.id(ctx, c.Masters[i])
		if err != nil {
			return err
		}
		err = c.on(p, func(r *redis.Client) error { return r.ClusterReplicate(ctx, id).Err() })
		if err != nil {
			return err
		}
		err = until(ctx, func() error {
			return c.on(p, func(r *redis.Client) error { return contains(r.Info(ctx, "replication"), "master_link_status:up") })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// await returns once all know of each other and of all slots.
func (c *Cluster) await(ctx context.Context, all []*Process) error {
	for _, p := range all {
		err := until(ctx, func() error {
			return c.on(p, func(r *redis.Client) error {
				return contains(r.ClusterInfo(ctx), "cluster_state:ok", fmt.Sprintf("cluster_slots_assigned:%d", Slots), fmt.Sprintf("cluster_known_nodes:%d", len(all)))
			})
		})
		if err != nil {
			return fmt.Errorf("the cluster does not come about: %w", err)
		}
	}
	return nil
}

func contains(answer *redis.StringCmd, wants ...string) error {
	text, err := answer.Result()
	for _, want := range wants {
		if err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("no %s in %q", want, text)
		}
	}
	return err
}

// until asks again until there is no error, or ctx ends.
func until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Replicated returns once each replica has all that its master has written by now.
func (c *Cluster) Replicated(ctx context.Context) error {
	for i, master := range c.Masters {
		written, err := c.offset(ctx, master, "master_repl_offset:")
		if err != nil {
			return err
		}
		err = until(ctx, func() error {
			heard, err := c.offset(ctx, c.Replicas[i], "slave_repl_offset:")
			if err == nil && heard < written {
				err = fmt.Errorf("the replica on port %s has %d of %d bytes", c.Replicas[i].Port, heard, written)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// offset returns a number of bytes that INFO REPLICATION names.
func (c *Cluster) offset(ctx context.Context, p *Process, name string) (n int64, err error) {
	err = c.on(p, func(r *redis.Client) error {
		text, err := r.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		_, rest, found := strings.Cut(text, name)
		if !found {
			return fmt.Errorf("no %s in %q", name, text)
		}
		line, _, _ := strings.Cut(rest, "\r\n")
		n, err = strconv.ParseInt(line, 10, 64)
		return err
	})
	return n, err
}

// Promoted returns when one of the replicas says that it is a master, or ctx ends.
func (c *Cluster) Promoted(ctx context.Context) time.Time {
	_ = until(ctx, func() error {
		var err error
		for _, p := range c.Replicas {
			err = c.on(p, func(r *redis.Client) error { return contains(r.Info(ctx, "replication"), "role:master") })
			if err == nil {
				break
			}
		}
		return err
	})
	return time.Now()
}

func (c *Cluster) on(p *Process, ask func(*redis.Client) error) error {
	r := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1})
	defer r.Close()
	if err := ask(r); err != nil {
		return fmt.Errorf("redis-server on port %s: %w", p.Port, err)
	}
	return nil
}

func (c *Cluster) id(ctx context.Context, p *Process) (id string, err error) {
	err = c.on(p, func(r *redis.Client) (err error) { id, err = r.Do(ctx, "cluster", "myid").Text(); return err })
	return id, err
}

// URL is of all masters, as redisstore.ClusterOptions reads it.
func (c *Cluster) URL() string {
	url, sep := "redis://"+c.Masters[0].Addr, "?addr="
	for _, p := range c.Masters[1:] {
		url, sep = url+sep+p.Addr, "&addr="
	}
	return url
}

// Migrate moves slots from one master to another while they are in use, as
// redis-cli --cluster reshard does: key by key, each of them here or there.
// See https://redis.io/docs/latest/commands/cluster-setslot/.
func (c *Cluster) Migrate(ctx context.Context, from, to *Process, slots ...int) error {
	for _, slot := range slots {
		err := c.settled(ctx)
		if err == nil {
			err = c.between(ctx, from, to, func(r *route) error { return r.migrate(ctx, slot) })
		}
		for _, p := range c.Masters {
			if err == nil && p != from && p != to {
				err = c.assign(ctx, p, to, slot)
			}
		}
		if err != nil {
			return fmt.Errorf("migrate slot %d: %w", slot, err)
		}
	}
	return nil
}

// settled returns once all masters know the same epoch. The new owner of a slot takes the
// next epoch by itself: a master that has not heard of the last one takes an epoch that is
// too low, and the others take the slot back from it.
func (c *Cluster) settled(ctx context.Context) error {
	return until(ctx, func() error {
		epochs := make(map[string]string)
		for _, p := range c.Masters {
			err := c.on(p, func(r *redis.Client) error {
				text, err := r.ClusterInfo(ctx).Result()
				_, epoch, _ := strings.Cut(text, "cluster_current_epoch:")
				epoch, _, _ = strings.Cut(epoch, "\r\n")
				epochs[epoch] = p.Port
				return err
			})
			if err != nil {
				return err
			}
		}
		if len(epochs) > 1 {
			return fmt.Errorf("the masters know different epochs, by port: %v", epochs)
		}
		return nil
	})
}

// assign tells p, which has neither given nor taken a slot, who has it now.
func (c *Cluster) assign(ctx context.Context, p, owner *Process, slot int) error {
	id, err := c.id(ctx, owner)
	if err != nil {
		return err
	}
	return c.on(p, func(r *redis.Client) error { return r.Do(ctx, "cluster", "setslot", slot, "node", id).Err() })
}

// A route is from one master to another.
type route struct {
	from, to       *redis.Client
	source, target string // their ids
	port           string // of the target
}

func (c *Cluster) between(ctx context.Context, from, to *Process, do func(*route) error) error {
	source, err := c.id(ctx, from)
	if err != nil {
		return err
	}
	target, err := c.id(ctx, to)
	if err != nil {
		return err
	}
	return c.on(from, func(f *redis.Client) error {
		return c.on(to, func(t *redis.Client) error { return do(&route{f, t, source, target, to.Port}) })
	})
}

// slotPause is how long a slot stays marked before its first key is moved.
const slotPause = 2 * time.Millisecond

// Slot is the one of a key.
func (c *Cluster) Slot(ctx context.Context, key string) (slot int, err error) {
	err = c.on(c.Masters[0], func(r *redis.Client) error {
		n, err := r.ClusterKeySlot(ctx, key).Result()
		slot = int(n)
		return err
	})
	return slot, err
}

// Open leaves a slot half way from one master to another, as a move does that was
// interrupted.
func (c *Cluster) Open(ctx context.Context, from, to *Process, slot int) error {
	return c.between(ctx, from, to, func(r *route) error { return r.open(ctx, slot) })
}

func (r *route) open(ctx context.Context, slot int) error {
	if err := r.to.Do(ctx, "cluster", "setslot", slot, "importing", r.source).Err(); err != nil {
		return err
	}
	return r.from.Do(ctx, "cluster", "setslot", slot, "migrating", r.target).Err()
}

func (r *route) migrate(ctx context.Context, slot int) error {
	if err := r.open(ctx, slot); err != nil {
		return err
	}
	time.Sleep(slotPause)
	for {
		keys, err := r.from.ClusterGetKeysInSlot(ctx, slot, 1).Result()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			if err := r.from.Migrate(ctx, "127.0.0.1", r.port, key, 0, time.Second).Err(); err != nil {
				return err
			}
		}
	}
	// The new owner first: until it knows, it sends clients back.
	if err := r.to.Do(ctx, "cluster", "setslot", slot, "node", r.target).Err(); err != nil {
		return err
	}
	return r.from.Do(ctx, "cluster", "setslot", slot, "node", r.target).Err()
}
