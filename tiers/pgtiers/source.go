package pgtiers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// How many changed subjects, and how many changed credentials, one call of Changes returns at
// most. A server that could not read them in time is asked for fewer.
const (
	mostChanges  = 10_000
	leastChanges = 100
)

// A changesPage is the current number between mostChanges and leastChanges.
type changesPage struct{ shrunk atomic.Int32 } // how often it was halved, in the balance

func (p *changesPage) size() int { return max(leastChanges, mostChanges>>p.shrunk.Load()) }

// adapt learns from the result of a call.
func (p *changesPage) adapt(err error) {
	shrunk := p.shrunk.Load()
	switch {
	case err == nil:
		p.shrunk.CompareAndSwap(shrunk, max(0, shrunk-1))
	case isTimeout(err) && p.size() > leastChanges:
		p.shrunk.CompareAndSwap(shrunk, shrunk+2)
	}
}

// Changes implements tiers.Source.
func (c *Catalogue) Changes(ctx context.Context, since int64) (ch tiers.Changes, err error) {
	err = c.in(ctx, c.lookups, snapshot, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		ch, err = selectChanges(ctx, tx, since, c.changes.size())
		return err
	})
	c.changes.adapt(err)
	if err != nil {
		return tiers.Changes{}, fmt.Errorf("read changes since version %d: %w", since, err)
	}
	return ch, nil
}

func selectChanges(ctx context.Context, tx pgx.Tx, since int64, most int) (ch tiers.Changes, err error) {
	var tiersVersion, forgotten int64
	var readOnly bool
	err = tx.QueryRow(ctx, `SELECT version, tiers_version, forgotten, `+serverIsReadOnly+`, `+origin+` FROM tierlimit.catalogue`).
		Scan(&ch.Version, &tiersVersion, &forgotten, &readOnly, &ch.Origin)
	if err == nil && readOnly {
		err = errReadOnly
	}
	if err != nil || ch.Version == since {
		return ch, err
	}
	if tiersVersion > since {
		if ch.Tiers, err = selectTiers(ctx, tx, ""); err != nil {
			return ch, err
		}
	}
	rows, _ := tx.Query(ctx, loadControlColumns)
	ch.Load = new(tiers.LoadControl)
	if err := readLoadControl(rows, ch.Load); err != nil {
		return ch, err
	}
	// Load is always set, because deleting the row of the load control draws no version.
	if since == 0 || since < forgotten {
		ch.Forget = true
		return ch, nil
	}
	rows, _ = tx.Query(ctx, `
		SELECT `+subjectColumns+` FROM tierlimit.subjects s WHERE s.version > $1 ORDER BY s.version LIMIT $2`, since, most)
	if ch.Subjects, err = subjectsOf(rows); err != nil {
		return ch, err
	}
	if len(ch.Subjects) == most {
		ch.Version, ch.More = ch.Subjects[most-1].Version, true
	}
	rows, _ = tx.Query(ctx, `
		SELECT `+credentialColumns+` FROM tierlimit.credentials k
		WHERE k.version > $1 AND k.version <= $2 ORDER BY k.version LIMIT $3`, since, ch.Version, most)
	if ch.Credentials, err = credentialsOf(rows); err != nil {
		return ch, err
	}
	if len(ch.Credentials) == most { // subjects behind it come again, and are known to be no news
		ch.Version, ch.More = ch.Credentials[most-1].Version, true
	}
	rows, _ = tx.Query(ctx, `
		SELECT kind, subject AS id, version FROM tierlimit.removals
		WHERE version > $1 AND version <= $2 ORDER BY version LIMIT $3`, since, ch.Version, most)
	ch.Removed, err = pgx.CollectRows(rows, pgx.RowToStructByName[tiers.Removal])
	if len(ch.Removed) == most {
		ch.Version, ch.More = ch.Removed[most-1].Version, true
	}
	return ch, err
}

// origin identifies the table and the start of the server. It changes if the catalogue is
// restored from a backup, or if another server takes over.
const origin = `concat_ws('/', 'tierlimit.catalogue'::regclass::oid, extract(epoch FROM pg_postmaster_start_time()))`

// AllSubjects implements tiers.Source.
func (c *Catalogue) AllSubjects(ctx context.Context, after string, most int) ([]tiers.Subject, error) {
	list, err := c.subjects(ctx, c.lookups, ` FROM tierlimit.subjects s WHERE s.id > $1 ORDER BY s.id LIMIT $2`, after, most)
	if err != nil {
		return nil, fmt.Errorf("read subjects: %w", err)
	}
	return list, nil
}

