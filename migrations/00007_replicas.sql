-- Who is alive: each replica says so every few seconds.

-- +goose Up
CREATE TABLE tierlimit.replicas (
    id      text PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- +goose Down
DROP TABLE tierlimit.replicas;
