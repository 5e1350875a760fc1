package listen

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A Certificate is a TLS certificate in two files. The files are read again when they change. A
// Certificate is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu        sync.Mutex
	checked   time.Time // when the files were last read
	cert, key []byte    // the text of the files
	current   *tls.Certificate
}

// checkEvery is the interval at which the files are read again, if there are handshakes.
const checkEvery = time.Second

// LoadCertificate reads a certificate chain and its key from files in PEM.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) read() error {
	c.checked = time.Now()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	if c.current != nil {
		c.log.Info("the certificate was read again", "file", c.certFile, "expires", pair.Leaf.NotAfter)
	}
	c.cert, c.key, c.current = cert, key, &pair
	return nil
}

// get returns the certificate for a handshake. While the files are unreadable or do not belong
// together, as in the middle of a change, it is the last valid one.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= checkEvery {
		if err := c.read(); err != nil {
			c.log.Warn("the certificate cannot be read again: the last one stays in use", "file", c.certFile, "error", err)
		}
	}
	return c.current, nil
}

// Config returns a TLS configuration for servers. protocols are those of ALPN, the preferred
// first.
func (c *Certificate) Config(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, GetCertificate: c.get}
}
