-- What administrators did, written with the change itself.

-- +goose Up
CREATE TABLE tierlimit.audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor  text NOT NULL,
    action text NOT NULL,                 -- "subject.replace"
    kind   text NOT NULL,                 -- "tier", "subject", "override", "usage"
    object text COLLATE "C" NOT NULL,     -- of a kind: a tier's key, a subject's id
    detail text NOT NULL DEFAULT '',      -- of an override and of usage: the limit
    before jsonb,                         -- null: it was not there
    after  jsonb                          -- null: it is gone
);
CREATE INDEX audit_by_object ON tierlimit.audit (object, id);

-- An event stays as it was written, whoever is connected.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON tierlimit.audit
    FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.audit_stays();

-- +goose Down
DROP TABLE tierlimit.audit;
DROP FUNCTION tierlimit.audit_stays;
