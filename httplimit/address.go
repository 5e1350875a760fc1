package httplimit

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit"
)

// ForwardedFor is the default of AddressConfig.Header.
const ForwardedFor = "X-Forwarded-For"

// AddressConfig tunes ByAddress. The zero AddressConfig believes no proxy.
type AddressConfig struct {
	Trusted   []netip.Prefix // proxies whose Header is believed; default none
	TrustUnix bool           // whether peers that connect by a unix socket are such proxies
	// Header is the header in which trusted proxies write the client's address: X-Forwarded-For,
	// Forwarded (RFC 7239), or a header with one address, such as CF-Connecting-IP. Default
	// X-Forwarded-For.
	Header     string
	IPv6Prefix int // IPv6 clients are told apart by this many bits, 1 to 128; default 64, what one customer gets
}

// Validate returns an error that joins a *tierlimit.FieldError for each invalid field.
func (c *AddressConfig) Validate() error {
	var errs []error
	if c.IPv6Prefix < 0 || c.IPv6Prefix > 128 {
		errs = append(errs, &tierlimit.FieldError{Field: "IPv6Prefix", Value: strconv.Itoa(c.IPv6Prefix), Want: "1 to 128, or 0 for 64"})
	}
	if c.Header != "" && !validHeader(c.Header) {
		errs = append(errs, &tierlimit.FieldError{Field: "Header", Value: c.Header, Want: "the name of a header, or empty for " + ForwardedFor})
	}
	for _, p := range c.Trusted {
		if _, err := unmapped(p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Trusts reports whether c trusts the TCP peer of r as a proxy. An invalid c trusts nobody.
func (c *AddressConfig) Trusts(r *http.Request) bool {
	a, err := newAddresses(*c)
	return err == nil && a.trusts(r)
}

// validHeader reports whether name is a token: RFC 9110, 5.6.2.
func validHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// unmapped returns p as a prefix of IPv4 if it is one written as IPv6, such as
// ::ffff:10.0.0.0/104: client addresses are compared without the mapping.
func unmapped(p netip.Prefix) (netip.Prefix, error) {
	const mapped = 96
	switch {
	case !p.IsValid():
		return p, &tierlimit.FieldError{Field: "Trusted", Value: p.String(), Want: "an address or a prefix, such as 10.0.0.0/8"}
	case p.Bits() == 0:
		return p, &tierlimit.FieldError{Field: "Trusted", Value: p.String(), Want: "less than all addresses: any client could then name itself"}
	case !p.Addr().Is4In6():
		return p.Masked(), nil
	case p.Bits() < mapped:
		return p, &tierlimit.FieldError{Field: "Trusted", Value: p.String(), Want: "at least 96 bits of an IPv4-mapped prefix, or written as IPv4"}
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped).Masked(), nil
}

// ByAddress names a client by its address: "ip:203.0.113.7", or "ip:2001:db8::/64". Behind
// trusted proxies the client is the rightmost address in the header that is not trusted
// itself; if all are trusted, the leftmost. What a client wrote further left is not believed.
// Where the header ends in something that is no address, the TCP peer counts.
//
// An IPv6 address that embeds an IPv4 address (mapped, NAT64, 6to4) is the IPv4 address. With
// an invalid AddressConfig the function returns an error for every request.
func ByAddress(cfg AddressConfig) SubjectFunc {
	a, err := newAddresses(cfg)
	if err != nil {
		return func(*http.Request) (string, error) { return "", err }
	}
	return a.subject
}

// addresses is a valid AddressConfig.
type addresses struct {
	trusted   []netip.Prefix
	trustUnix bool
	header    string // canonical
	bits      int
}

func newAddresses(cfg AddressConfig) (*addresses, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &addresses{trustUnix: cfg.TrustUnix, header: http.CanonicalHeaderKey(cfg.Header), bits: cfg.IPv6Prefix}
	if a.header == "" {
		a.header = ForwardedFor
	}
	if a.bits == 0 {
		a.bits = 64
	}
	for _, p := range cfg.Trusted {
		p, err := unmapped(p)
		if err != nil {
			return nil, err
		}
		a.trusted = append(a.trusted, p)
	}
	return a, nil
}

func (a *addresses) subject(r *http.Request) (string, error) {
	addr, ok := a.client(r)
	if !ok {
		return "", nil
	}
	if addr.Is4() {
		return "ip:" + addr.String(), nil
	}
	prefix, err := addr.Prefix(a.bits)
	if err != nil {
		return "", err
	}
	return "ip:" + prefix.String(), nil
}

// peer returns the address of the TCP peer of r, and whether the peer is a trusted proxy.
func (a *addresses) peer(r *http.Request) (peer netip.Addr, known, trusted bool) {
	if peer, known = parseAddress(r.RemoteAddr); known {
		return peer, true, contains(a.trusted, peer)
	}
	return peer, false, a.trustUnix && isUnix(r)
}

func (a *addresses) trusts(r *http.Request) bool {
	_, _, trusted := a.peer(r)
	return trusted
}

// isUnix reports whether the peer of r came by a unix socket: net/http then has its path, "@"
// or nothing as RemoteAddr.
func isUnix(r *http.Request) bool {
	return r.RemoteAddr == "" || r.RemoteAddr == "@" || strings.HasPrefix(r.RemoteAddr, "/")
}

func (a *addresses) client(r *http.Request) (netip.Addr, bool) {
	peer, known, trusted := a.peer(r)
	if !trusted {
		return peer, known
	}
	client, found := peer, known
	for hop := range hops(r, a.header) {
		addr, ok := parseAddress(hop)
		if !ok {
			return peer, known
		}
		client, found = addr, true
		if !contains(a.trusted, addr) {
			break
		}
	}
	return client, found
}

// hops yields the addresses in a header, the last one first: the closest hop has added the last.
func hops(r *http.Request, header string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(r.Header[header]) {
			if header == "Forwarded" {
				for _, element := range slices.Backward(splitQuoted(line, ',')) {
					if strings.TrimSpace(element) != "" && !yield(forwardedFor(element)) {
						return
					}
				}
				continue
			}
			for line != "" {
				var entry string
				if comma := strings.LastIndexByte(line, ','); comma >= 0 {
					line, entry = line[:comma], line[comma+1:]
				} else {
					line, entry = "", line
				}
				entry = strings.TrimSpace(entry)
				if entry == "" {
					continue // RFC 9110, 5.6.1: empty list elements are ignored
				}
				if !yield(entry) {
					return
				}
			}
		}
	}
}

// splitQuoted splits s at the separators that are outside of quoted strings (RFC 9110, 5.6.4).
func splitQuoted(s string, separator byte) (parts []string) {
	begin, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			parts, begin = append(parts, s[begin:i]), i+1
		}
	}
	return append(parts, s[min(begin, len(s)):])
}

