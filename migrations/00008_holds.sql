-- Adds holds: concurrent limits, limits that give back the charge of an expired hold, and
-- usage that a settlement can lower.

-- +goose Up
ALTER TABLE tierlimit.usage ADD COLUMN corrected_at bigint NOT NULL DEFAULT 0; -- what was seen up to then does not count

ALTER TABLE tierlimit.limits
    ADD COLUMN on_expiry text NOT NULL DEFAULT 'charge' CHECK (on_expiry IN ('charge', 'release')),
    DROP CONSTRAINT limits_algorithm_check,
    DROP CONSTRAINT one_kind_of_window,
    DROP CONSTRAINT adaptive_up_to_an_hour,
    DROP CONSTRAINT sliding_lengths_only,
    ADD CONSTRAINT limits_algorithm_check CHECK (algorithm IN ('fixed', 'sliding', 'concurrent')),
    ADD CONSTRAINT one_kind_of_window CHECK (num_nonnulls(window_ms, period) = CASE WHEN algorithm = 'concurrent' THEN 0 ELSE 1 END),
    ADD CONSTRAINT adaptive_up_to_an_hour CHECK (NOT adaptive OR algorithm = 'concurrent' OR coalesce(window_ms <= 3600000, false)),
    ADD CONSTRAINT sliding_lengths_only CHECK (algorithm <> 'sliding' OR window_ms IS NOT NULL AND NOT lease),
    ADD CONSTRAINT concurrent_frees_its_place CHECK (algorithm <> 'concurrent' OR on_expiry = 'charge');

-- +goose Down
DELETE FROM tierlimit.limits WHERE algorithm = 'concurrent';
ALTER TABLE tierlimit.limits
    DROP CONSTRAINT concurrent_frees_its_place,
    DROP CONSTRAINT limits_algorithm_check,
    DROP CONSTRAINT one_kind_of_window,
    DROP CONSTRAINT adaptive_up_to_an_hour,
    DROP CONSTRAINT sliding_lengths_only,
    DROP COLUMN on_expiry,
    ADD CONSTRAINT limits_algorithm_check CHECK (algorithm IN ('fixed', 'sliding')),
    ADD CONSTRAINT one_kind_of_window CHECK (num_nonnulls(window_ms, period) = 1),
    ADD CONSTRAINT adaptive_up_to_an_hour CHECK (NOT adaptive OR coalesce(window_ms <= 3600000, false)),
    ADD CONSTRAINT sliding_lengths_only CHECK (algorithm = 'fixed' OR window_ms IS NOT NULL AND NOT lease);
ALTER TABLE tierlimit.usage DROP COLUMN corrected_at;
