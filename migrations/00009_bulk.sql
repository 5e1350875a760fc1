-- Supports statements that change many rows: versions come from a sequence, and are published
-- once for each statement instead of each row. Audit events get the actor's id too.
--
-- Versions still become visible in order: each statement locks the row of tierlimit.catalogue
-- before it draws one, and holds the lock until its transaction ends.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '0', true); -- nobody queues behind it for long

-- Waits for all writers: from here on no transaction draws a version the old way.
LOCK TABLE tierlimit.catalogue, tierlimit.subjects, tierlimit.overrides, tierlimit.tiers, tierlimit.limits, tierlimit.credentials, tierlimit.load_control IN ACCESS EXCLUSIVE MODE;

CREATE SEQUENCE tierlimit.versions;
SELECT setval('tierlimit.versions', greatest((SELECT version FROM tierlimit.catalogue), 1));

-- The function runs with the rights of its owner: a writer needs no right to the sequence.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.next_version() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    RETURN nextval('tierlimit.versions');
-- +goose StatementEnd

-- Sets the catalogue's version to the last one that the statement drew, and notifies replicas.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.publish() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    UPDATE tierlimit.catalogue SET version = (SELECT last_value FROM tierlimit.versions)
        WHERE version < (SELECT last_value FROM tierlimit.versions);
    PERFORM pg_notify('tierlimit', ''); -- alike, so that a transaction sends one
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER z_publish AFTER INSERT OR UPDATE OR DELETE ON tierlimit.tiers FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.publish();
CREATE TRIGGER z_publish AFTER INSERT OR UPDATE OR DELETE ON tierlimit.subjects FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.publish();
CREATE TRIGGER z_publish AFTER INSERT OR UPDATE OR DELETE ON tierlimit.load_control FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.publish();
CREATE TRIGGER z_publish AFTER INSERT OR UPDATE OF id, kind, name, subject, role, hash, expires_at, version OR DELETE ON tierlimit.credentials
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.publish();

-- A subject's version changes once for each statement that changes overrides of the subject.
-- The version is that of the last override, and only the trigger may set it.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subject_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'a subject keeps its id: delete it and insert another';
    END IF;
    IF TG_OP = 'INSERT' OR NEW.version <= OLD.version OR pg_trigger_depth() < 2 THEN
        NEW.version := tierlimit.next_version();
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP TRIGGER override_changes ON tierlimit.overrides;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.override_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.subject, NEW.limit_name) <> (OLD.subject, OLD.limit_name) THEN
        RAISE EXCEPTION 'an override keeps its subject and limit: delete it and insert another';
    END IF;
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER override_changes BEFORE INSERT OR UPDATE ON tierlimit.overrides
    FOR EACH ROW EXECUTE FUNCTION tierlimit.override_changes();
-- +goose StatementBegin
CREATE FUNCTION tierlimit.overrides_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tierlimit.subjects s SET version = o.version
        FROM (SELECT subject, max(version) AS version FROM changed GROUP BY subject) o WHERE s.id = o.subject;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION tierlimit.overrides_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tierlimit.subjects SET version = version WHERE id IN (SELECT subject FROM gone);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER overrides_inserted AFTER INSERT ON tierlimit.overrides REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.overrides_changed();
CREATE TRIGGER overrides_updated AFTER UPDATE ON tierlimit.overrides REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.overrides_changed();
CREATE TRIGGER overrides_removed AFTER DELETE ON tierlimit.overrides REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.overrides_removed();

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subjects_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE drawn bigint;
BEGIN
    PERFORM FROM tierlimit.catalogue FOR UPDATE;
    drawn := tierlimit.next_version();
    UPDATE tierlimit.catalogue SET version = drawn, forgotten = drawn;
    PERFORM pg_notify('tierlimit', '');
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- A TRUNCATE of limits is a change of all tiers, so that replicas see it.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.limits_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE drawn bigint;
BEGIN
    PERFORM FROM tierlimit.catalogue FOR UPDATE;
    drawn := tierlimit.next_version();
    UPDATE tierlimit.catalogue SET version = drawn, tiers_version = drawn;
    PERFORM pg_notify('tierlimit', '');
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER limits_truncated AFTER TRUNCATE ON tierlimit.limits
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.limits_truncated();
-- +goose StatementBegin
CREATE FUNCTION tierlimit.tiers_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'one tier must be the default' USING ERRCODE = 'check_violation', CONSTRAINT = 'keep_a_default';
END $$;
-- +goose StatementEnd
CREATE TRIGGER tiers_truncated BEFORE TRUNCATE ON tierlimit.tiers
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.tiers_truncated();