// forwardedFor returns the parameter "for" of an element of the header Forwarded (RFC 7239,
// section 4), "" if there is none. Obfuscated identifiers are no addresses.
func forwardedFor(element string) string {
	for _, pair := range splitQuoted(element, ';') {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if strings.EqualFold(name, "for") {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// parseAddress reads an address with or without a port. An IPv6 address that embeds an IPv4
// address becomes that, and zones go: both would be ways to look like somebody else.
func parseAddress(s string) (netip.Addr, bool) {
	var addr netip.Addr
	if withPort, err := netip.ParseAddrPort(s); err == nil { // as net/http has it
		addr = withPort.Addr()
	} else if addr, err = netip.ParseAddr(strings.Trim(s, "[]")); err != nil {
		return netip.Addr{}, false
	}
	return embedded(addr.Unmap().WithZone("")), true
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour = netip.MustParsePrefix("2002::/16")    // RFC 3056: the IPv4 address is in bits 16 to 47
)

// embedded returns the IPv4 address in addr, or addr if there is none.
func embedded(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return addr
	}
	bytes := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(bytes[12:]))
	case sixToFour.Contains(addr):
		var v4 [4]byte
		binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(bytes[2:6]))
		return netip.AddrFrom4(v4)
	}
	return addr
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
