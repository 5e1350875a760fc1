package httplimit_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func request(peer string, header ...string) *http.Request {
	r := get(header...)
	r.RemoteAddr = peer
	return r
}

// Each of these named another client, or could be used to look like many.
func TestAddresses(t *testing.T) {
	trusted := prefixes("10.0.0.0/8")
	for name, c := range map[string]struct {
		cfg  httplimit.AddressConfig
		r    *http.Request
		want string
	}{
		"NAT64":                     {httplimit.AddressConfig{}, request("[64:ff9b::203.0.113.7]:1"), "ip:203.0.113.7"},
		"6to4":                      {httplimit.AddressConfig{}, request("[2002:cb00:7107:1::1]:1"), "ip:203.0.113.7"},
		"mapped":                    {httplimit.AddressConfig{}, request("[::ffff:203.0.113.7]:1"), "ip:203.0.113.7"},
		"all hops trusted":          {httplimit.AddressConfig{Trusted: trusted}, request("10.0.0.1:1", "X-Forwarded-For", "10.0.0.9, 10.0.0.2"), "ip:10.0.0.9"},
		"a prefix written as IPv6":  {httplimit.AddressConfig{Trusted: prefixes("::ffff:10.0.0.0/104")}, request("10.0.0.1:1", "X-Forwarded-For", "203.0.113.7"), "ip:203.0.113.7"},
		"a header of one address":   {httplimit.AddressConfig{Trusted: trusted, Header: "cf-connecting-ip"}, request("10.0.0.1:1", "CF-Connecting-IP", "2001:db8:1:2:3::4", "X-Forwarded-For", "192.0.2.1"), "ip:2001:db8:1:2::/64"},
		"Forwarded":                 {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `for=192.0.2.66, For="[2001:db8:1:2::9]:4711";proto=https, for=10.0.0.2`), "ip:2001:db8:1:2::/64"},
		"Forwarded, obfuscated":     {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `for=192.0.2.66, for=_hidden`), "ip:10.0.0.1"},
		"Forwarded without for":     {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `for=192.0.2.66, proto=https`), "ip:10.0.0.1"},
		"Forwarded, a quoted host":  {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `proto=http;host="x,for=9.9.9.9;for=8.8.8.8";for=203.0.113.7`), "ip:203.0.113.7"},
		"Forwarded, an escape":      {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `for=203.0.113.7;host="x\",for=9.9.9.9"`), "ip:203.0.113.7"},
		"Forwarded, an open quote":  {httplimit.AddressConfig{Trusted: trusted, Header: "Forwarded"}, request("10.0.0.1:1", "Forwarded", `for=203.0.113.7;host="x, for=9.9.9.9`), "ip:203.0.113.7"},
		"a unix socket":             {httplimit.AddressConfig{TrustUnix: true}, request("@", "X-Forwarded-For", "203.0.113.7"), "ip:203.0.113.7"},
		"a unix socket, no header":  {httplimit.AddressConfig{TrustUnix: true}, request("@"), ""},
		"a unix socket, not theirs": {httplimit.AddressConfig{Trusted: trusted}, request("@", "X-Forwarded-For", "203.0.113.7"), ""},
		"wide IPv6":                 {httplimit.AddressConfig{IPv6Prefix: 48}, request("[2001:db8:1:2::9]:1"), "ip:2001:db8:1::/48"},
	} {
		if got, err := httplimit.ByAddress(c.cfg)(c.r); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestWrongSettingsOfAddressesAreRefused(t *testing.T) {
	for field, cfg := range map[string]httplimit.AddressConfig{
		"IPv6Prefix": {IPv6Prefix: 129},
		"Header":     {Header: "X Forwarded"},
		"Trusted":    {Trusted: prefixes("::ffff:0.0.0.0/95")},
	} {
		var wrong *tierlimit.FieldError
		if _, err := httplimit.New(limiterFunc(func(tierlimit.Request) {}), httplimit.Config{Who: httplimit.Who{Address: cfg}}); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
		if _, err := httplimit.ByAddress(cfg)(get()); err == nil {
			t.Errorf("%s: served", field)
		}
	}
	for field, who := range map[string]httplimit.Who{
		"Trusted":    {Header: "X-Account"},
		"Header":     {Header: "x-api-key", Address: httplimit.AddressConfig{TrustUnix: true}},
		"KeyHeaders": {KeyHeaders: []string{"X-Api-Key", "X Key"}},
	} {
		var wrong *tierlimit.FieldError
		if err := who.Validate(); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestWhoIsFoundInTheOrderOfTheConfiguration(t *testing.T) {
	who := httplimit.Who{
		Keys: func(_ context.Context, key string) (string, error) {
			return map[string]string{"one": "acct_key"}[key], nil
		},
		KeyHeaders: []string{"X-Token"}, Header: "X-Account", Claim: "sub",
		Address: httplimit.AddressConfig{Trusted: prefixes("10.0.0.0/8")},
	}
	token := func(claims string) string {
		return "Bearer e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	twice := request("10.0.0.1:1", "X-Token", "one")
	twice.Header["Authorization"] = []string{token(`{"sub":"acct_client"}`), token(`{"sub":"acct_victim"}`)}
	const proxy, client = "10.0.0.1:1", "203.0.113.7:1"
	for name, c := range map[string]struct {
		r    *http.Request
		want string
	}{
		"all of them":              {request(proxy, "X-Account", "acct_header", "Authorization", token(`{"sub":"acct_claim"}`), "X-Token", "one"), "acct_header"},
		"claim and key":            {request(proxy, "Authorization", token(`{"sub":"acct_claim"}`), "X-Token", "one"), "acct_claim"},
		"a claim that is a number": {request(proxy, "Authorization", token(`{"sub":42}`)), "42"},
		"another claim":            {request(proxy, "Authorization", token(`{"name":"x"}`)), "ip:10.0.0.1"},
		"two tokens":               {twice, "acct_key"},
		"no token":                 {request(proxy, "Authorization", "Bearer a.b"), "ip:10.0.0.1"},
		"a client's own claim":     {request(client, "Authorization", token(`{"sub":"acct_victim"}`), "X-Account", "acct_victim"), "ip:203.0.113.7"},
		"a client's key":           {request(client, "X-Token", "one"), "acct_key"},
		"a key elsewhere":          {request(client, "X-Api-Key", "one"), "ip:203.0.113.7"},
	} {
		if got, err := who.Subject()(c.r); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

// Whoever trusts everybody lets each client name itself.
func TestNotEverybodyCanBeTrusted(t *testing.T) {
	for _, all := range []string{"0.0.0.0/0", "::/0", "10.0.0.0/0"} {
		cfg := httplimit.AddressConfig{Trusted: prefixes(all)}
		if err := cfg.Validate(); err == nil {
			t.Errorf("%s was accepted", all)
		}
	}
}
