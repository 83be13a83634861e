-- Queued jobs are found by what they ask for of resources: where the first of those that ask for the same cannot start,
-- none of the others is looked at. `demand` is the text of `resources` in the policy, NULL where nothing is asked for.
-- The index is built by one pass over the table, about a second for a million jobs.
ALTER TABLE jobs ADD COLUMN demand TEXT GENERATED ALWAYS AS (json_extract(policy, '$.resources')) VIRTUAL;

DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (queue, demand, order_key, id) WHERE state = 'queued';
