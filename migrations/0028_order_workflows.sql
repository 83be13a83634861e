-- Workflows that run one at a time: those of an owner with the same key, in the order of their places.
ALTER TABLE workflows ADD COLUMN concurrency_key TEXT;
ALTER TABLE workflows ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
