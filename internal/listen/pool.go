package listen

import (
	"container/list"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit/internal/lograte"
)

// A Pool bounds the open connections of one or more listeners. When all connections are taken, it
// closes a connection that is idle for each new one; if none is idle, new connections wait. A Pool
// is safe for concurrent use.
type Pool struct {
	max, perAddress int
	exempt          func(netip.Addr) bool
	log             *slog.Logger

	refused lograte.Line // connections of addresses that have too many
	scarce  lograte.Line // connections that were closed because they were idle
	failed  lograte.Line // connections that could not be accepted

	mu        sync.Mutex
	changed   *sync.Cond // a connection was closed, became idle, or a listener was closed
	open      int
	byAddress map[netip.Addr]int
	silent    *list.List // of *conn from which nothing was read, the oldest first
	idle      *list.List // of *conn between two requests, the longest idle first
}

// NewPool returns a Pool of at most limit connections, and of at most perAddress connections of one
// client address; 0 is no bound per address. An IPv6 client is its /64. exempt reports the
// addresses, such as those of gateways, that perAddress does not bound; nil: none.
func NewPool(limit, perAddress int, exempt func(netip.Addr) bool, log *slog.Logger) *Pool {
	p := &Pool{
		max: limit, perAddress: perAddress, exempt: exempt, log: log,
		byAddress: make(map[netip.Addr]int), silent: list.New(), idle: list.New(),
	}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// Open returns the number of open connections, and how many there may be.
func (p *Pool) Open() (open, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.max
}

// Listener returns l with the bounds of p. A connection is idle between two requests only if the
// server on the listener reports the states of its connections to p.ConnState.
func (p *Pool) Listener(l net.Listener) net.Listener { return &listener{Listener: l, pool: p} }

type listener struct {
	net.Listener
	pool   *Pool
	closed bool // guarded by pool.mu
}

// Accept returns the next connection that the bounds allow.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.pool.cannotAccept(l, err)
			return nil, err
		}
		if admitted := l.pool.admit(l, c); admitted != nil {
			return admitted, nil
		}
		_ = c.Close() // the client may try again
	}
}

// Close closes the listener. Accept no longer waits for a place.
func (l *listener) Close() error {
	l.pool.mu.Lock()
	l.closed = true
	l.pool.mu.Unlock()
	l.pool.changed.Broadcast()
	return l.Listener.Close()
}

// A conn is a connection in a Pool.
type conn struct {
	net.Conn
	pool    *Pool
	address netip.Addr // invalid if the connection is not counted by address
	since   time.Time  // of the membership in a list
	spoken  atomic.Bool

	// Guarded by pool.mu:
	in       *list.List // silent, idle or nil
	element  *list.Element
	released bool // the place was given back
}

// Read reads from the connection. A connection from which something was read is not silent.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.spoken.Load() && c.spoken.CompareAndSwap(false, true) {
		c.pool.mu.Lock()
		if c.in == c.pool.silent {
			c.pool.move(c, nil)
		}
		c.pool.mu.Unlock()
	}
	return n, err
}

// CloseWrite closes the sending side, as net/http does after a response to a request whose body
// was not read, and proxies of tunnels do.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection and gives back its place.
func (c *conn) Close() error {
	c.pool.mu.Lock()
	c.pool.release(c)
	c.pool.mu.Unlock()
	return c.Conn.Close()
}

// addressOf returns the address that bounds the connections of a client, invalid for a unix
// socket.
func (p *Pool) addressOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || p.perAddress == 0 {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	switch {
	case p.exempt != nil && p.exempt(addr):
		return netip.Addr{}
	case addr.Is6():
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}

// admit waits for a place for c. It returns nil if the client has too many connections or l is
// closed.
func (p *Pool) admit(l *listener, c net.Conn) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	address := p.addressOf(c)
	for {
		if address.IsValid() && p.byAddress[address] >= p.perAddress {
			p.refused.Add(1, func(total int64) {
				p.log.Warn("an address has too many connections: new ones are closed", "address", address.String(), "max", p.perAddress, "refused", total)
			})
			return nil
		}
		if p.open < p.max {
			break
		}
		if l.closed {
			return nil
		}
		if p.closeIdle() {
			continue
		}
		wake := time.AfterFunc(minSilence/4, p.wake) // a silent connection may be old enough by then
		p.changed.Wait()
		wake.Stop()
	}
	p.open++
	if address.IsValid() {
		p.byAddress[address]++
	}
	admitted := &conn{Conn: c, pool: p, address: address}
	p.move(admitted, p.silent)
	return admitted
}

// minSilence is how long a connection may be silent before it counts as idle.
const minSilence = 500 * time.Millisecond

// wake wakes those who wait. It takes the lock, so that nobody is between a look and the wait.
func (p *Pool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed.Broadcast()
}

// closeIdle closes a connection that has been silent for a while, else the connection that has
// been idle for the longest time. It reports whether there was one. p.mu is locked.
func (p *Pool) closeIdle() bool {
	victim := p.silent.Front()
	if victim == nil || time.Since(victim.Value.(*conn).since) < minSilence { //nolint:forcetypeassert // nothing else goes in
		victim = p.idle.Front()
	}
	if victim == nil {
		return false
	}
	c := victim.Value.(*conn) //nolint:forcetypeassert // nothing else goes in
	p.release(c)
	_ = c.Conn.Close() // a socket's close does not wait
	p.scarce.Add(1, func(total int64) {
		p.log.Warn("connections are scarce: idle ones are closed early", "max", p.max, "closed", total)
	})
	return true
}

// cannotAccept makes room if the process has no descriptors left, and logs the error.
func (p *Pool) cannotAccept(l *listener, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.closed {
		return
	}
	p.failed.Add(1, func(total int64) {
		p.log.Warn("connections cannot be accepted", "listener", l.Addr().String(), "times", total, "error", err)
	})
	p.closeIdle()
}

// release gives back the place of c, once. p.mu is locked.
func (p *Pool) release(c *conn) {
	if c.released {
		return
	}
	c.released = true
	p.move(c, nil)
	p.open--
	if c.address.IsValid() {
		if p.byAddress[c.address]--; p.byAddress[c.address] == 0 {
			delete(p.byAddress, c.address)
		}
	}
	p.changed.Broadcast()
}

// move takes c out of its list and puts it at the end of into, if that is not nil. p.mu is locked.
func (p *Pool) move(c *conn, into *list.List) {
	if c.in != nil {
		c.in.Remove(c.element)
	}
	c.in, c.element = into, nil
	if into != nil {
		c.since = time.Now()
		c.element = into.PushBack(c)
	}
}

// ConnState is the ConnState of an http.Server on a listener of p.
func (p *Pool) ConnState(c net.Conn, state http.ConnState) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	mine, ok := c.(*conn)
	if !ok || state == http.StateNew {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case mine.released:
	case state != http.StateIdle:
		p.move(mine, nil)
	default:
		p.move(mine, p.idle)
		p.changed.Broadcast()
	}
}
