package pgtiers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierlimit/tierlimit/tiers"
)

// session is the first statement of each transaction; $1 is the statement timeout in
// milliseconds. It overrides the session's parameters. Connection parameters would not
// suffice: a pooler refuses them or shares sessions between clients. jit is off because
// compiling one of our statements takes a hundred times as long as running it.
const session = `SELECT
	set_config('TimeZone', 'UTC', true), set_config('search_path', 'pg_catalog', true),
	set_config('statement_timeout', $1::bigint::text, true), set_config('lock_timeout', '5s', true),
	set_config('idle_in_transaction_session_timeout', '10s', true), set_config('jit', 'off', true)`

// pool returns the configuration of a pool of the given size. If sized is true,
// pool_max_conns in the URL takes precedence.
func (cfg *Config) pool(most int32, sized bool) (*pgxpool.Config, error) {
	p, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, err
	}
	if !sized || !strings.Contains(cfg.URL, "pool_max_conns") {
		p.MaxConns = most
	}
	p.MinConns, p.MinIdleConns = min(p.MinConns, p.MaxConns), min(p.MinIdleConns, p.MaxConns)
	p.PingTimeout = queryTimeout
	p.MaxConnLifetime = time.Hour
	p.MaxConnLifetimeJitter = 10 * time.Minute
	cfg.connection(p.ConnConfig)
	p.BeforeConnect = cfg.renew
	return p, nil
}

// connection sets the parameters common to all connections. Prepared statements have no names,
// because a pooler shares sessions between clients.
func (cfg *Config) connection(conn *pgx.ConnConfig) {
	conn.ConnectTimeout = queryTimeout
	conn.Tracer = cfg.Tracer
	conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn.RuntimeParams["application_name"] = "tierlimit"
}

// renew sets the current user and password in conn before a connection is opened.
func (cfg *Config) renew(_ context.Context, conn *pgx.ConnConfig) error {
	if cfg.Renew == nil {
		return nil
	}
	url, err := cfg.Renew()
	if err != nil {
		return fmt.Errorf("%w: read the database URL again: %w", tiers.ErrUnavailable, err)
	}
	now, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("%w: the database URL is not one any more", tiers.ErrUnavailable)
	}
	conn.User, conn.Password = now.User, now.Password
	return nil
}

// SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	classConnection    = "08"
	classAuthorization = "28"
	classNoDatabase    = "3D"
	classRollback      = "40" // serialization_failure, deadlock_detected
	classResources     = "53"
	classIntervention  = "57" // the server stops, or a statement took too long
	readOnlyState      = "25006"
	lockState          = "55P03"
	canceledState      = "57014"
	uniqueState        = "23505"
	rightState         = "42501"
)

func codeOf(err error) (code, class string) {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && len(refused.Code) >= 2 {
		return refused.Code, refused.Code[:2]
	}
	return "", ""
}

// isRefusal reports whether the database refused the credentials or the database name.
func isRefusal(err error) bool {
	_, class := codeOf(err)
	return class == classAuthorization || class == classNoDatabase
}

func isReadOnly(err error) bool {
	code, _ := codeOf(err)
	return code == readOnlyState || errors.Is(err, errReadOnly)
}

// isTimeout reports whether a statement took longer than its timeout, by the server's clock or
// by ours.
func isTimeout(err error) bool {
	code, _ := codeOf(err)
	return code == canceledState || pgconn.Timeout(err)
}

// isConflict reports whether a transaction was rolled back because of a concurrent one and may
// be retried.
func isConflict(err error) bool {
	_, class := codeOf(err)
	return class == classRollback
}

// unavailable wraps err in tiers.ErrUnavailable if the database is unavailable: no connection,
// no answer in time, or a server that is starting, stopping or read-only. It returns other
// errors unchanged.
func unavailable(err error) error {
	var connect *pgconn.ConnectError
	var network net.Error
	code, class := codeOf(err)
	switch {
	case err == nil || errors.Is(err, tiers.ErrUnavailable):
		return err
	case code == uniqueState: // a writer outside this package has inserted the row
		return fmt.Errorf("%w: %w", tiers.ErrExists, err)
	case code != "":
		switch class {
		case classConnection, classAuthorization, classNoDatabase, classRollback, classResources, classIntervention:
		default:
			if code != lockState && code != readOnlyState {
				return err
			}
		}
	case !errors.As(err, &connect) && !errors.As(err, &network) && !pgconn.Timeout(err) &&
		!errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errReadOnly):
		return err
	}
	return fmt.Errorf("%w: %w", tiers.ErrUnavailable, err)
}
