-- Plans as they are sold: anchored periods, sliding and shadow limits; subjects
-- with trials, changes to come, a billing anchor, a status; overrides.

-- +goose Up

-- Whether an instant is one that all who read it can hold: not infinity, nor a
-- year of five digits. One row that cannot be read would hold up every replica.
CREATE FUNCTION tierlimit.dated(t timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN t IS NULL OR t > '1970-01-01Z' AND t < '10000-01-01Z';

ALTER TABLE tierlimit.limits
    ADD COLUMN anchor    text NOT NULL DEFAULT 'calendar' CHECK (anchor IN ('calendar', 'billing')),
    ADD COLUMN algorithm text NOT NULL DEFAULT 'fixed' CHECK (algorithm IN ('fixed', 'sliding')),
    ADD COLUMN shadow    boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT anchored_periods_only CHECK (anchor = 'calendar' OR period IS NOT NULL),
    ADD CONSTRAINT sliding_lengths_only CHECK (algorithm = 'fixed' OR window_ms IS NOT NULL AND NOT lease);

ALTER TABLE tierlimit.subjects
    ADD COLUMN trial_tier     text COLLATE "C" REFERENCES tierlimit.tiers,
    ADD COLUMN trial_ends_at  timestamptz CHECK (tierlimit.dated(trial_ends_at)),
    ADD COLUMN next_tier      text COLLATE "C" REFERENCES tierlimit.tiers,
    ADD COLUMN next_at        timestamptz CHECK (tierlimit.dated(next_at)),
    ADD COLUMN billing_anchor timestamptz CHECK (tierlimit.dated(billing_anchor)),
    ADD COLUMN status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'past_due', 'suspended')),
    ADD COLUMN grace_until    timestamptz CHECK (tierlimit.dated(grace_until)),
    ADD COLUMN blocked_until  timestamptz CHECK (tierlimit.dated(blocked_until)),
    ADD CONSTRAINT trial_whole CHECK (num_nonnulls(trial_tier, trial_ends_at) <> 1),
    ADD CONSTRAINT next_whole CHECK (num_nonnulls(next_tier, next_at) <> 1),
    ADD CONSTRAINT grace_when_past_due CHECK ((status = 'past_due') = (grace_until IS NOT NULL));
CREATE INDEX subjects_by_trial_tier ON tierlimit.subjects (trial_tier) WHERE trial_tier IS NOT NULL;
CREATE INDEX subjects_by_next_tier ON tierlimit.subjects (next_tier) WHERE next_tier IS NOT NULL;

CREATE TABLE tierlimit.overrides (
    subject    text COLLATE "C" NOT NULL REFERENCES tierlimit.subjects ON DELETE CASCADE,
    limit_name text COLLATE "C" NOT NULL CHECK (limit_name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    max        bigint CHECK (max BETWEEN 0 AND 1000000000000000), -- null: unlimited
    starts_at  timestamptz NOT NULL CHECK (tierlimit.dated(starts_at)),
    expires_at timestamptz NOT NULL CHECK (tierlimit.dated(expires_at)),
    reason     text NOT NULL CHECK (octet_length(reason) BETWEEN 1 AND 500),
    version    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (subject, limit_name),
    CONSTRAINT expires_after_it_starts CHECK (expires_at > starts_at)
);

-- An override is part of its subject for whoever follows the catalogue: a change
-- of it is one of the subject, at the same version.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.override_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE tierlimit.subjects SET version = version WHERE id = OLD.subject;
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.subject, NEW.limit_name) <> (OLD.subject, OLD.limit_name) THEN
        RAISE EXCEPTION 'an override keeps its subject and limit: delete it and insert another';
    END IF;
    UPDATE tierlimit.subjects SET version = version WHERE id = NEW.subject RETURNING version INTO NEW.version;
    NEW.version := coalesce(NEW.version, 0); -- of no subject: the foreign key says so
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER override_changes BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.overrides
    FOR EACH ROW EXECUTE FUNCTION tierlimit.override_changes();

CREATE TRIGGER overrides_truncated AFTER TRUNCATE ON tierlimit.overrides
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.subjects_truncated();

-- Who writes by hand queues for the version row before any other lock, as the
-- service does: else the two could wait for each other.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.queue_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM tierlimit.catalogue FOR UPDATE;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.tiers FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.limits FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.subjects FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.overrides FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();

-- +goose Down
DROP TABLE tierlimit.overrides;
DROP TRIGGER a_queue_up ON tierlimit.tiers;
DROP TRIGGER a_queue_up ON tierlimit.limits;
DROP TRIGGER a_queue_up ON tierlimit.subjects;
DROP FUNCTION tierlimit.queue_up;
DROP FUNCTION tierlimit.override_changes;
ALTER TABLE tierlimit.subjects
    DROP COLUMN trial_tier, DROP COLUMN trial_ends_at, DROP COLUMN next_tier, DROP COLUMN next_at,
    DROP COLUMN billing_anchor, DROP COLUMN status, DROP COLUMN grace_until, DROP COLUMN blocked_until;
DROP FUNCTION tierlimit.dated;
ALTER TABLE tierlimit.limits DROP COLUMN anchor, DROP COLUMN algorithm, DROP COLUMN shadow;
