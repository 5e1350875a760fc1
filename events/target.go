package events

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// notPublic are addresses that net/netip does not know to be special, and that must not be reached
// with an administrator's URL: the IANA special-purpose registries of IPv4 and IPv6
// (https://www.iana.org/assignments/iana-ipv4-special-registry), and the IPv6 addresses that
// contain an IPv4 address.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by customers of a provider
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), // documentation
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), // measurements
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), // Teredo and others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"), // documentation
	netip.MustParsePrefix("5f00::/16"), // segment routing
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("168.63.129.16/32"), // the metadata of Azure
}

func isPublic(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// allows returns an error unless a message may be sent to addr: with TLS to public addresses, and
// in any case to those that are allowed.
func allows(allow []netip.Prefix, addr netip.Addr, secure bool) error {
	addr = addr.Unmap().WithZone("")
	for _, p := range allow {
		if p.Contains(addr) {
			return nil
		}
	}
	switch {
	case !isPublic(addr):
		return fmt.Errorf("%s is not a public address, and TIERLIMIT_WEBHOOK_ALLOW does not allow it", addr)
	case !secure:
		return fmt.Errorf("http is only for addresses that TIERLIMIT_WEBHOOK_ALLOW allows: use https for %s", addr)
	}
	return nil
}

const (
	attemptTimeout = 10 * time.Second
	dialTimeout    = 5 * time.Second
)

// newClient returns a client that looks at the address of each connection, after the name was
// resolved. It follows no redirects and uses no proxy: both would hide where a message goes.
func newClient(allow []netip.Prefix, secure bool) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return allows(allow, at.Addr(), secure)
	}}
	return &http.Client{
		Timeout:       attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 16 << 10,
		},
	}
}
