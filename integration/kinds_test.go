package integration

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit/integration/proxy"
	"github.com/tierlimit/tierlimit/integration/servers"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// A kind is one of the ways Redis is run, with wires to its servers that can fail.
type kind struct {
	name  string
	wires *wires
	// store is a new client of it, over the wires if there are any.
	store func(t *testing.T, budget time.Duration, over *wires) *redisstore.Store
	// shuffle moves the slots of subjects from master to master until stop is called,
	// which returns how often; nil where there are no slots.
	shuffle func(t *testing.T, subjects []string) (stop func() int)
}

// onEachKind runs a test against a single Redis, Sentinels and a Cluster.
func onEachKind(t *testing.T, run func(*testing.T, *kind)) {
	t.Run("single", func(t *testing.T) {
		run(t, &kind{name: "single", wires: newWires(t), store: func(t *testing.T, budget time.Duration, over *wires) *redisstore.Store {
			return singleStore(t, redisServer.URL, budget, over)
		}})
	})
	t.Run("sentinel", func(t *testing.T) {
		watch, err := servers.NewSentinel(newMachine(t, 5))
		must(t, err)
		w := newWires(t)
		for _, p := range watch.Sentinels { // what they say is no charge
			w.spared = append(w.spared, p.Addr)
		}
		run(t, &kind{name: "Sentinel", wires: w, store: func(t *testing.T, budget time.Duration, over *wires) *redisstore.Store {
			return sentinelStore(t, watch.URL(), budget, over)
		}})
	})
	t.Run("cluster", func(t *testing.T) {
		c := newCluster(t, false)
		run(t, &kind{
			name: "Cluster", wires: newWires(t),
			store: func(t *testing.T, budget time.Duration, over *wires) *redisstore.Store {
				return clusterStore(t, c.URL(), budget, over)
			},
			shuffle: func(t *testing.T, subjects []string) (stop func() int) { return shuffle(t, c, subjects) },
		})
	})
}

func shuffle(t *testing.T, c *servers.Cluster, subjects []string) (stop func() int) {
	t.Helper()
	s := clusterStore(t, c.URL(), testBudget, nil)
	must(t, s.Ping(t.Context()))
	owner := make(map[int]int) // by slot: the index of its master
	for _, subject := range subjects {
		slot, err := c.Slot(t.Context(), redisstore.Key(subject))
		must(t, err)
		owner[slot] = slices.IndexFunc(c.Masters, func(p *servers.Process) bool { return p.Addr == s.Server(subject) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, moves := make(chan struct{}), 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for slot, from := range owner {
				to := (from + 1) % len(c.Masters)
				if err := c.Migrate(t.Context(), c.Masters[from], c.Masters[to], slot); err != nil {
					t.Error(err)
					return
				}
				owner[slot] = to
				if moves++; ctx.Err() != nil {
					return
				}
			}
		}
	}()
	return func() int { cancel(); <-done; return moves }
}

// Stores on new clients, over wires if there are any.

// failures lets stores over wires call their servers whatever happens: how charges fail
// is the point of the tests that have wires.
func failures(over *wires) int {
	if over != nil {
		return -1
	}
	return 0
}

func singleStore(t *testing.T, url string, budget time.Duration, over *wires) *redisstore.Store {
	t.Helper()
	opts, err := redisstore.Options(url, budget)
	must(t, err)
	opts.Dialer = over.dialer()
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return newStoreWith(t, client, failures(over))
}

func sentinelStore(t *testing.T, url string, budget time.Duration, over *wires) *redisstore.Store {
	t.Helper()
	opts, err := redisstore.SentinelOptions(url, budget)
	must(t, err)
	opts.Dialer = over.dialer()
	client := redis.NewFailoverClient(opts)
	t.Cleanup(func() { client.Close() })
	return newStoreWith(t, client, failures(over))
}

func clusterStore(t *testing.T, url string, budget time.Duration, over *wires) *redisstore.Store {
	t.Helper()
	opts, err := redisstore.ClusterOptions(url, budget)
	must(t, err)
	opts.Dialer = over.dialer()
	client := redis.NewClusterClient(opts)
	t.Cleanup(func() { client.Close() })
	s, err := redisstore.NewCluster(client, redisstore.Config{Budget: budget, Failures: failures(over)})
	must(t, err)
	t.Cleanup(func() { s.Close(context.Background()) }) // before the client
	return s
}

// wires are a proxy before each server that is dialled.
type wires struct {
	spared []string // addresses of those that are dialled without

	mu      sync.Mutex
	proxies map[string]*proxy.Proxy      // guarded by mu: by the server's address
	fate    func(proxy.Reply) proxy.Fate // guarded by mu
}

func newWires(t *testing.T) *wires {
	w := &wires{proxies: make(map[string]*proxy.Proxy)}
	t.Cleanup(func() {
		for _, p := range w.proxies {
			p.Close()
		}
	})
	return w
}

// dialer dials through the proxies; nil, without any, is the default one.
func (w *wires) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if w == nil {
		return nil
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !slices.Contains(w.spared, addr) {
			p, err := w.to(addr)
			if err != nil {
				return nil, err
			}
			addr = p.Addr
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
}

func (w *wires) to(addr string) (*proxy.Proxy, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.proxies[addr]; p != nil {
		return p, nil
	}
	p, err := proxy.New(addr)
	if err != nil {
		return nil, err
	}
	p.Replies(w.fate)
	w.proxies[addr] = p
	return p, nil
}

// replies lets fate decide what befalls the replies of all servers.
func (w *wires) replies(fate func(proxy.Reply) proxy.Fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fate = fate
	for _, p := range w.proxies {
		p.Replies(fate)
	}
}
