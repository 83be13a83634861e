-- What a job waits for beside other jobs (`wait_for`), and named events. `conditions_open` is a set of bits, one for each
-- open condition of a job, and `conditions` finds the jobs that wait for one: it has a row for each of these bits.
ALTER TABLE jobs ADD COLUMN conditions_open INTEGER NOT NULL DEFAULT 0 CHECK (conditions_open >= 0);

CREATE TABLE conditions (
    job_id    INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number    INTEGER NOT NULL CHECK (number >= 0 AND number < 32),
    condition TEXT NOT NULL,               -- event:NAME, job:ID or workflow:ID
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX conditions_waiting ON conditions (condition, job_id);

-- The id of an event is the number of its change, so none is used twice.
CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    owner_uid  INTEGER NOT NULL,
    name       TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    data       TEXT NOT NULL,              -- JSON; empty if no job can get it any more
    emitted_at INTEGER NOT NULL,
    one        INTEGER NOT NULL CHECK (one IN (0, 1)),
    keep_until INTEGER NOT NULL,           -- UTC milliseconds: until then it reaches jobs that are submitted later
    reached    INTEGER NOT NULL CHECK (reached >= 0),
    next_after INTEGER,                    -- jobs behind this id, up to last_job, are still to get it
    last_job   INTEGER NOT NULL,
    key        TEXT,
    digest     BLOB NOT NULL,
    CHECK (one = 0 OR reached <= 1)
) STRICT;

CREATE INDEX events_named ON events (name, keep_until);
CREATE INDEX events_undelivered ON events (next_after) WHERE next_after IS NOT NULL;
CREATE UNIQUE INDEX events_keyed ON events (owner_uid, key) WHERE key IS NOT NULL;

CREATE TABLE job_events (
    job_id   INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    event_id INTEGER NOT NULL,
    PRIMARY KEY (job_id, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_events_of_event ON job_events (event_id);
