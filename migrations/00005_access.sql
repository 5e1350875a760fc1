-- Who may ask: keys of subjects and tokens of people and services. What an
-- administrator says of load. Attempts, so that a change asked for again is made
-- once.

-- +goose Up
CREATE TABLE tierlimit.credentials (
    id           text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z2-7]{16}$'),
    kind         text NOT NULL CHECK (kind IN ('key', 'token')),
    name         text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 100),
    subject      text COLLATE "C" REFERENCES tierlimit.subjects ON DELETE CASCADE,
    role         text CHECK (role IN ('service', 'viewer', 'operator', 'owner')),
    hash         bytea NOT NULL CHECK (octet_length(hash) = 32), -- SHA-256 of the secret
    created_at   timestamptz NOT NULL DEFAULT now() CHECK (tierlimit.dated(created_at)),
    expires_at   timestamptz CHECK (tierlimit.dated(expires_at)),
    last_used_at timestamptz CHECK (tierlimit.dated(last_used_at)),
    version      bigint NOT NULL DEFAULT 0,
    CONSTRAINT keys_have_subjects CHECK ((kind = 'key') = (subject IS NOT NULL)),
    CONSTRAINT tokens_have_roles CHECK ((kind = 'token') = (role IS NOT NULL))
);
CREATE INDEX credentials_by_version ON tierlimit.credentials (version);
CREATE INDEX credentials_by_subject ON tierlimit.credentials (subject, id) WHERE subject IS NOT NULL;
CREATE UNIQUE INDEX tokens_by_name ON tierlimit.credentials (name) WHERE kind = 'token';

-- That one was used is no change of it.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.credential_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.id, NEW.kind) <> (OLD.id, OLD.kind) THEN
        RAISE EXCEPTION 'a credential keeps its id and kind: delete it and insert another';
    END IF;
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER credential_changes BEFORE INSERT OR UPDATE OF id, kind, name, subject, role, hash, expires_at, version ON tierlimit.credentials
    FOR EACH ROW EXECUTE FUNCTION tierlimit.credential_changes();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OF id, kind, name, subject, role, hash, expires_at, version OR DELETE ON tierlimit.credentials
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();
CREATE TRIGGER credentials_truncated AFTER TRUNCATE ON tierlimit.credentials
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.subjects_truncated();

-- What is removed may be a credential too.
ALTER TABLE tierlimit.removals ADD COLUMN kind text NOT NULL DEFAULT 'subject';
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subject_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tierlimit.removals (version, kind, subject) -- whatever its kind: replicas of the version before read it too
        VALUES (tierlimit.next_version(), coalesce(to_jsonb(OLD) ->> 'kind', 'subject'), OLD.id);
    WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
    UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
    WHERE EXISTS (SELECT FROM old);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER credential_removed AFTER DELETE ON tierlimit.credentials
    FOR EACH ROW EXECUTE FUNCTION tierlimit.subject_removed();

CREATE TABLE tierlimit.load_control (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    mode     text NOT NULL DEFAULT '' CHECK (mode IN ('', 'off', 'observe', 'enforce')), -- '': as each replica is configured
    pins     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(pins) = 'object'),           -- by tier: multiplier, expires_at
    version  bigint NOT NULL DEFAULT 0
);
INSERT INTO tierlimit.load_control DEFAULT VALUES;
-- +goose StatementBegin
CREATE FUNCTION tierlimit.load_control_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM tierlimit.next_version();
        RETURN OLD;
    END IF;
    IF EXISTS (SELECT FROM jsonb_each(NEW.pins) WHERE jsonb_typeof(value -> 'multiplier') IS DISTINCT FROM 'number'
        OR NOT (value ->> 'multiplier')::numeric BETWEEN 0.05 AND 1 OR value - 'multiplier' - 'expires_at' <> '{}'
        OR value ? 'expires_at' AND (value ->> 'expires_at' !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$'
            OR NOT tierlimit.dated((value ->> 'expires_at')::timestamptz))) THEN
        RAISE EXCEPTION 'a pin is a multiplier from 0.05 to 1, and perhaps an expires_at' USING ERRCODE = 'check_violation';
    END IF;
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER load_control_changes BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.load_control
    FOR EACH ROW EXECUTE FUNCTION tierlimit.load_control_changes();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.load_control FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();
CREATE TRIGGER load_control_truncated AFTER TRUNCATE ON tierlimit.load_control
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.subjects_truncated();

ALTER TABLE tierlimit.audit
    ADD COLUMN attempt_key text, -- of the Idempotency-Key it was asked for with
    ADD COLUMN attempt_fingerprint text;
CREATE UNIQUE INDEX audit_by_attempt ON tierlimit.audit (attempt_key) WHERE attempt_key IS NOT NULL;

-- +goose Down
DROP INDEX tierlimit.audit_by_attempt;
ALTER TABLE tierlimit.audit DROP COLUMN attempt_key, DROP COLUMN attempt_fingerprint;
DROP TABLE tierlimit.load_control;
DROP FUNCTION tierlimit.load_control_changes;
DROP TABLE tierlimit.credentials;
DROP FUNCTION tierlimit.credential_changes;
DELETE FROM tierlimit.removals WHERE kind <> 'subject';
ALTER TABLE tierlimit.removals DROP COLUMN kind;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subject_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tierlimit.removals (version, subject) VALUES (tierlimit.next_version(), OLD.id);
    WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
    UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
    WHERE EXISTS (SELECT FROM old);
    RETURN NULL;
END $$;
-- +goose StatementEnd
