package replica

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// A Mode says how Redis is run.
type Mode string

// The modes. The zero Mode is Single.
const (
	Single   Mode = "single"
	Sentinel Mode = "sentinel"
	Cluster  Mode = "cluster"
)

// Redis says where the Redis is that counts.
type Redis struct {
	URL          string // required: redis://, rediss:// (TLS) or unix:// and an address
	Mode         Mode
	Authorities  *x509.CertPool    // that sign the servers' certificates; nil: those of the system
	Certificates []tls.Certificate // to show to the servers
}

// options are those of one kind of client; the others are nil.
type options struct {
	single   *redis.Options
	sentinel *redis.FailoverOptions
	cluster  *redis.ClusterOptions
}

// options returns the options of the client. It does not dial.
func (r *Redis) options(budget time.Duration) (o options, err error) {
	var secure **tls.Config
	switch r.mode() {
	case Single:
		if o.single, err = redisstore.Options(r.URL, budget); err == nil {
			secure = &o.single.TLSConfig
		}
	case Sentinel:
		if o.sentinel, err = redisstore.SentinelOptions(r.URL, budget); err == nil {
			secure = &o.sentinel.TLSConfig
		}
	case Cluster:
		if o.cluster, err = redisstore.ClusterOptions(r.URL, budget); err == nil {
			secure = &o.cluster.TLSConfig
		}
	default:
		return o, &tierlimit.FieldError{Field: "Redis.Mode", Value: string(r.Mode), Want: "single, sentinel or cluster"}
	}
	if err != nil {
		return o, r.badURL()
	}
	*secure, err = r.withTLS(*secure)
	return o, err
}

func (r *Redis) mode() Mode { return cmp.Or(r.Mode, Single) }

// open returns a store on the configured Redis and the client to close after the store. changed is
// told of the circuit breakers: see redisstore.Config.OnChange.
func (r *Redis) open(budget time.Duration, changed func(server string, open bool, cause error)) (*redisstore.Store, io.Closer, error) {
	o, err := r.options(budget)
	if err != nil {
		return nil, nil, err
	}
	cfg := redisstore.Config{Budget: budget, OnChange: changed}
	if o.cluster != nil {
		client := redis.NewClusterClient(o.cluster)
		store, err := redisstore.NewCluster(client, cfg)
		return store, client, err
	}
	var client *redis.Client
	if o.sentinel != nil {
		client = redis.NewFailoverClient(o.sentinel)
	} else {
		client = redis.NewClient(o.single)
	}
	store, err := redisstore.New(client, cfg)
	return store, client, err
}

// badURL describes the URL that the mode needs. It shows nothing of the URL, nor of the client's
// error: any part may be of a password.
func (r *Redis) badURL() error {
	want := map[Mode]string{
		Single: "redis://, rediss:// or unix:// and an address, with a database's number at most",
		Sentinel: "redis:// or rediss:// and the address of a Sentinel, with ?master_name=NAME, &addr=HOST:PORT of the others, " +
			"and &username= and &password= of the master",
		Cluster: "redis:// or rediss:// and the address of one server, with ?addr=HOST:PORT of others, and no database but 0",
	}[r.mode()]
	return &tierlimit.FieldError{
		Field: "Redis.URL", Value: "(hidden)",
		Want: want + ", in the mode " + string(r.mode()) + "; special characters of a password are escaped as %XX",
	}
}

// withTLS adds the authorities and certificates to the TLS configuration of the URL, nil without
// TLS.
func (r *Redis) withTLS(config *tls.Config) (*tls.Config, error) {
	if config == nil {
		if r.Authorities != nil || r.Certificates != nil {
			return nil, &tierlimit.FieldError{Field: "Redis.URL", Want: "rediss://, as authorities or certificates are given"}
		}
		return nil, nil
	}
	config = config.Clone()
	config.MinVersion = tls.VersionTLS12
	if r.Authorities != nil {
		config.RootCAs = r.Authorities
	}
	config.Certificates = append(config.Certificates, r.Certificates...)
	return config, nil
}

// closeRedis waits for the calls to Redis that are under way, at most a second.
func closeRedis(store *redisstore.Store, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := store.Close(ctx); err != nil {
		log.Warn("some calls to redis did not end", "error", err)
	}
}

// checkRedis returns an error if Redis refuses: with a wrong password or missing rights every
// request would be denied. A Redis that cannot be reached is no error.
func checkRedis(ctx context.Context, store *redisstore.Store, watched *watchedStore, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := store.Ping(ctx)
	if err != nil && !errors.Is(err, tierlimit.ErrStoreUnavailable) {
		return fmt.Errorf("redis refuses: %w", err)
	}
	watched.saw(err)
	if err != nil {
		return nil
	}
	warnings, err := store.Check(ctx)
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	for _, warning := range warnings {
		log.Warn("redis: " + warning)
	}
	return nil
}
