-- Thresholds of limits, webhooks, and an outbox of messages to them. The outbox is a table of this
-- schema, rather than one of a job queue: a message is written in the transaction of what it tells,
-- also by triggers, and administrators read the same rows.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '0', true);

ALTER TABLE tierlimit.tiers ADD COLUMN alerts integer[] NOT NULL DEFAULT '{}';
ALTER TABLE tierlimit.limits ADD COLUMN alerts integer[]; -- null: those of the tier

CREATE TABLE tierlimit.webhooks (
    id           text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z2-7]{16}$'),
    name         text NOT NULL,
    url          text NOT NULL,
    events       text[] NOT NULL,
    paused       boolean NOT NULL,
    created_at   timestamptz NOT NULL CHECK (tierlimit.dated(created_at)),
    secret       bytea NOT NULL,       -- signs messages, so it cannot be kept as a hash
    secret_at    timestamptz NOT NULL, -- when the secret was made
    old_secrets  jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(old_secrets) = 'array'), -- sign messages too, each until its instant
    version      bigint NOT NULL DEFAULT 0
);
-- +goose StatementBegin
CREATE FUNCTION tierlimit.webhook_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := tierlimit.next_version();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER webhook_changes BEFORE INSERT OR UPDATE ON tierlimit.webhooks FOR EACH ROW EXECUTE FUNCTION tierlimit.webhook_changes();
CREATE TRIGGER a_queue_up BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.webhooks FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.queue_up();

-- Windows that have reached a threshold, one row for each threshold.
CREATE TABLE tierlimit.alerts (
    subject      text COLLATE "C" NOT NULL,
    limit_name   text COLLATE "C" NOT NULL,
    ends_at      bigint NOT NULL, -- of the window
    threshold    integer NOT NULL,
    tier         text COLLATE "C" NOT NULL,
    recovered_at timestamptz,     -- null: not yet
    check_at     timestamptz NOT NULL DEFAULT now() + interval '1 hour', -- when to look next whether the window is below its thresholds again
    PRIMARY KEY (subject, limit_name, ends_at, threshold)
);
CREATE INDEX alerts_open ON tierlimit.alerts (ends_at) WHERE recovered_at IS NULL;
CREATE INDEX alerts_over ON tierlimit.alerts (ends_at) WHERE recovered_at IS NOT NULL;
CREATE INDEX alerts_to_check ON tierlimit.alerts (check_at) WHERE recovered_at IS NULL;

-- Changes after which open alerts are to be checked. A background worker does that: an administrator
-- must not wait for it.
CREATE TABLE tierlimit.alert_checks (
    id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subject text COLLATE "C",                        -- one of both
    tier    text COLLATE "C",
    after   text COLLATE "C" NOT NULL DEFAULT '',    -- subjects up to this one are done
    due_at  timestamptz NOT NULL
);
CREATE INDEX alert_checks_due ON tierlimit.alert_checks (due_at);

-- An id begins with the milliseconds of its creation: ids are in the order of time, and need no
-- sequence, which logical replication would not copy.
CREATE FUNCTION tierlimit.message_id() RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog
    RETURN 'msg_' || lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || substr(replace(gen_random_uuid()::text, '-', ''), 13);

CREATE TABLE tierlimit.messages (
    id      text COLLATE "C" PRIMARY KEY DEFAULT tierlimit.message_id(),
    type    text NOT NULL,
    subject text COLLATE "C" NOT NULL DEFAULT '',
    at      timestamptz NOT NULL DEFAULT now(),
    data    jsonb NOT NULL
);
CREATE INDEX messages_by_time ON tierlimit.messages (at);
CREATE INDEX messages_by_subject ON tierlimit.messages (subject) WHERE subject <> '';

CREATE TABLE tierlimit.deliveries (
    webhook    text COLLATE "C" NOT NULL REFERENCES tierlimit.webhooks ON DELETE CASCADE,
    message    text COLLATE "C" NOT NULL REFERENCES tierlimit.messages ON DELETE CASCADE,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL DEFAULT now(), -- of a pending one; while it is claimed, when the claim ends
    tried_at   timestamptz,
    status     integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    PRIMARY KEY (webhook, message)
);
CREATE INDEX deliveries_due ON tierlimit.deliveries (webhook, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_dead ON tierlimit.deliveries (webhook, message) WHERE state = 'dead';
CREATE INDEX deliveries_by_message ON tierlimit.deliveries (message);

-- Each message goes to the webhooks that want its type.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.hand_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO tierlimit.deliveries (webhook, message)
        SELECT w.id, m.id FROM written m JOIN tierlimit.webhooks w ON m.type = ANY (w.events)
        FOR KEY SHARE OF w; -- one that is being deleted is waited for, and left out
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER hand_out AFTER INSERT ON tierlimit.messages REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.hand_out();

-- A change of a subject is a message, and a reason to look at the windows that had reached a
-- threshold. Replicas have the change two seconds later.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.tell_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM tierlimit.webhooks WHERE 'subject.changed' = ANY (events)) THEN
        INSERT INTO tierlimit.messages (type, subject, at, data)
            SELECT 'subject.changed', e.object, e.at, jsonb_build_object('subject', e.object, 'action', e.action, 'detail', e.detail,
                'before', e.before, 'after', e.after)
            FROM written e WHERE e.kind IN ('subject', 'override', 'usage') ORDER BY e.id;
    END IF;
    INSERT INTO tierlimit.alert_checks (subject, due_at)
        SELECT DISTINCT e.object, clock_timestamp() + interval '2 seconds' FROM written e
        WHERE e.kind IN ('subject', 'override', 'usage') AND EXISTS (SELECT FROM tierlimit.alerts a WHERE a.subject = e.object AND a.recovered_at IS NULL);
    INSERT INTO tierlimit.alert_checks (tier, due_at)
        SELECT DISTINCT e.object, clock_timestamp() + interval '2 seconds' FROM written e
        WHERE e.kind = 'tier' AND (e.before -> 'limits', e.before -> 'alerts') IS DISTINCT FROM (e.after -> 'limits', e.after -> 'alerts');
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tell_changes AFTER INSERT ON tierlimit.audit REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.tell_changes();

-- A trigger fires whatever its writer may execute. Who may execute its function could have it fire
-- on a table of his own, with the rights of the owner.
-- +goose StatementBegin
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'tierlimit'::regnamespace AND prosecdef AND prorettype = 'trigger'::regtype LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER tell_changes ON tierlimit.audit;
DROP FUNCTION tierlimit.tell_changes;
DROP TABLE tierlimit.deliveries;
DROP TABLE tierlimit.messages;
DROP FUNCTION tierlimit.message_id;
DROP FUNCTION tierlimit.hand_out;
DROP TABLE tierlimit.alert_checks;
DROP TABLE tierlimit.alerts;
DROP TABLE tierlimit.webhooks;
DROP FUNCTION tierlimit.webhook_changes;
ALTER TABLE tierlimit.limits DROP COLUMN alerts;
ALTER TABLE tierlimit.tiers DROP COLUMN alerts;
