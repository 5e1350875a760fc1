-- Tiers, their limits, and the subjects on them.
--
-- Every change draws the next version from the one row of tierlimit.catalogue
-- and holds that row until it commits, so versions become visible in order: a
-- reader who has seen version n has seen all before it. Triggers do it, so that
-- a change made by hand is heard by every replica too.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS tierlimit; -- it is there, for the table of migrations

CREATE TABLE tierlimit.catalogue (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version       bigint NOT NULL DEFAULT 0, -- of the last change
    tiers_version bigint NOT NULL DEFAULT 0, -- of the last change to tiers or limits
    forgotten     bigint NOT NULL DEFAULT 0  -- removals up to this version are no longer listed
);
INSERT INTO tierlimit.catalogue DEFAULT VALUES;

CREATE TABLE tierlimit.tiers (
    key            text COLLATE "C" PRIMARY KEY CHECK (key ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    name           text NOT NULL CHECK (octet_length(name) <= 200),
    is_default     boolean NOT NULL DEFAULT false,
    priority       integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 1000),
    on_store_error text NOT NULL DEFAULT 'local' CHECK (on_store_error IN ('open', 'closed', 'local')),
    load_start     double precision,
    load_full      double precision,
    load_floor     double precision,
    version        bigint NOT NULL DEFAULT 0,
    CONSTRAINT load_is_a_curve_or_nothing CHECK (
        num_nonnulls(load_start, load_full, load_floor) = 0
        OR num_nonnulls(load_start, load_full, load_floor) = 3
        AND load_start >= 0 AND load_start < load_full AND load_full <= 1 AND load_floor BETWEEN 0.05 AND 1)
);
CREATE UNIQUE INDEX tiers_one_default ON tierlimit.tiers (is_default) WHERE is_default;

CREATE TABLE tierlimit.limits (
    tier      text COLLATE "C" NOT NULL REFERENCES tierlimit.tiers ON DELETE CASCADE,
    name      text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    scope     text NOT NULL DEFAULT '' CHECK (scope = '' OR scope ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    max       bigint CHECK (max BETWEEN 0 AND 1000000000000000), -- null: unlimited
    window_ms bigint CHECK (window_ms BETWEEN 1 AND 316224000000),
    period    text CHECK (period IN ('day', 'week', 'month')),
    adaptive  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tier, name),
    CONSTRAINT one_kind_of_window CHECK (num_nonnulls(window_ms, period) = 1),
    CONSTRAINT adaptive_up_to_an_hour CHECK (NOT adaptive OR coalesce(window_ms <= 3600000, false))
);

CREATE TABLE tierlimit.subjects (
    id      text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 256),
    tier    text COLLATE "C" NOT NULL REFERENCES tierlimit.tiers,
    version bigint NOT NULL DEFAULT 0
);
CREATE INDEX subjects_by_version ON tierlimit.subjects (version);
CREATE INDEX subjects_by_tier ON tierlimit.subjects (tier);

-- Subjects that were removed, for readers who still hold them.
CREATE TABLE tierlimit.removals (
    version    bigint PRIMARY KEY,
    subject    text COLLATE "C" NOT NULL,
    removed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX removals_by_age ON tierlimit.removals (removed_at);

-- +goose StatementBegin
CREATE FUNCTION tierlimit.next_version() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE drawn bigint;
BEGIN
    UPDATE tierlimit.catalogue SET version = version + 1 RETURNING version INTO drawn;
    PERFORM pg_notify('tierlimit', ''); -- alike, so that a transaction sends one
    RETURN drawn;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tierlimit.tier_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE drawn bigint := tierlimit.next_version();
BEGIN
    UPDATE tierlimit.catalogue SET tiers_version = drawn;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    NEW.version := drawn;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tier_changes BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.tiers
    FOR EACH ROW EXECUTE FUNCTION tierlimit.tier_changes();

-- +goose StatementBegin
CREATE FUNCTION tierlimit.limit_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tierlimit.tiers SET version = version WHERE key IN (OLD.tier, NEW.tier);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER limit_changes AFTER INSERT OR UPDATE OR DELETE ON tierlimit.limits
    FOR EACH ROW EXECUTE FUNCTION tierlimit.limit_changes();

-- +goose StatementBegin
CREATE FUNCTION tierlimit.subject_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'a subject keeps its id: delete it and insert another';
    END IF;
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER subject_changes BEFORE INSERT OR UPDATE ON tierlimit.subjects
    FOR EACH ROW EXECUTE FUNCTION tierlimit.subject_changes();

-- +goose StatementBegin
CREATE FUNCTION tierlimit.subject_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tierlimit.removals (version, subject) VALUES (tierlimit.next_version(), OLD.id);
    WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
    UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
    WHERE EXISTS (SELECT FROM old);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER subject_removed AFTER DELETE ON tierlimit.subjects
    FOR EACH ROW EXECUTE FUNCTION tierlimit.subject_removed();

-- +goose StatementBegin
CREATE FUNCTION tierlimit.subjects_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE drawn bigint := tierlimit.next_version();
BEGIN
    UPDATE tierlimit.catalogue SET forgotten = drawn;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER subjects_truncated AFTER TRUNCATE ON tierlimit.subjects
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.subjects_truncated();

-- A subject nobody knows is on the default tier, so there is always one. Checked
-- at commit: making another tier the default takes two statements.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.keep_a_default() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tierlimit.tiers WHERE is_default) THEN
        RAISE EXCEPTION 'one tier must be the default' USING ERRCODE = 'check_violation', CONSTRAINT = 'keep_a_default';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE CONSTRAINT TRIGGER keep_a_default AFTER UPDATE OR DELETE ON tierlimit.tiers
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tierlimit.keep_a_default();

INSERT INTO tierlimit.tiers (key, name, is_default, priority, load_start, load_full, load_floor) VALUES
    ('free', 'Free', true, 10, 0.70, 0.90, 0.10),
    ('pro', 'Pro', false, 20, 0.85, 0.97, 0.50),
    ('enterprise', 'Enterprise', false, 30, NULL, NULL, NULL);
INSERT INTO tierlimit.limits (tier, name, max, window_ms, period, adaptive) VALUES
    ('free', 'per_minute', 5, 60000, NULL, true),
    ('free', 'per_day', 1000, NULL, 'day', false),
    ('pro', 'per_minute', 100, 60000, NULL, true),
    ('pro', 'per_month', 100000, NULL, 'month', false),
    ('enterprise', 'per_minute', 1000, 60000, NULL, false),
    ('enterprise', 'per_month', NULL, NULL, 'month', false);

-- +goose Down
DROP SCHEMA tierlimit CASCADE;