// AllCredentials implements tiers.Source.
func (c *Catalogue) AllCredentials(ctx context.Context, after string, most int) ([]access.Credential, error) {
	list, err := c.credentials(ctx, c.lookups, `WHERE k.id > $1 ORDER BY k.id LIMIT $2`, after, most)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	return list, nil
}

// serverIsReadOnly is true on a standby, and on a server that was set read-only when another
// took over. Such a server may be out of date.
const serverIsReadOnly = `(pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean)`

// catalogueVersion returns one row. The aggregate tells the planner so; it expects thousands of
// rows in a small table that was never analyzed.
const catalogueVersion = `(SELECT max(version) AS version FROM tierlimit.catalogue)`

// LookupSubjects implements tiers.Source. One statement sees one snapshot, so the
// version and the subjects belong together.
func (c *Catalogue) LookupSubjects(ctx context.Context, ids []string) (found []tiers.Subject, version int64, err error) {
	type foundRow struct {
		subjectRow
		ReadAt int64
	}
	var list []foundRow
	err = c.query(ctx, c.lookups, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByName[foundRow])
		return err
	}, `
		SELECT c.version AS read_at, `+subjectColumns+`
		FROM `+catalogueVersion+` c LEFT JOIN tierlimit.subjects s ON s.id = ANY ($1)`, ids)
	if err != nil {
		return nil, 0, fmt.Errorf("look up %d subjects: %w", len(ids), err)
	}
	for i := range list {
		version = list[i].ReadAt
		if list[i].ID != "" {
			found = append(found, list[i].subject())
		}
	}
	return found, version, nil
}

const (
	// pingEvery is how often an idle LISTEN connection is tested: a half-open connection
	// reports no error by itself.
	pingEvery = 2 * time.Second
	// heardWithin is the time limit for Listen to receive its own test notification.
	heardWithin = 2 * time.Second
)

// Listen implements tiers.Source. It uses its own connection, and first sends a notification to
// test whether notifications arrive: a pooler in transaction mode loses them.
func (c *Catalogue) Listen(ctx context.Context, wake func()) error {
	conn, err := c.startListening(ctx)
	if err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the connection is given up either way
	}()
	if err := c.hears(ctx, conn); err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	// What was notified while nobody listened is lost: look once now.
	wake()
	for {
		heard, err := c.waitForNotification(ctx, conn)
		if err != nil {
			return fmt.Errorf("listen for changes: %w", unavailable(err))
		}
		if heard {
			wake()
		}
	}
}

func (c *Catalogue) startListening(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	cfg, err := pgx.ParseConfig(c.cfg.URL)
	if err != nil {
		return nil, err
	}
	c.cfg.connection(cfg)
	if err := c.cfg.renew(ctx, cfg); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, unavailable(err)
	}
	if _, err := conn.Exec(ctx, `LISTEN tierlimit`); err != nil {
		return nil, errors.Join(unavailable(err), conn.Close(ctx))
	}
	return conn, nil
}

// hears sends a notification and returns tiers.ErrNotHeard unless conn receives one.
func (c *Catalogue) hears(ctx context.Context, conn *pgx.Conn) error {
	if err := c.exec(ctx, one(`SELECT pg_notify('tierlimit', '')`)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, heardWithin)
	defer cancel()
	if _, err := conn.WaitForNotification(ctx); err != nil {
		if pgconn.Timeout(err) {
			return tiers.ErrNotHeard
		}
		return unavailable(err)
	}
	return nil
}

// waitForNotification waits for a notification for pingEvery. If none arrives, it checks that
// the server still answers and is not read-only, and returns false.
func (c *Catalogue) waitForNotification(ctx context.Context, conn *pgx.Conn) (heard bool, err error) {
	wait, cancel := context.WithTimeout(ctx, pingEvery)
	defer cancel()
	_, err = conn.WaitForNotification(wait)
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil || !pgconn.Timeout(err) {
		return false, err
	}
	ping, cancel := context.WithTimeout(ctx, pingEvery)
	defer cancel()
	var readOnly bool
	if err := conn.QueryRow(ping, `SELECT `+serverIsReadOnly).Scan(&readOnly); err != nil {
		return false, err
	}
	if readOnly {
		return false, errReadOnly
	}
	return false, nil
}
