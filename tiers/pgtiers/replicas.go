package pgtiers

import (
	"context"
	"fmt"
	"time"
)

// SeenAlive says that the replica id is alive, and returns how many are: those
// that said so within the last while. It forgets those that have not for long.
func (c *Catalogue) SeenAlive(ctx context.Context, id string, within time.Duration) (alive int, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = c.pool.QueryRow(ctx, `
		WITH seen AS (
			INSERT INTO tierlimit.replicas (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
		), forgotten AS (
			DELETE FROM tierlimit.replicas WHERE id IN (
				SELECT id FROM tierlimit.replicas WHERE seen_at < clock_timestamp() - 10 * $2::interval FOR UPDATE SKIP LOCKED)
		)
		SELECT 1 + count(*) FROM tierlimit.replicas WHERE id <> $1 AND seen_at >= clock_timestamp() - $2::interval`,
		id, within).Scan(&alive)
	if err != nil {
		return 0, fmt.Errorf("count replicas: %w", unavailable(err))
	}
	return alive, nil
}

// Gone says that the replica id is alive no more.
func (c *Catalogue) Gone(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if _, err := c.pool.Exec(ctx, `DELETE FROM tierlimit.replicas WHERE id = $1`, id); err != nil {
		return fmt.Errorf("leave the replicas: %w", unavailable(err))
	}
	return nil
}