-- Records removals once for each statement.
DROP TRIGGER subject_removed ON tierlimit.subjects;
DROP TRIGGER credential_removed ON tierlimit.credentials;
DROP FUNCTION tierlimit.subject_removed;
-- +goose StatementBegin
CREATE FUNCTION tierlimit.note_removals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tierlimit.removals (version, kind, subject) -- whatever its kind: replicas of the version before read it too
        SELECT tierlimit.next_version(), coalesce(to_jsonb(gone) ->> 'kind', 'subject'), gone.id FROM gone;
    WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
    UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
    WHERE EXISTS (SELECT FROM old);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER note_removals AFTER DELETE ON tierlimit.subjects REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.note_removals();
CREATE TRIGGER note_removals AFTER DELETE ON tierlimit.credentials REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.note_removals();

ALTER TABLE tierlimit.audit ADD COLUMN actor_id text NOT NULL DEFAULT '';
CREATE INDEX audit_by_actor ON tierlimit.audit (actor, id);
CREATE INDEX audit_by_time ON tierlimit.audit (at);
CREATE INDEX audit_by_key_of ON tierlimit.audit (detail, id) WHERE kind = 'key';

-- +goose Down
DROP TRIGGER overrides_inserted ON tierlimit.overrides;
DROP TRIGGER overrides_updated ON tierlimit.overrides;
DROP TRIGGER overrides_removed ON tierlimit.overrides;
DROP TRIGGER override_changes ON tierlimit.overrides;
DROP FUNCTION tierlimit.overrides_changed;
DROP FUNCTION tierlimit.overrides_removed;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subject_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'a subject keeps its id: delete it and insert another';
    END IF;
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.override_changes() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP TRIGGER limits_truncated ON tierlimit.limits;
DROP FUNCTION tierlimit.limits_truncated;
DROP TRIGGER tiers_truncated ON tierlimit.tiers;
DROP FUNCTION tierlimit.tiers_truncated;
DROP INDEX tierlimit.audit_by_actor;
DROP INDEX tierlimit.audit_by_time;
DROP INDEX tierlimit.audit_by_key_of;
ALTER TABLE tierlimit.audit DROP COLUMN actor_id;
DROP TRIGGER note_removals ON tierlimit.subjects;
DROP TRIGGER note_removals ON tierlimit.credentials;
DROP FUNCTION tierlimit.note_removals;
DROP TRIGGER z_publish ON tierlimit.tiers;
DROP TRIGGER z_publish ON tierlimit.subjects;
DROP TRIGGER z_publish ON tierlimit.load_control;
DROP TRIGGER z_publish ON tierlimit.credentials;
DROP FUNCTION tierlimit.publish;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.next_version() RETURNS bigint LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE drawn bigint;
BEGIN
    UPDATE tierlimit.catalogue SET version = version + 1 RETURNING version INTO drawn;
    PERFORM pg_notify('tierlimit', '');
    RETURN drawn;
END $$;
-- +goose StatementEnd
DROP SEQUENCE tierlimit.versions;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.subjects_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE drawn bigint := tierlimit.next_version();
BEGIN
    UPDATE tierlimit.catalogue SET forgotten = drawn;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION tierlimit.subject_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tierlimit.removals (version, kind, subject)
        VALUES (tierlimit.next_version(), coalesce(to_jsonb(OLD) ->> 'kind', 'subject'), OLD.id);
    WITH old AS (DELETE FROM tierlimit.removals WHERE removed_at < now() - interval '1 day' RETURNING version)
    UPDATE tierlimit.catalogue SET forgotten = greatest(forgotten, (SELECT max(version) FROM old))
    WHERE EXISTS (SELECT FROM old);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER subject_removed AFTER DELETE ON tierlimit.subjects FOR EACH ROW EXECUTE FUNCTION tierlimit.subject_removed();
CREATE TRIGGER credential_removed AFTER DELETE ON tierlimit.credentials FOR EACH ROW EXECUTE FUNCTION tierlimit.subject_removed();
