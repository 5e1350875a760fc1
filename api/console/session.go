package console

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

// A session is kept by the browser alone: its cookie holds the token and when the session ends,
// sealed with a key that all replicas derive from the owner token of the configuration. So every
// replica serves every session, also after a restart, and nothing is stored. The token is looked at
// with each request, so a revoked token ends its sessions at once. A cookie that was stolen before
// a sign-out works until the session ends or the token is revoked.
const (
	cookieName = "tierlimit_console"
	// sessionLength is how long a session lasts, whatever is done in it.
	sessionLength = 12 * time.Hour
	// derivations is the work to derive a key. A configured token may be one that a person chose,
	// and whoever has a cookie can try tokens against it.
	derivations = 100_000
)

// A session is the contents of a session cookie.
type session struct {
	token string
	ends  time.Time
}

var errNoSession = &problem{Status: http.StatusUnauthorized, Detail: "You are not signed in."}

// session returns the session of a request. Its error is errNoSession.
func (c *Console) session(r *http.Request) (session, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, errNoSession
	}
	s, err := c.sealer.open(cookie.Value)
	if err != nil || !time.Now().Before(s.ends) {
		return session{}, errNoSession
	}
	return s, nil
}

// setSession gives the browser a cookie. Without a Path the cookie belongs to the folder of the
// page as the browser sees it, which is the console under any prefix.
func (c *Console) setSession(w http.ResponseWriter, r *http.Request, s session) error {
	value, err := c.sealer.seal(s)
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // without TLS, as dev is, a secure cookie would not come back
		Name: cookieName, Value: value, Expires: s.ends, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: isSecure(r),
	})
	return nil
}

// clearSession takes the cookie away.
func (c *Console) clearSession(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode}) //nolint:gosec // it has no value that a wire could show
}

// isSecure reports whether the browser speaks TLS, to this process or to a proxy: a form that is
// sent says from which origin.
func isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.HasPrefix(r.Header.Get("Origin"), "https://")
}

// A sealer seals and opens sessions. It is safe for concurrent use.
type sealer struct {
	secrets func() [][]byte

	mu    sync.Mutex
	known map[string]cipher.AEAD // by secret
}

// purpose binds a sealed session to what it is for.
var purpose = []byte("tierlimit console session")

// ciphers returns the ciphers of the secrets, in their order.
func (s *sealer) ciphers() ([]cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, list := make(map[string]cipher.AEAD), []cipher.AEAD(nil)
	for _, secret := range s.secrets() {
		one := s.known[string(secret)]
		if one == nil {
			key, err := pbkdf2.Key(sha256.New, string(secret), purpose, derivations, 32)
			if err != nil {
				return nil, err
			}
			block, err := aes.NewCipher(key)
			if err != nil {
				return nil, err
			}
			if one, err = cipher.NewGCMWithRandomNonce(block); err != nil {
				return nil, err
			}
		}
		known[string(secret)] = one
		list = append(list, one)
	}
	s.known = known
	return list, nil
}

func (s *sealer) seal(one session) (string, error) {
	ciphers, err := s.ciphers()
	if err != nil {
		return "", err
	}
	if len(ciphers) == 0 {
		return "", errors.New("there is no secret to seal a session with")
	}
	plain := binary.BigEndian.AppendUint64(nil, uint64(one.ends.Unix()))      //nolint:gosec // a date after 1970
	sealed := ciphers[0].Seal(nil, nil, append(plain, one.token...), purpose) //nolint:gosec // the cipher draws a nonce itself
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

func (s *sealer) open(text string) (session, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return session{}, errNoSession
	}
	ciphers, err := s.ciphers()
	if err != nil {
		return session{}, err
	}
	for _, one := range ciphers {
		if plain, err := one.Open(nil, nil, sealed, purpose); err == nil && len(plain) > 8 {
			return session{string(plain[8:]), time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)}, nil //nolint:gosec // what seal wrote
		}
	}
	return session{}, errNoSession
}

// signInFor returns the sign-in page that leads back to what r asked for.
func signInFor(r *http.Request) string {
	next := strings.TrimPrefix(r.URL.Path, Path)
	if r.Method != http.MethodGet || next == "" && r.URL.RawQuery == "" {
		return "sign-in"
	}
	if r.URL.RawQuery != "" {
		next += "?" + r.URL.RawQuery
	}
	return "sign-in?" + url.Values{"next": {next}}.Encode()
}

// localPage returns next if it is a page of the console, else the overview: a link that leads here
// must not lead on to another site.
func localPage(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.Path == "" || strings.ContainsAny(u.Path, `/\:`) || strings.HasPrefix(u.Path, ".") {
		return "./"
	}
	return next
}

// A signInPage is what the sign-in page shows.
type signInPage struct {
	Next  string
	Error string
}

func (c *Console) signInForm(w http.ResponseWriter, r *http.Request) {
	v := &visit{console: c, w: w, r: r}
	v.render(http.StatusOK, "signin", "Sign in", signInPage{Next: r.URL.Query().Get("next")})
}

// signIn begins a session if the API knows the token. The API counts wrong tokens of an address.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	v := &visit{console: c, w: w, r: r}
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	next := r.PostFormValue("next")
	v.session = session{strings.TrimSpace(r.PostFormValue("token")), time.Now().Add(sessionLength)}
	err := error(errNoSession)
	if v.session.token != "" {
		v.who, err = read[identity](v, "/admin/v1/identity", nil)
	}
	if err == nil && !v.who.Role.May(access.Read) {
		err = &problem{Status: http.StatusForbidden, Detail: "This token has the role service, which asks for decisions and cannot see the console. Use a token of a viewer, an operator or an owner."}
	}
	if err == nil {
		err = c.setSession(w, r, v.session)
	}
	if err == nil {
		v.redirect(localPage(next))
		return
	}
	var p *problem
	if !errors.As(err, &p) {
		c.failed(v, err)
		return
	}
	text := p.Detail
	if p.Status == http.StatusUnauthorized {
		text = "This token is not valid. It may have expired or been revoked."
	}
	v.who = identity{}
	v.render(p.Status, "signin", "Sign in", signInPage{Next: next, Error: text})
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	c.clearSession(w)
	(&visit{console: c, w: w, r: r}).redirect("sign-in")
}
