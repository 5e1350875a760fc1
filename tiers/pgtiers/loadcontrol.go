package pgtiers

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// LoadControl implements tiers.Catalogue.
func (c *Catalogue) LoadControl(ctx context.Context) (l tiers.LoadControl, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	l, err = selectLoadControl(ctx, c.pool)
	return l, unavailable(err)
}

func selectLoadControl(ctx context.Context, q querier) (l tiers.LoadControl, err error) {
	rows, _ := q.Query(ctx, `SELECT mode, pins, version FROM tierlimit.load_control`)
	l, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[tiers.LoadControl])
	l.Normalize()
	return l, err
}

// SetLoadControl implements tiers.Catalogue.
func (c *Catalogue) SetLoadControl(ctx context.Context, l tiers.LoadControl, version int64) (written tiers.LoadControl, err error) {
	l.Normalize()
	if err := l.Validate(); err != nil {
		return tiers.LoadControl{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		old, err := selectLoadControl(ctx, tx)
		if err != nil {
			return err
		}
		if old.Version != version {
			return tiers.LoadControlError(tiers.ErrStale)
		}
		rows, _ := tx.Query(ctx, `SELECT key FROM tierlimit.tiers`)
		keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if err := l.KnownTo(func(key string) bool { return slices.Contains(keys, key) }); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE tierlimit.load_control SET mode = $1, pins = $2`, l.Mode, l.Pins); err != nil {
			return err
		}
		if written, err = selectLoadControl(ctx, tx); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindLoad, tiers.KindLoad, "", old, written)
	})
	return written, err
}
