// Package proxy stands between a client and its server, and fails as networks do:
// replies are late, lost or torn, connections are cut, nothing gets through at all.
//
// What befalls a reply is decided by a [Fate] for each one, and a reply to a script is
// told from the rest: by then the charge has been made.
package proxy

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Reply is what a server answered in one piece.
type Reply struct {
	Script bool   // to a Redis script
	Size   int    // bytes
	Text   []byte // the bytes; valid only during the call that decides the fate
}

// A Fate is what befalls a reply.
type Fate struct {
	Delay time.Duration // how long it is kept
	Lost  bool          // it never arrives; its connection stays
	Cut   bool          // its connection ends instead
	Torn  bool          // its first half arrives, then its connection ends
}

// A Proxy passes connections on to its upstream. It is safe for concurrent use.
type Proxy struct {
	// Addr is where it listens.
	Addr string

	listener net.Listener
	fate     atomic.Pointer[func(Reply) Fate]
	running  sync.WaitGroup

	mu       sync.Mutex
	upstream string            // guarded by mu
	closed   bool              // guarded by mu
	refuse   bool              // guarded by mu
	hole     bool              // guarded by mu
	conns    map[net.Conn]bool // guarded by mu: whether it is stranded
}

// New returns a Proxy on a port of its own, which passes everything on to upstream.
func New(upstream string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: l.Addr().String(), listener: l, upstream: upstream, conns: make(map[net.Conn]bool)}
	p.running.Go(p.accept)
	return p, nil
}

// Replies lets fate decide what befalls each reply from now on. Nil lets all pass.
func (p *Proxy) Replies(fate func(Reply) Fate) {
	if fate == nil {
		p.fate.Store(nil)
		return
	}
	p.fate.Store(&fate)
}

// Next lets fate befall the next reply to a script, and no other.
func (p *Proxy) Next(fate Fate) {
	var had atomic.Bool
	p.Replies(func(r Reply) Fate {
		if r.Script && had.CompareAndSwap(false, true) {
			return fate
		}
		return Fate{}
	})
}

// Refuse cuts all connections, and while true each new one as it comes.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse = refuse; refuse {
		for c := range p.conns {
			c.Close()
		}
	}
}

// Hole swallows, while true, what either side sends, and keeps all connections.
func (p *Proxy) Hole(hole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = hole
}

// Upstream passes new connections on to another server, and cuts those there are.
func (p *Proxy) Upstream(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = addr
	for c := range p.conns {
		c.Close()
	}
}

// Strand swallows from now on what either side sends on the connections there are: to
// both they look as if they lived. New ones work.
func (p *Proxy) Strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.conns[c] = true
	}
}

// Close ends all connections, and returns once nothing of the proxy runs.
func (p *Proxy) Close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// keep reports whether a connection may live, and closes it if not.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuse {
		c.Close()
		return false
	}
	p.conns[c] = false
	return true
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	p.mu.Lock()
	upstream := p.upstream
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", upstream, time.Second)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var script atomic.Bool
	p.running.Go(func() {
		defer server.Close()
		defer client.Close()
		p.passRequests(server, client, &script)
	})
	p.passReplies(client, server, &script)
}

// fallen reports whether what is sent to c now is swallowed.
func (p *Proxy) fallen(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole || p.conns[c]
}

func (p *Proxy) passRequests(server, client net.Conn, script *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.fallen(server) {
			continue
		}
		if callsScript(buf[:n]) {
			script.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// callsScript looks for the command's name, which a request begins with: a chunk of
// one holds it unless it is a further chunk.
func callsScript(request []byte) bool {
	return bytes.Contains(request, []byte("\r\nevalsha\r\n")) || bytes.Contains(request, []byte("\r\neval\r\n"))
}

func (p *Proxy) passReplies(client, server net.Conn, script *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		var f Fate
		if fate := p.fate.Load(); fate != nil {
			f = (*fate)(Reply{Script: script.Swap(false), Size: n, Text: buf[:n]})
		}
		if f.Delay > 0 {
			time.Sleep(f.Delay)
		}
		switch {
		case f.Cut:
			return
		case f.Torn:
			_, _ = client.Write(buf[:(n+1)/2])
			return
		case f.Lost || p.fallen(client):
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
