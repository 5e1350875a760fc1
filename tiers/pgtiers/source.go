package pgtiers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tierlimit/tierlimit/tiers"
)

// changesPage bounds how many changed subjects one call returns.
const changesPage = 10_000

// Changes implements tiers.Source.
func (c *Catalogue) Changes(ctx context.Context, since int64) (ch tiers.Changes, err error) {
	err = c.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		ch, err = selectChanges(ctx, tx, since)
		return err
	})
	if err != nil {
		return tiers.Changes{}, fmt.Errorf("read changes since version %d: %w", since, err)
	}
	return ch, nil
}

func selectChanges(ctx context.Context, tx pgx.Tx, since int64) (ch tiers.Changes, err error) {
	var tiersVersion, forgotten int64
	err = tx.QueryRow(ctx, `SELECT version, tiers_version, forgotten FROM tierlimit.catalogue`).
		Scan(&ch.Version, &tiersVersion, &forgotten)
	if err != nil || ch.Version == since {
		return ch, err
	}
	if tiersVersion > since {
		if ch.Tiers, err = selectTiers(ctx, tx, ""); err != nil {
			return ch, err
		}
	}
	control, err := selectLoadControl(ctx, tx)
	if err != nil {
		return ch, err
	}
	ch.Load = &control // whatever changed: a row, and one that was deleted draws no version of its own
	if since == 0 || since < forgotten {
		ch.Forget = true
		return ch, nil
	}
	ch.Subjects, err = subjectsOf(tx.Query(ctx, `
		SELECT `+subjectColumns+` FROM tierlimit.subjects s WHERE s.version > $1 ORDER BY s.version LIMIT $2`, since, changesPage))
	if err != nil {
		return ch, err
	}
	if len(ch.Subjects) == changesPage {
		ch.Version, ch.More = ch.Subjects[changesPage-1].Version, true
	}
	ch.Credentials, err = credentialsOf(tx.Query(ctx, `
		SELECT `+credentialColumns+` FROM tierlimit.credentials k
		WHERE k.version > $1 AND k.version <= $2 ORDER BY k.version LIMIT $3`, since, ch.Version, changesPage))
	if err != nil {
		return ch, err
	}
	if len(ch.Credentials) == changesPage { // subjects behind it come again, and are known to be no news
		ch.Version, ch.More = ch.Credentials[changesPage-1].Version, true
	}
	rows, _ := tx.Query(ctx, `
		SELECT kind, subject AS id, version FROM tierlimit.removals WHERE version > $1 AND version <= $2`, since, ch.Version)
	ch.Removed, err = pgx.CollectRows(rows, pgx.RowToStructByName[tiers.Removal])
	return ch, err
}

// LookupSubjects implements tiers.Source. One statement sees one snapshot, so the
// version and the subjects belong together.
func (c *Catalogue) LookupSubjects(ctx context.Context, ids []string) (found []tiers.Subject, version int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, _ := c.pool.Query(ctx, `
		SELECT c.version AS read_at, `+subjectColumns+`
		FROM tierlimit.catalogue c LEFT JOIN tierlimit.subjects s ON s.id = ANY ($1)`, ids)
	type foundRow struct {
		subjectRow
		ReadAt int64
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[foundRow])
	if err != nil {
		return nil, 0, fmt.Errorf("look up %d subjects: %w", len(ids), unavailable(err))
	}
	for i := range list {
		version = list[i].ReadAt
		if list[i].ID != "" {
			found = append(found, list[i].subject())
		}
	}
	return found, version, nil
}

// pingEvery is how often a quiet LISTEN connection is tried: a half-open one
// shows no error by itself.
const pingEvery = 2 * time.Second

// Listen implements tiers.Source. It uses a connection of its own: LISTEN does
// not survive a pool, nor PgBouncer in transaction mode.
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
	// What was notified while nobody listened is lost: look once now.
	wake()
	for {
		heard, err := c.waitForNotification(ctx, conn)
		if err != nil {
			return fmt.Errorf("listen for changes: %w", err)
		}
		if heard {
			wake()
		}
	}
}

func (c *Catalogue) startListening(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.pool.Config().ConnConfig)
	if err != nil {
		return nil, unavailable(err)
	}
	if _, err := conn.Exec(ctx, `LISTEN tierlimit`); err != nil {
		return nil, errors.Join(unavailable(err), conn.Close(ctx))
	}
	return conn, nil
}

// waitForNotification returns whether one came before it was time to ping.
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
	return false, conn.Ping(ping)
}
