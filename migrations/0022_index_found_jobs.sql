-- Filters of lists at a million ended jobs: `jobs_found` has each column that they ask for, so that a search reads none of
-- the rows that do not match. By state and queue first, as most lists name one; then newest first. Jobs that have not ended
-- are few, and found by other indexes: a submit and a start cost nothing more. A policy that is damaged has no labels: it
-- keeps no other row from being written.
ALTER TABLE jobs ADD COLUMN labels TEXT GENERATED ALWAYS AS (
    CASE WHEN json_valid(policy) THEN json_extract(policy, '$.labels') END
) VIRTUAL;

CREATE INDEX jobs_found ON jobs (
    state, queue, id, name, created_at, finished_at, reason, exit_code, labels
) WHERE finished_at IS NOT NULL;
