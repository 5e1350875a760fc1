-- What was used of a window can become less: a hold was settled that had charged it.

-- +goose Up
ALTER TABLE tierlimit.usage ADD COLUMN corrected_at bigint NOT NULL DEFAULT 0; -- what was seen up to then does not count

-- +goose Down
ALTER TABLE tierlimit.usage DROP COLUMN corrected_at;
