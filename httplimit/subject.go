package httplimit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tierlimit/tierlimit"
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

// ByKey takes the subject that owns the API key in the first of the headers that has one: see
// ByAPIKey. Without headers it looks in X-Api-Key, then in Authorization. A nil lookup knows no
// key.
func ByKey(lookup KeyLookup, headers ...string) SubjectFunc {
	if lookup == nil {
		return func(*http.Request) (string, error) { return "", nil }
	}
	if len(headers) == 0 {
		headers = []string{"X-Api-Key", "Authorization"}
	}
	funcs := make([]SubjectFunc, len(headers))
	for i, header := range headers {
		funcs[i] = ByAPIKey(header, lookup)
	}
	return FirstOf(funcs...)
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

// ByTrustedHeader takes the subject that a gateway put into a header, from the trusted peers
// alone: from anybody else the header says nothing.
func ByTrustedHeader(header string, trusted []netip.Prefix) SubjectFunc {
	return fromTrusted(AddressConfig{Trusted: trusted}, func(r *http.Request) string { return lastValue(r, header) })
}

// ByClaim takes the subject from a claim of the JSON Web Token (RFC 7519) that a gateway passes
// on in Authorization: Bearer, from the trusted peers alone. The signature is NOT verified: the
// gateway must have done so, and must not pass on tokens that it did not verify. The claim is a
// string or a whole number.
func ByClaim(claim string, trusted []netip.Prefix) SubjectFunc {
	return fromTrusted(AddressConfig{Trusted: trusted}, func(r *http.Request) string { return claimOf(r, claim) })
}

// fromTrusted returns a SubjectFunc that calls read for requests of trusted peers.
func fromTrusted(cfg AddressConfig, read func(*http.Request) string) SubjectFunc {
	a, err := newAddresses(cfg)
	return func(r *http.Request) (string, error) {
		if err != nil || !a.trusts(r) {
			return "", err
		}
		return read(r), nil
	}
}

// lastValue returns the last value of a header, which the closest hop has added.
func lastValue(r *http.Request, header string) string {
	values := r.Header.Values(header)
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// maxClaims is the maximum size of the claims of a token, in bytes.
const maxClaims = 16 << 10

func claimOf(r *http.Request, claim string) string {
	values := r.Header["Authorization"]
	if len(values) != 1 { // which of several the gateway has verified is not known
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	parts := strings.Split(strings.TrimSpace(token), ".")
	if !strings.EqualFold(scheme, "Bearer") || len(parts) != 3 || len(parts[1]) > maxClaims {
		return ""
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(text, &claims) != nil {
		return ""
	}
	var name string
	if json.Unmarshal(claims[claim], &name) == nil {
		return name
	}
	var number int64
	if json.Unmarshal(claims[claim], &number) == nil {
		return strconv.FormatInt(number, 10)
	}
	return ""
}

// A Who configures how the subject of a request is found. The order is: a header or a claim from
// trusted peers, an API key, the client's address.
type Who struct {
	Keys       KeyLookup     // whose an API key is; nil: there are no keys
	KeyHeaders []string      // where API keys stand; default X-Api-Key, then Authorization
	Header     string        // where a trusted peer writes the subject; "": nowhere
	Claim      string        // the claim of a token that a trusted peer has verified; "": none
	Address    AddressConfig // who is trusted, and how clients without a subject are told apart
}

// Validate returns an error that joins a *tierlimit.FieldError for each invalid field.
func (w *Who) Validate() error {
	var errs []error
	if err := w.Address.Validate(); err != nil {
		errs = append(errs, err)
	}
	for field, names := range map[string][]string{"KeyHeaders": w.KeyHeaders, "Header": {w.Header}} {
		for _, name := range names {
			if !validHeader(name) && (field != "Header" || name != "") {
				errs = append(errs, &tierlimit.FieldError{Field: field, Value: name, Want: "the name of a header"})
			}
		}
	}
	taken := append([]string{"Host", "Authorization", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Api-Key", ForwardedFor, "Forwarded", w.Address.Header}, w.KeyHeaders...)
	if w.Header != "" && slices.ContainsFunc(taken, func(name string) bool { return strings.EqualFold(name, w.Header) }) {
		errs = append(errs, &tierlimit.FieldError{Field: "Header", Value: w.Header, Want: "a header of its own, which says nothing else"})
	}
	if (w.Header != "" || w.Claim != "") && len(w.Address.Trusted) == 0 && !w.Address.TrustUnix {
		errs = append(errs, &tierlimit.FieldError{Field: "Trusted", Want: "given: whose header or claim is believed"})
	}
	return errors.Join(errs...)
}

// Subject returns a SubjectFunc. With an invalid Who it returns an error for every request.
func (w *Who) Subject() SubjectFunc {
	if err := w.Validate(); err != nil {
		return func(*http.Request) (string, error) { return "", err }
	}
	var funcs []SubjectFunc
	if w.Header != "" {
		funcs = append(funcs, fromTrusted(w.Address, func(r *http.Request) string { return lastValue(r, w.Header) }))
	}
	if w.Claim != "" {
		funcs = append(funcs, fromTrusted(w.Address, func(r *http.Request) string { return claimOf(r, w.Claim) }))
	}
	return FirstOf(append(funcs, ByKey(w.Keys, w.KeyHeaders...), ByAddress(w.Address))...)
}
