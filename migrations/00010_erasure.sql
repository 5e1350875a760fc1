-- Lets the owner of the service erase a person from the audit log, and delete old events.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '0', true);

-- An event stays as it was written, unless tierlimit.erase_events erases it. The role of serve
-- has no right to UPDATE or DELETE, so it cannot use the parameter.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' AND current_setting('tierlimit.erases', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd

-- The ids of the events to erase: of a subject, of an actor (by id), or before an instant.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.events_to_erase(what text, value text, most bigint) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
    CASE what
    WHEN 'subject' THEN
        RETURN QUERY SELECT id FROM tierlimit.audit WHERE object = value AND kind IN ('subject', 'override', 'usage')
            UNION ALL SELECT id FROM tierlimit.audit WHERE kind = 'key' AND detail = value LIMIT most;
    WHEN 'actor' THEN
        RETURN QUERY SELECT id FROM tierlimit.audit WHERE actor_id = value AND actor <> '[erased]'
            OR kind = 'token' AND object = value AND (before IS NOT NULL OR after IS NOT NULL) LIMIT most;
    WHEN 'events' THEN
        RETURN QUERY SELECT id FROM tierlimit.audit WHERE at < value::timestamptz ORDER BY at LIMIT most;
    END CASE;
END $$;
-- +goose StatementEnd

-- Erases at most so many events, with an event that says so, and returns how many.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.erase_events(what text, value text, most bigint, by_actor text, by_actor_id text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    ids bigint[];
    erased bigint;
    told jsonb;
BEGIN
    -- One at a time: two would count an event twice, or wait for each other.
    PERFORM pg_advisory_xact_lock(hashtext('tierlimit.erase_events'));
    ids := ARRAY(SELECT tierlimit.events_to_erase(what, value, most));
    erased := cardinality(ids);
    told := jsonb_build_object('events', erased);
    IF erased = 0 THEN
        RETURN 0;
    END IF;
    PERFORM set_config('tierlimit.erases', 'on', true);
    CASE what
    WHEN 'subject' THEN
        UPDATE tierlimit.audit SET before = NULL, after = NULL, attempt_key = NULL, attempt_fingerprint = NULL,
            object = CASE kind WHEN 'key' THEN object ELSE '[erased]' END,
            detail = CASE WHEN kind = 'override' OR detail = '' THEN detail ELSE '[erased]' END
        WHERE id = ANY (ids);
    WHEN 'actor' THEN
        UPDATE tierlimit.audit SET actor = CASE actor_id WHEN value THEN '[erased]' ELSE actor END,
            before = CASE WHEN kind = 'token' AND object = value THEN NULL ELSE before END,
            after = CASE WHEN kind = 'token' AND object = value THEN NULL ELSE after END,
            attempt_key = CASE WHEN kind = 'token' AND object = value THEN NULL ELSE attempt_key END,
            attempt_fingerprint = CASE WHEN kind = 'token' AND object = value THEN NULL ELSE attempt_fingerprint END
        WHERE id = ANY (ids);
    ELSE
        DELETE FROM tierlimit.audit WHERE id = ANY (ids);
        told := told || jsonb_build_object('before', value);
    END CASE;
    PERFORM set_config('tierlimit.erases', 'off', true);
    INSERT INTO tierlimit.audit (actor, actor_id, action, kind, object, after)
        VALUES (CASE WHEN what = 'actor' AND value = by_actor_id THEN '[erased]' ELSE by_actor END, by_actor_id, 'audit.erase', 'audit', what, told);
    RETURN erased;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tierlimit.erase_events(text, text, bigint, text, text) FROM PUBLIC;

-- +goose Down
DROP FUNCTION tierlimit.erase_events;
DROP FUNCTION tierlimit.events_to_erase;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tierlimit.audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd
