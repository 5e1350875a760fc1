package pgtiers

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/tiers"
)

// LoadControl implements tiers.Catalogue.
func (c *Catalogue) LoadControl(ctx context.Context) (l tiers.LoadControl, err error) {
	err = c.query(ctx, c.admin, func(rows pgx.Rows) error { return readLoadControl(rows, &l) }, loadControlColumns)
	return l, err
}

const loadControlColumns = `SELECT mode, pins, version FROM tierlimit.load_control`

func queueLoadControl(batch *pgx.Batch, l *tiers.LoadControl) {
	batch.Queue(loadControlColumns).Query(func(rows pgx.Rows) error { return readLoadControl(rows, l) })
}

func readLoadControl(rows pgx.Rows, l *tiers.LoadControl) error {
	var pins map[string]json.RawMessage
	_, err := pgx.ForEachRow(rows, []any{&l.Mode, &pins, &l.Version}, func() error {
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
	return err
}
