// Package listen opens the listeners of the binary: TCP addresses, unix sockets and sockets that
// systemd passes on, with bounds on connections and with TLS certificates that are read again.
package listen

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// UnixPrefix begins an address that is the path of a unix socket.
const UnixPrefix = "unix:"

// Open listens on host:port, or on a unix socket with the permissions mode. It replaces a socket
// file that nobody listens on any more.
func Open(ctx context.Context, address string, mode os.FileMode) (net.Listener, error) {
	l, err := open(ctx, address)
	if path, isUnix := strings.CutPrefix(address, UnixPrefix); err == nil && isUnix {
		if err = os.Chmod(path, mode); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, err
}

func open(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	path, isUnix := strings.CutPrefix(address, UnixPrefix)
	if !isUnix {
		return lc.Listen(ctx, "tcp", address)
	}
	l, err := lc.Listen(ctx, "unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	var d net.Dialer
	conn, dialled := d.DialContext(ctx, "unix", path)
	if dialled == nil {
		_ = conn.Close()
	}
	if !errors.Is(dialled, syscall.ECONNREFUSED) { // somebody listens, and may only be busy
		return nil, err
	}
	if info, gone := os.Lstat(path); gone != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return lc.Listen(ctx, "unix", path)
}
