package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/redisstore"
)

// The ways Redis is run.
const (
	redisSingle   = "single"
	redisSentinel = "sentinel"
	redisCluster  = "cluster"
)

// openRedis makes a store of the Redis that is configured, however it is run, and
// what to close it with. Nothing is dialled yet.
func openRedis(set *settings) (*redisstore.Store, io.Closer, error) {
	cfg := redisstore.Config{Budget: set.budget}
	switch set.redisMode {
	case redisSentinel:
		opts, err := redisstore.SentinelOptions(set.redisURL, set.budget)
		if err != nil {
			return nil, nil, badRedisURL(set)
		}
		opts.TLSConfig, err = set.redisTLS(opts.TLSConfig)
		if err != nil {
			return nil, nil, err
		}
		client := redis.NewFailoverClient(opts)
		store, err := redisstore.New(client, cfg)
		return store, client, err
	case redisCluster:
		opts, err := redisstore.ClusterOptions(set.redisURL, set.budget)
		if err != nil {
			return nil, nil, badRedisURL(set)
		}
		opts.TLSConfig, err = set.redisTLS(opts.TLSConfig)
		if err != nil {
			return nil, nil, err
		}
		client := redis.NewClusterClient(opts)
		store, err := redisstore.NewCluster(client, cfg)
		return store, client, err
	default:
		opts, err := redisstore.Options(set.redisURL, set.budget)
		if err != nil {
			return nil, nil, badRedisURL(set)
		}
		opts.TLSConfig, err = set.redisTLS(opts.TLSConfig)
		if err != nil {
			return nil, nil, err
		}
		client := redis.NewClient(opts)
		store, err := redisstore.New(client, cfg)
		return store, client, err
	}
}

// badRedisURL says what the URL must be for the mode. It shows nothing of what it is,
// nor what the client says of it: any part may be of a password.
func badRedisURL(set *settings) error {
	want := map[string]string{
		redisSingle: "redis://, rediss:// or unix:// and an address, with a database's number at most",
		redisSentinel: "redis:// or rediss:// and the address of a Sentinel, with ?master_name=NAME, &addr=HOST:PORT of the others, " +
			"and &username= and &password= of the master",
		redisCluster: "redis:// or rediss:// and the address of one server, with ?addr=HOST:PORT of others, and no database but 0",
	}[set.redisMode]
	return usage(&tierlimit.FieldError{
		Field: "TIERLIMIT_REDIS_URL", Value: hidden,
		Want: want + ", in the mode " + set.redisMode + "; what is special in URLs is written %XX in a password",
	})
}

// redisTLS adds the authority and the certificate that are configured to what the URL
// asks for: nil for no TLS.
func (s *settings) redisTLS(config *tls.Config) (*tls.Config, error) {
	if config == nil {
		if s.redisCA != "" || s.redisCert != "" || s.redisKey != "" {
			return nil, usage(&tierlimit.FieldError{Field: "TIERLIMIT_REDIS_URL", Want: "rediss://, as TIERLIMIT_REDIS_CA, TIERLIMIT_REDIS_CERT or TIERLIMIT_REDIS_KEY is given"})
		}
		return nil, nil
	}
	config = config.Clone()
	config.MinVersion = tls.VersionTLS12
	if s.redisCA != "" {
		pem, err := os.ReadFile(s.redisCA)
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage(&tierlimit.FieldError{Field: "TIERLIMIT_REDIS_CA", Value: s.redisCA, Want: "a file of certificates in PEM that can be read"})
		}
	}
	if s.redisCert != "" || s.redisKey != "" {
		pair, err := tls.LoadX509KeyPair(s.redisCert, s.redisKey)
		if err != nil {
			return nil, usage(&tierlimit.FieldError{
				Field: "TIERLIMIT_REDIS_CERT and TIERLIMIT_REDIS_KEY", Value: s.redisCert + " and " + s.redisKey,
				Want: "files that can be read, of a certificate in PEM and of its key",
			})
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// closeRedis ends the calls to Redis, once nobody is served any more.
func closeRedis(store *redisstore.Store, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := store.Close(ctx); err != nil {
		log.Warn("some calls to redis did not end", "error", err)
	}
}

// checkRedis refuses to start on a Redis that refuses: a wrong password or
// missing rights would deny every request. One that is only away is waited for.
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

// clientLog keeps the Redis client's own lines, one for each failed dial, out
// of an operator's way.
type clientLog struct{ log *slog.Logger }

func (c clientLog) Printf(_ context.Context, format string, v ...any) {
	c.log.Debug("redis client: " + fmt.Sprintf(format, v...))
}
