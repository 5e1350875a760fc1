package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// SeenAlive says that the replica id is alive, and returns how many are: those
// that said so within the last while. It forgets those that have not for long.
func (c *Catalogue) SeenAlive(ctx context.Context, id string, within time.Duration) (alive int, err error) {
	batch := &pgx.Batch{}
	batch.Queue(`
		WITH seen AS (
			INSERT INTO tierlimit.replicas (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
		), forgotten AS (
			DELETE FROM tierlimit.replicas WHERE id IN (
				SELECT id FROM tierlimit.replicas WHERE seen_at < clock_timestamp() - 10 * $2::interval FOR UPDATE SKIP LOCKED)
		)
		SELECT 1 + count(*) FROM tierlimit.replicas WHERE id <> $1 AND seen_at >= clock_timestamp() - $2::interval`,
		id, within).QueryRow(func(row pgx.Row) error { return row.Scan(&alive) })
	if err := c.exec(ctx, batch); err != nil {
		return 0, fmt.Errorf("count replicas: %w", err)
	}
	return alive, nil
}

// Gone says that the replica id is alive no more.
func (c *Catalogue) Gone(ctx context.Context, id string) error {
	if err := c.exec(ctx, one(`DELETE FROM tierlimit.replicas WHERE id = $1`, id)); err != nil {
		return fmt.Errorf("leave the replicas: %w", err)
	}
	return nil
}
