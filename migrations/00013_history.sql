-- Who is near a limit, and what was used of windows that have ended.

-- +goose Up
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '0', true);

ALTER TABLE tierlimit.usage
    ADD COLUMN max bigint NOT NULL DEFAULT 0,     -- when it was last charged; 0: not known, or no limit
    ADD COLUMN level smallint NOT NULL DEFAULT 0; -- how many twentieths of max are used, at most 40
-- Only who has used half or more is in the index. A row that stays on its level is written without it.
CREATE INDEX usage_by_level ON tierlimit.usage (level DESC, subject, limit_name) WHERE level >= 10;

CREATE TABLE tierlimit.usage_history (
    subject    text COLLATE "C" NOT NULL,
    limit_name text COLLATE "C" NOT NULL,
    ends_at    bigint NOT NULL, -- of the window
    used       bigint NOT NULL,
    max        bigint NOT NULL, -- when it was last charged; 0: not known, or no limit
    PRIMARY KEY (subject, limit_name, ends_at)
);
CREATE INDEX usage_history_by_end ON tierlimit.usage_history (ends_at);

-- Keeps a window that has ended when the next one takes its place, or when it is forgotten. Only
-- customers have a history: anybody can make up another name.
-- +goose StatementBegin
CREATE FUNCTION tierlimit.keep_history() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO tierlimit.usage_history AS h (subject, limit_name, ends_at, used, max)
    SELECT OLD.subject, OLD.limit_name, OLD.ends_at, OLD.used, OLD.max
    WHERE EXISTS (SELECT FROM tierlimit.subjects WHERE id = OLD.subject)
    ON CONFLICT (subject, limit_name, ends_at) DO UPDATE SET used = greatest(h.used, excluded.used), max = excluded.max;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER keep_history AFTER UPDATE ON tierlimit.usage FOR EACH ROW
    WHEN (OLD.used > 0 AND OLD.ends_at <= NEW.at AND OLD.ends_at < NEW.ends_at) EXECUTE FUNCTION tierlimit.keep_history();
CREATE TRIGGER keep_history_of_forgotten AFTER DELETE ON tierlimit.usage FOR EACH ROW
    WHEN (OLD.used > 0) EXECUTE FUNCTION tierlimit.keep_history();

-- +goose Down
DROP TRIGGER keep_history ON tierlimit.usage;
DROP TRIGGER keep_history_of_forgotten ON tierlimit.usage;
DROP FUNCTION tierlimit.keep_history;
DROP TABLE tierlimit.usage_history;
DROP INDEX tierlimit.usage_by_level;
ALTER TABLE tierlimit.usage DROP COLUMN max, DROP COLUMN level;
