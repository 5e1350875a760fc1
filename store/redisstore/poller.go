package redisstore

import (
	"os"
	"sync"
	"syscall"
)

// A poller waits until this process has been handed all data that has arrived so far on its
// connections.
//
// The runtime wakes the readers of about a hundred ready connections at a time. With thousands
// of busy connections a reply may wait for longer than a caller does, although timers are on
// time. A byte written to a pipe is handed out after all data that arrived before it.
type poller struct {
	mu     sync.Mutex
	r, w   *os.File        // guarded by mu: the two ends of a pipe; nil before they are needed
	raw    syscall.RawConn // guarded by mu: of r
	closed bool            // guarded by mu
}

// turn blocks until all data that had arrived before the call has been handed to its readers.
// It returns at once if the pipe is not usable.
func (p *poller) turn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.open() {
		return
	}
	written := false
	err := p.raw.Read(func(uintptr) bool {
		if written { // the byte has arrived
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
		_, _ = p.r.Close(), p.w.Close() // no data is lost
		p.r = nil
	}
	p.closed = true
}

func (p *poller) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut()
}
