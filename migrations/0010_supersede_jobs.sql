-- A job of a newer submit takes the place of those of the same `supersede_key` that have not ended; `superseded_by` is
-- the id of that newer job. Few jobs have a key, and the index has only those that have not ended.
ALTER TABLE jobs ADD COLUMN superseded_by INTEGER;

CREATE INDEX jobs_superseded ON jobs (owner_uid, supersede_key)
    WHERE supersede_key IS NOT NULL AND finished_at IS NULL;
