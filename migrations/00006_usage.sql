-- What was used of windows of a day or longer, for when Redis has lost it.

-- +goose Up
CREATE TABLE tierlimit.usage (
    subject    text COLLATE "C" NOT NULL,
    limit_name text COLLATE "C" NOT NULL,
    used       bigint NOT NULL CHECK (used >= 0),
    ends_at    bigint NOT NULL,           -- of the window; milliseconds since the epoch, like all here, on Redis' clock
    at         bigint NOT NULL,           -- when it was seen so
    reset_at   bigint NOT NULL DEFAULT 0, -- what was seen up to then does not count
    PRIMARY KEY (subject, limit_name)
) WITH (fillfactor = 70); -- a row is written over and over
CREATE INDEX usage_by_end ON tierlimit.usage (ends_at);

-- +goose Down
DROP TABLE tierlimit.usage;
