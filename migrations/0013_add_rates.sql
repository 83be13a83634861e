-- Rates: how many jobs of a queue, or with a `rate_key`, may start in a time. A rate is JSON: count, per_ms, burst.
-- Changes of rates are recorded. As in 0004 the list of the CHECK is edited in place: it only grows.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'kind = ''schedule''', 'kind = ''schedule'' OR kind = ''rate''')
WHERE type = 'table' AND name = 'changes';
PRAGMA writable_schema = RESET;

ALTER TABLE queues ADD COLUMN rate TEXT;

CREATE TABLE rates (
    key  TEXT PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 128),  -- * stands for each key without a rate of its own
    rate TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The buckets that are not full: steady time, in nanoseconds, at which each is full again. It is written in the commit
-- of each start, so that no crash gives a token back or takes one.
CREATE TABLE buckets (
    name    TEXT PRIMARY KEY,
    full_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Queued jobs with the same `rate_key` and the same resources are found together, as in 0005.
DROP INDEX jobs_queued;
ALTER TABLE jobs DROP COLUMN demand;
ALTER TABLE jobs ADD COLUMN demand TEXT GENERATED ALWAYS AS (
    iif(json_extract(policy, '$.rate_key') IS NULL, json_extract(policy, '$.resources'), json_patch(
        coalesce(json_extract(policy, '$.resources'), '{}'),
        json_object('rate/' || json_extract(policy, '$.rate_key'), 1)))
) VIRTUAL;
CREATE INDEX jobs_queued ON jobs (queue, demand, order_key, id) WHERE state = 'queued';
