-- Schedules: templates of jobs and workflows with the times at which they are submitted. That a slot is submitted once
-- is kept by the primary key of `idempotency`: each run has the key of its schedule and slot, in the commit of its job.
CREATE TABLE schedules (
    name          TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    owner_uid     INTEGER NOT NULL,
    timing        TEXT NOT NULL,
    zone          TEXT NOT NULL,
    misfire       TEXT NOT NULL CHECK (misfire = 'skip' OR misfire = 'latest' OR misfire = 'all'),
    overlap       TEXT NOT NULL CHECK (overlap = 'allow' OR overlap = 'skip' OR overlap = 'queue'
                                       OR overlap = 'supersede'),
    catch_up_ms   INTEGER NOT NULL CHECK (catch_up_ms > 0),
    jitter_ms     INTEGER NOT NULL CHECK (jitter_ms >= 0),
    paused        INTEGER NOT NULL CHECK (paused IN (0, 1)),
    declared      INTEGER NOT NULL CHECK (declared IN (0, 1)),
    job           TEXT,                    -- the template, as JSON: a job, or
    flow          TEXT,                    -- a workflow
    created_at    INTEGER NOT NULL,
    passed        INTEGER NOT NULL,        -- UTC milliseconds: every slot up to then is settled
    next_slot     INTEGER CHECK (next_slot > passed),
    last_slot     INTEGER,
    last_job      INTEGER,
    last_workflow INTEGER,
    CHECK ((job IS NULL) <> (flow IS NULL))
) STRICT, WITHOUT ROWID;
