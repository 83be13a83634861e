-- Workflows, whose steps are jobs, and checkpoints: what was known of a workflow or a job at one moment.
-- Checkpoints are chained (seq without gaps, parent) and never edited; a purge removes only what says it may be.

CREATE TABLE workflows (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state = 'running' OR state = 'paused' OR state = 'succeeded' OR state = 'failed'
                    OR state = 'cancelled' OR state = 'rolling_back'),
    intent      TEXT NOT NULL CHECK (intent = 'run' OR intent = 'pause' OR intent = 'cancel' OR intent = 'rollback'),
    target      TEXT,                      -- JSON: what a rollback does once nothing of the workflow runs
    owner_uid   INTEGER NOT NULL,
    trace_id    TEXT NOT NULL,
    flow        TEXT NOT NULL,             -- JSON: the flow as sent, its parameters filled in
    flow_hash   BLOB NOT NULL CHECK (length(flow_hash) = 16),
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK ((state = 'succeeded' OR state = 'failed' OR state = 'cancelled') = (finished_at IS NOT NULL))
) STRICT;

CREATE INDEX workflows_live ON workflows (id) WHERE finished_at IS NULL;
CREATE INDEX jobs_workflow ON jobs (workflow_id) WHERE workflow_id IS NOT NULL;

-- A fresh start: checkpoints of the job up to this seq of its chain are not handed to its next attempt.
ALTER TABLE jobs ADD COLUMN checkpoint_floor INTEGER NOT NULL DEFAULT 0;

-- What a run handed on: a JSON object of strings.
ALTER TABLE attempts ADD COLUMN output TEXT;

CREATE TABLE checkpoints (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    chain       TEXT NOT NULL,             -- w7: of workflow 7; j42: of job 42, which is a step of none
    seq         INTEGER NOT NULL CHECK (seq >= 1),
    parent      INTEGER,
    kind        TEXT NOT NULL CHECK (kind = 'context' OR kind = 'transition' OR kind = 'step' OR kind = 'progress'),
    job_id      INTEGER,
    step        TEXT,
    run_id      TEXT,
    status      TEXT NOT NULL,
    version     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    encoding    TEXT NOT NULL CHECK (encoding = 'plain' OR encoding = 'gzip'),
    size        INTEGER NOT NULL CHECK (size >= 0),
    data        BLOB NOT NULL,
    checksum    BLOB NOT NULL CHECK (length(checksum) = 32),
    UNIQUE (chain, seq)
) STRICT;

CREATE INDEX checkpoints_job ON checkpoints (job_id, seq) WHERE job_id IS NOT NULL;
CREATE INDEX checkpoints_context ON checkpoints (chain, seq) WHERE kind = 'context';

CREATE TRIGGER checkpoints_are_gapless BEFORE INSERT ON checkpoints
WHEN NEW.seq > 1 AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE chain = NEW.chain AND seq = NEW.seq - 1)
BEGIN
    SELECT raise(ABORT, 'checkpoints of a chain must be gapless');
END;

CREATE TRIGGER checkpoints_are_immutable BEFORE UPDATE ON checkpoints
BEGIN
    SELECT raise(ABORT, 'checkpoints are immutable');
END;
