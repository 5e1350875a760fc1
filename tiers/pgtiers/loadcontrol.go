package pgtiers

import (
	"context"
	"encoding/json"
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
	var pins map[string]json.RawMessage
	_, err = pgx.ForEachRow(rows, []any{&l.Mode, &pins, &l.Version}, func() error {
		l.Pins = make(tiers.Pins)
		for tier, text := range pins {
			var p tiers.Pin
			if json.Unmarshal(text, &p) == nil { // one that nobody can read must not hold up the rest
				l.Pins[tier] = p
			}
		}
		return nil
	})
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
		if err := l.KnownTo(func(key string) bool { _, was := old.Pins[key]; return was || slices.Contains(keys, key) }); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO tierlimit.load_control (mode, pins) VALUES ($1, $2) ON CONFLICT (only_row) DO UPDATE SET mode = $1, pins = $2`, l.Mode, l.Pins); err != nil {
			return err
		}
		if written, err = selectLoadControl(ctx, tx); err != nil {
			return err
		}
		return audit(ctx, tx, tiers.KindLoad, tiers.KindLoad, "", old, written)
	})
	return written, err
}
