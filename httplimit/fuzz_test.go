package httplimit_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
)

// Whatever a client writes into X-Forwarded-For: it gets a subject that is valid, and
// where no proxy is trusted always the same one.
func FuzzForwardedFor(f *testing.F) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ff::/48")}
	believes := httplimit.ByAddress(httplimit.AddressConfig{Trusted: trusted})
	believesNobody := httplimit.ByAddress(httplimit.AddressConfig{})
	f.Fuzz(func(t *testing.T, peer, header string) {
		r := get()
		r.RemoteAddr = peer
		before, _ := believesNobody(r)
		r.Header["X-Forwarded-For"] = strings.Split(header, "\n")
		if after, err := believesNobody(r); after != before || err != nil {
			t.Errorf("peer %q, header %q: %q became %q, %v", peer, header, before, after, err)
		}
		subject, err := believes(r)
		if err != nil || subject != "" && (!tierlimit.ValidSubject(subject) || !strings.HasPrefix(subject, "ip:")) {
			t.Errorf("peer %q, header %q: %q, %v", peer, header, subject, err)
		}
		if (subject == "") != (before == "") {
			t.Errorf("peer %q, header %q: %q with the header, %q without", peer, header, subject, before)
		}
		// Whatever a client writes on the left, what its proxy adds counts.
		r.Header["X-Forwarded-For"] = append(strings.Split(header, "\n"), "198.51.100.7")
		r.RemoteAddr = "10.0.0.1:1"
		if subject, err := believes(r); subject != "ip:198.51.100.7" || err != nil {
			t.Errorf("header %q, and 198.51.100.7 added: %q, %v", header, subject, err)
		}
	})
}
