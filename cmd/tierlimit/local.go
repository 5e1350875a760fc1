package main

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/tierlimit/tierlimit/api/console"
	"github.com/tierlimit/tierlimit/internal/problem"
)

// onlyLocal protects dev, which asks for no token, from pages in a browser on the same machine. A
// page whose name an attacker resolves to 127.0.0.1 is refused by its Host, a page of another
// origin by the headers of the browser or the media type of a form.
func onlyLocal(next http.Handler) http.Handler {
	protected := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.Path; path == "/livez" || path == "/readyz" || path == "/v1/check" || strings.HasPrefix(path, "/v1/check/") {
			next.ServeHTTP(w, r) // gateways pass on what clients sent, and only clients are charged
			return
		}
		if !isLocalName(r.Host) {
			problem.Write(w, problem.Problem{
				Status: http.StatusMisdirectedRequest,
				Detail: "tierlimit dev answers to IP addresses, localhost and names without a dot. Use tierlimit serve for others.",
				Errors: []problem.Field{{Field: "Host", Detail: "must be an IP address, localhost or a name without a dot"}},
			})
			return
		}
		if strings.HasPrefix(r.URL.Path, console.Path) { // which needs a session, and takes forms
			next.ServeHTTP(w, r)
			return
		}
		kind, _, _ := strings.Cut(strings.ToLower(r.Header.Get("Content-Type")), ";")
		if kind = strings.TrimSpace(kind); kind == "text/plain" || kind == "multipart/form-data" {
			problem.Write(w, problem.Problem{
				Status: http.StatusUnsupportedMediaType,
				Detail: "A page of any site may send this media type.",
				Errors: []problem.Field{{Field: "Content-Type", Detail: "must be application/json"}},
			})
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// isLocalName reports whether host, with or without a port, is a name that no public DNS server
// resolves: an IP address, localhost, a name without a dot, such as that of a container, or one
// that ends in .localhost or .internal, such as host.docker.internal.
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".internal")
}
