-- A limit marked lease may be served by each process from a share of its own.

-- +goose Up
ALTER TABLE tierlimit.limits ADD COLUMN lease boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE tierlimit.limits DROP COLUMN lease;
