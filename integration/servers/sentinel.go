package servers

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Sentinel is a master, its replica, and three Sentinels that watch over them.
type Sentinel struct {
	Master, Replica *Process
	Sentinels       []*Process
}

// MasterName is what the Sentinels call the master.
const MasterName = "counters"

// NewSentinel starts a Sentinel on m: five servers. The master and its replica get
// more arguments for redis-server.
func NewSentinel(m *Machine, args ...string) (*Sentinel, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s := &Sentinel{}
	var err error
	args = append([]string{"--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1"}, args...)
	if s.Master, err = m.Redis(args...); err != nil {
		return nil, err
	}
	if s.Replica, err = m.Redis(append(args, "--replicaof", "127.0.0.1", s.Master.Port)...); err != nil {
		return nil, err
	}
	config := "port PORT\nbind " + m.host.outside() + "\nprotected-mode no\nsentinel announce-ip 127.0.0.1\n" +
		"sentinel monitor " + MasterName + " 127.0.0.1 " + s.Master.Port + " 2\n" +
		"sentinel down-after-milliseconds " + MasterName + " 1000\n" +
		"sentinel failover-timeout " + MasterName + " 3000\n"
	for range 3 {
		p, err := m.Start(config, "--sentinel")
		if err != nil {
			return nil, err
		}
		s.Sentinels = append(s.Sentinels, p)
	}
	return s, s.await(ctx)
}

// await returns once the Sentinels know of the replica and of each other.
func (s *Sentinel) await(ctx context.Context) error {
	for _, p := range s.Sentinels {
		r := redis.NewSentinelClient(&redis.Options{Addr: p.Addr})
		defer r.Close()
		err := until(ctx, func() error {
			master, err := r.Master(ctx, MasterName).Result()
			if err == nil && (master["num-slaves"] != "1" || master["num-other-sentinels"] != "2") {
				err = fmt.Errorf("the Sentinel on port %s knows of %s replicas and %s others", p.Port, master["num-slaves"], master["num-other-sentinels"])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// URL is of all Sentinels, as redisstore.SentinelOptions reads it.
func (s *Sentinel) URL() string {
	return "redis://" + s.Sentinels[0].Addr + "/0?master_name=" + MasterName + "&addr=" + s.Sentinels[1].Addr + "&addr=" + s.Sentinels[2].Addr
}

// Failover promotes the replica by order, and returns once the Sentinels say so.
func (s *Sentinel) Failover(ctx context.Context) error {
	r := redis.NewSentinelClient(&redis.Options{Addr: s.Sentinels[0].Addr})
	defer r.Close()
	if err := r.Failover(ctx, MasterName).Err(); err != nil {
		return err
	}
	return s.Promoted(ctx)
}

// Promoted returns once the Sentinels name the replica as the master, and swaps the
// two.
func (s *Sentinel) Promoted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r := redis.NewSentinelClient(&redis.Options{Addr: s.Sentinels[0].Addr})
	defer r.Close()
	err := until(ctx, func() error {
		addr, err := r.GetMasterAddrByName(ctx, MasterName).Result()
		if err == nil && addr[1] != s.Replica.Port {
			err = fmt.Errorf("the master is still on port %s", addr[1])
		}
		return err
	})
	s.Master, s.Replica = s.Replica, s.Master
	return err
}
