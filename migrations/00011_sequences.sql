-- Sequences follow their tables. Logical replication copies rows but not sequences: after a
-- switch to the copy, a change drew a version that the replicas of the service had passed, and
-- never acted.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '0', true);

-- Runs before each statement that changes the catalogue.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.queue_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    current bigint;
BEGIN
    SELECT version INTO current FROM tierlimit.catalogue FOR UPDATE;
    IF (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM tierlimit.versions) < current THEN
        PERFORM setval('tierlimit.versions', current);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tierlimit.audit_numbers() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    last bigint;
BEGIN
    SELECT max(id) INTO last FROM tierlimit.audit;
    IF (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM tierlimit.audit_id_seq) < last THEN
        -- One at a time, and only if nobody else did so meanwhile: the sequence must not go back.
        PERFORM pg_advisory_xact_lock(hashtext('tierlimit.audit_numbers'));
        SELECT max(id) INTO last FROM tierlimit.audit;
        IF (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM tierlimit.audit_id_seq) < last THEN
            PERFORM setval('tierlimit.audit_id_seq', last);
        END IF;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_numbers BEFORE INSERT ON tierlimit.audit FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.audit_numbers();

-- +goose Down
DROP TRIGGER audit_numbers ON tierlimit.audit;
DROP FUNCTION tierlimit.audit_numbers;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.queue_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM tierlimit.catalogue FOR UPDATE;
    RETURN NULL;
END $$;
-- +goose StatementEnd
