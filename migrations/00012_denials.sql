-- A tier says what its customers see of a denial.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true);

ALTER TABLE tierlimit.tiers ADD COLUMN denials text NOT NULL DEFAULT 'full' CHECK (denials IN ('full', 'plain'));

-- +goose Down
ALTER TABLE tierlimit.tiers DROP COLUMN denials;
