package redisstore

import (
	"os"
	"sync"
	"syscall"
)

// A poller shows that this process has read what had arrived on its connections by now.
//
// Go hands out what has arrived to the goroutines that wait for it, a hundred or so
// connections at a time. With thousands of busy connections a reply may lie there for
// longer than a caller waits, although timers are on time. What is written to a pipe is
// handed out behind what had arrived before.
type poller struct {
	mu     sync.Mutex
	r, w   *os.File        // guarded by mu: the two ends of a pipe; nil before they are needed
	raw    syscall.RawConn // guarded by mu: of r
	closed bool            // guarded by mu
}

// turn returns once all that had arrived when it was called has been handed out. Where the
// system has no such pipe, it returns at once.
func (p *poller) turn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.open() {
		return
	}
	written := false
	err := p.raw.Read(func(uintptr) bool {
		if written { // it was handed out
			return true
		}
		written = true
		_, err := p.w.Write([]byte{0})
		return err != nil
	})
	if err == nil {
		_, err = p.r.Read(make([]byte, 1))
	}
	if err != nil {
		p.shut()
	}
}

// open opens the pipe if necessary, and reports whether the pipe is usable. The caller holds
// mu.
func (p *poller) open() bool {
	if p.r != nil {
		return true
	}
	var err error
	if p.r, p.w, err = os.Pipe(); err != nil {
		p.r = nil
		return false
	}
	if p.raw, err = p.r.SyscallConn(); err != nil {
		p.shut()
		return false
	}
	return true
}

// shut closes the pipe for good. The caller holds mu.
func (p *poller) shut() {
	if p.r != nil {
		_, _ = p.r.Close(), p.w.Close() // nothing is lost with them
		p.r = nil
	}
	p.closed = true
}

func (p *poller) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut()
}
