package httplimit

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// A SubjectFunc says who is asking, "" if the request does not tell. It is
// called from many goroutines. An error means that it could not be found out;
// the request is then answered 503.
type SubjectFunc func(r *http.Request) (subject string, err error)

// FirstOf asks one after the other and takes the first answer.
func FirstOf(funcs ...SubjectFunc) SubjectFunc {
	return func(r *http.Request) (string, error) {
		for _, f := range funcs {
			if subject, err := f(r); subject != "" || err != nil {
				return subject, err
			}
		}
		return "", nil
	}
}

// A KeyLookup returns the subject that owns an API key, "" for a key it does not
// know. tiers.SubjectOf makes one of a catalogue that is held in memory.
type KeyLookup func(ctx context.Context, key string) (subject string, err error)

// ByKey takes the subject that owns the API key in X-Api-Key, or else in
// Authorization: Bearer. A nil lookup knows no key.
func ByKey(lookup KeyLookup) SubjectFunc {
	if lookup == nil {
		return func(*http.Request) (string, error) { return "", nil }
	}
	return FirstOf(ByAPIKey("X-Api-Key", lookup), ByAPIKey("Authorization", lookup))
}

// ByAPIKey takes the subject that owns the API key in a header, by itself or behind
// "Bearer ". Credentials of any other scheme, such as Basic, are no API key, and are not
// looked up. lookup returns "" for a key it does not know: a made-up key names nobody, so
// that no client is charged for another, and none escapes its limit by making keys up.
// Put ByAddress behind it with FirstOf.
func ByAPIKey(header string, lookup KeyLookup) SubjectFunc {
	return func(r *http.Request) (string, error) {
		key := strings.TrimSpace(r.Header.Get(header))
		if scheme, rest, ok := strings.Cut(key, " "); ok {
			if !strings.EqualFold(scheme, "Bearer") {
				return "", nil
			}
			key = strings.TrimSpace(rest)
		}
		if key == "" {
			return "", nil
		}
		return lookup(r.Context(), key)
	}
}

// ByTrustedHeader takes the subject a gateway put into a header, from the
// trusted peers alone: from anybody else the header says nothing.
func ByTrustedHeader(header string, trusted []netip.Prefix) SubjectFunc {
	return func(r *http.Request) (string, error) {
		peer, ok := peerAddress(r)
		if !ok || !contains(trusted, peer) {
			return "", nil
		}
		// Of several the last was added by the hop closest to us.
		values := r.Header.Values(header)
		if len(values) == 0 {
			return "", nil
		}
		return values[len(values)-1], nil
	}
}

// AddressConfig tunes ByAddress.
type AddressConfig struct {
	Trusted    []netip.Prefix // proxies whose X-Forwarded-For is believed; default none
	IPv6Prefix int            // IPv6 clients are told apart by this many bits; default 64, what one customer gets
}

// ByAddress names a client by its address: "ip:203.0.113.7", or
// "ip:2001:db8::/64". Behind trusted proxies that is the rightmost address in
// X-Forwarded-For that is not trusted itself; whatever a client wrote further
// left is not believed. Where the header ends in something that is no address,
// the TCP peer counts.
func ByAddress(cfg AddressConfig) SubjectFunc {
	if cfg.IPv6Prefix <= 0 || cfg.IPv6Prefix > 128 {
		cfg.IPv6Prefix = 64
	}
	return func(r *http.Request) (string, error) {
		addr, ok := clientAddress(r, cfg.Trusted)
		if !ok {
			return "", nil
		}
		if addr.Is4() {
			return "ip:" + addr.String(), nil
		}
		prefix, err := addr.Prefix(cfg.IPv6Prefix)
		if err != nil {
			return "", err
		}
		return "ip:" + prefix.String(), nil
	}
}

func clientAddress(r *http.Request, trusted []netip.Prefix) (netip.Addr, bool) {
	peer, ok := peerAddress(r)
	if !ok || !contains(trusted, peer) {
		return peer, ok
	}
	lines := r.Header["X-Forwarded-For"]
	for _, line := range slices.Backward(lines) {
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
			addr, ok := parseAddress(entry)
			if !ok {
				return peer, true
			}
			if !contains(trusted, addr) {
				return addr, true
			}
		}
	}
	return peer, true // only trusted hops, or no header
}

func peerAddress(r *http.Request) (netip.Addr, bool) { return parseAddress(r.RemoteAddr) }

// parseAddress reads an address with or without a port. IPv4 in IPv6 becomes
// IPv4, and zones go: both would be ways to look like somebody else.
func parseAddress(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
