-- The periods of a limit may begin at another instant for each group of customers.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true);

ALTER TABLE tierlimit.limits DROP CONSTRAINT limits_anchor_check,
    ADD CONSTRAINT limits_anchor_check CHECK (anchor IN ('calendar', 'billing', 'spread'));

-- +goose Down
UPDATE tierlimit.limits SET anchor = 'calendar' WHERE anchor = 'spread';
ALTER TABLE tierlimit.limits DROP CONSTRAINT limits_anchor_check,
    ADD CONSTRAINT limits_anchor_check CHECK (anchor IN ('calendar', 'billing'));
