CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX attempts_touching ON attempts (
    length(ended_at - created_at), created_at, run_id, ended_at
) WHERE ended_at IS NOT NULL;
CREATE INDEX changes_job ON changes (job_id, seq) WHERE job_id IS NOT NULL;
CREATE INDEX checkpoints_context ON checkpoints (chain, seq) WHERE kind = 'context';
CREATE INDEX checkpoints_job ON checkpoints (job_id, seq) WHERE job_id IS NOT NULL;
CREATE INDEX conditions_waiting ON conditions (condition, job_id);
CREATE INDEX events_kept ON events (owner_uid, name, keep_until)
    WHERE keep_until > 0 AND NOT (one = 1 AND reached > 0);
CREATE INDEX events_kept_of_owner ON events (owner_uid, keep_until)
    WHERE keep_until > 0 AND NOT (one = 1 AND reached > 0);
CREATE UNIQUE INDEX events_keyed ON events (owner_uid, key) WHERE key IS NOT NULL;
CREATE INDEX events_undelivered ON events (next_after) WHERE next_after IS NOT NULL;
CREATE INDEX idempotency_job ON idempotency (job_id);
CREATE INDEX idempotency_purged ON idempotency (purged_at) WHERE purged_at IS NOT NULL;
CREATE INDEX job_events_of_event ON job_events (event_id);
CREATE INDEX jobs_by_end ON jobs (finished_at, state) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_by_hook ON jobs (hook) WHERE hook IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE state IN ('waiting', 'queued') AND deadline IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (queue, finished_at, id, state) WHERE finished_at IS NOT NULL AND workflow_id IS NULL;
CREATE INDEX jobs_expires ON jobs (expires_at) WHERE state IN ('waiting', 'queued') AND expires_at IS NOT NULL;
CREATE INDEX jobs_failed ON jobs (finished_at) WHERE state IN ('failed', 'expired');
CREATE INDEX jobs_found ON jobs (
    state, queue, id, name, created_at, finished_at, reason, exit_code, labels
) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_idle ON jobs (queue, state, owner_uid) WHERE state IN ('waiting', 'held');
CREATE UNIQUE INDEX jobs_of_hooks ON jobs (hook, hook_change) WHERE hook IS NOT NULL;
CREATE INDEX jobs_queued ON jobs (queue, owner_uid, demand, order_key, id) WHERE state = 'queued';
CREATE INDEX jobs_run_at ON jobs (run_at) WHERE state = 'waiting' AND run_at IS NOT NULL;
CREATE INDEX jobs_superseded ON jobs (owner_uid, supersede_key)
    WHERE supersede_key IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_undecided ON jobs (id)
WHERE undecided = 1 AND needs_open = 0 AND (state = 'waiting' OR state = 'held');
CREATE INDEX jobs_wake ON jobs (wake_at) WHERE state = 'waiting' AND wake_at IS NOT NULL;
CREATE INDEX jobs_with_needs ON jobs (id)
WHERE finished_at IS NULL AND (instr(policy, '"needs":') OR instr(policy, '"wait_for":'));
CREATE INDEX jobs_workflow ON jobs (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX needs_needed ON needs (needed);
CREATE INDEX workflows_ended ON workflows (finished_at, id, name, state) WHERE finished_at IS NOT NULL;
CREATE INDEX workflows_labelled ON workflows (labels) WHERE labels <> '{}';
CREATE INDEX workflows_live ON workflows (id) WHERE finished_at IS NULL;
CREATE TABLE "attempts" (
    job_id        INTEGER NOT NULL REFERENCES jobs (id),
    ordinal       INTEGER NOT NULL CHECK (ordinal >= 1),
    run_id        TEXT NOT NULL,
    launcher      TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    pid           INTEGER,
    start_ticks   INTEGER,
    boot_id       TEXT,
    pid_namespace INTEGER,
    pidfs_inode   INTEGER,
    cgroup        TEXT,
    stop_reason   TEXT CHECK (stop_reason = 'cancel' OR stop_reason = 'timeout' OR stop_reason = 'deadline'
                        OR stop_reason = 'shutdown' OR stop_reason = 'superseded'
                        OR stop_reason = 'unresponsive' OR stop_reason = 'orphaned' OR stop_reason = 'restart' OR stop_reason = 'aborted'),
    adopted       INTEGER NOT NULL DEFAULT 0,
    holds         TEXT NOT NULL DEFAULT '{}',
    started_at    INTEGER,
    ended_at      INTEGER,
    outcome       TEXT CHECK (outcome = 'exit' OR outcome = 'signal' OR outcome = 'oom' OR outcome = 'spawn_error'
                        OR outcome = 'exception' OR outcome = 'unseen' OR outcome = 'never_started'),
    exit_code     INTEGER,
    signal        INTEGER,
    stopped       INTEGER CHECK (stopped IN (0, 1)),
    error         TEXT,
    user_ms       INTEGER,
    system_ms     INTEGER,
    max_rss_kib   INTEGER,
    log_bytes     INTEGER,
    bounds        TEXT,
    output        TEXT,
    PRIMARY KEY (job_id, ordinal),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TABLE buckets (
    name    TEXT PRIMARY KEY,
    full_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE changes (
    seq        INTEGER PRIMARY KEY CHECK (seq > 0),
    at         INTEGER NOT NULL,
    kind       TEXT NOT NULL CHECK (kind = 'job' OR kind = 'workflow' OR kind = 'queue' OR kind = 'resource'
                        OR kind = 'schedule' OR kind = 'rate' OR kind = 'hook' OR kind = 'system'),
    subject    TEXT NOT NULL,
    job_id     INTEGER,
    from_state TEXT,
    to_state   TEXT,
    cause      TEXT NOT NULL,
    actor_uid  INTEGER,
    payload    TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TABLE checkpoint_purges (
    chain TEXT PRIMARY KEY,
    seq   INTEGER NOT NULL CHECK (seq >= 1)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (
    id          INTEGER PRIMARY KEY,
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
CREATE TABLE conditions (
    job_id    INTEGER NOT NULL REFERENCES jobs (id),
    number    INTEGER NOT NULL CHECK (number >= 0 AND number < 32),
    condition TEXT NOT NULL, seen TEXT,               -- event:NAME, job:ID or workflow:ID
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE idempotency (
    owner_uid  INTEGER NOT NULL,
    key        TEXT NOT NULL,
    spec_hash  BLOB NOT NULL,
    job_id     INTEGER NOT NULL,
    created_at INTEGER NOT NULL, purged_at INTEGER, purged_state TEXT, purged_workflow INTEGER,
    PRIMARY KEY (owner_uid, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE inner_limits (
    workflow_id  INTEGER NOT NULL,
    outer        TEXT NOT NULL,
    deadline     INTEGER,
    expires_at   INTEGER,
    passed       TEXT CHECK (passed = 'timeout' OR passed = 'deadline'),
    PRIMARY KEY (workflow_id, outer)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_events (
    job_id   INTEGER NOT NULL REFERENCES jobs (id),
    event_id INTEGER NOT NULL,
    PRIMARY KEY (job_id, event_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (
    id              INTEGER PRIMARY KEY,
    queue           TEXT NOT NULL,
    name            TEXT,
    state           TEXT NOT NULL CHECK (state = 'waiting' OR state = 'queued' OR state = 'running' OR state = 'held'
                        OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled' OR state = 'expired'
                        OR state = 'superseded' OR state = 'skipped'),
    reason          TEXT CHECK (reason = 'exit' OR reason = 'signal' OR reason = 'timeout' OR reason = 'deadline'
                        OR reason = 'ttl' OR reason = 'oom' OR reason = 'unresponsive' OR reason = 'orphaned'
                        OR reason = 'lost' OR reason = 'stuck' OR reason = 'poison' OR reason = 'spawn_error'
                        OR reason = 'user' OR reason = 'superseded' OR reason = 'dependency'
                        OR reason = 'shutdown' OR reason = 'not_needed' OR reason = 'output' OR reason = 'restored' OR reason = 'damaged' OR reason = 'reused' OR reason = 'condition' OR reason = 'aborted' OR reason = 'secrets'),
    priority        INTEGER NOT NULL,
    execution_mode  TEXT NOT NULL CHECK (execution_mode = 'subprocess' OR execution_mode = 'in_process'
                        OR execution_mode = 'cluster'),
    command         TEXT NOT NULL,
    args            TEXT NOT NULL,
    env_vars        TEXT NOT NULL,
    working_dir     TEXT NOT NULL,
    pid             INTEGER CHECK (pid IS NULL OR state IN ('running', 'held')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    failures        INTEGER NOT NULL DEFAULT 0,
    orphanings      INTEGER NOT NULL DEFAULT 0,
    max_attempts    INTEGER NOT NULL CHECK (max_attempts >= 1),
    backoff_factor  REAL NOT NULL CHECK (backoff_factor >= 1.0),
    deadline        INTEGER,
    ttl_ms          INTEGER CHECK (ttl_ms > 0),
    timeout_ms      INTEGER CHECK (timeout_ms > 0),
    on_orphan       TEXT NOT NULL CHECK (on_orphan = 'fail' OR on_orphan = 'requeue' OR on_orphan = 'hold'),
    survive         INTEGER NOT NULL CHECK (survive IN (0, 1)),
    run_at          INTEGER,
    needs_open      INTEGER NOT NULL DEFAULT 0 CHECK (needs_open >= 0),
    wake_at         INTEGER,               -- steady milliseconds: end of a backoff
    expires_at      INTEGER,               -- steady milliseconds: end of the ttl
    order_key       INTEGER NOT NULL,
    owner_uid       INTEGER NOT NULL,
    supersede_key   TEXT,
    workflow_id     INTEGER,
    step            TEXT,
    trace_id        TEXT NOT NULL,
    policy          TEXT NOT NULL,         -- the rest of the spec, as JSON
    spec_hash       BLOB NOT NULL CHECK (length(spec_hash) = 16),
    created_at      INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    exit_code       INTEGER,
    signal          INTEGER, checkpoint_floor INTEGER NOT NULL DEFAULT 0, superseded_by INTEGER, demand TEXT GENERATED ALWAYS AS (
    iif(json_extract(policy, '$.rate_key') IS NULL, json_extract(policy, '$.resources'), json_patch(
        coalesce(json_extract(policy, '$.resources'), '{}'),
        json_object('rate/' || json_extract(policy, '$.rate_key'), 1)))
) VIRTUAL, conditions_open INTEGER NOT NULL DEFAULT 0 CHECK (conditions_open >= 0), hook TEXT CHECK (length(hook) BETWEEN 1 AND 64), hook_change INTEGER CHECK (hook_change IS NULL OR (hook_change > 0 AND hook IS NOT NULL)), debounce_by INTEGER, labels TEXT GENERATED ALWAYS AS (
    CASE WHEN json_valid(policy) THEN json_extract(policy, '$.labels') END
) VIRTUAL, undecided INTEGER NOT NULL DEFAULT 0 CHECK (undecided = 0 OR undecided = 1), not_needed INTEGER NOT NULL DEFAULT 0 CHECK (not_needed = 0 OR not_needed = 1),
    CHECK ((state = 'succeeded' OR state = 'failed' OR state = 'cancelled' OR state = 'expired' OR state = 'superseded'
            OR state = 'skipped') = (finished_at IS NOT NULL)),
    CHECK (finished_at IS NULL OR reason IS NOT NULL),
    CHECK (state <> 'held' OR reason IS NOT NULL)
) STRICT;
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
;
CREATE TABLE needs (
    job_id   INTEGER NOT NULL REFERENCES jobs (id),
    needed   INTEGER NOT NULL,
    on_end   TEXT NOT NULL CHECK (on_end = 'ok' OR on_end = 'failed' OR on_end = 'any'),
    PRIMARY KEY (job_id, needed)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
    id    INTEGER PRIMARY KEY,
    place TEXT NOT NULL,                   -- the table
    key1  ANY NOT NULL,                    -- the primary key of the row
    key2  ANY
) STRICT;
CREATE TABLE purged_jobs (
    id INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE purging_jobs (
    id INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE queues (
    name        TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    class       TEXT NOT NULL CHECK (class = 'high' OR class = 'normal' OR class = 'low'),
    max_running INTEGER CHECK (max_running >= 0),
    max_queued  INTEGER CHECK (max_queued >= 0),
    paused      INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    defaults    TEXT NOT NULL DEFAULT '{}'
, min_running INTEGER CHECK (min_running >= 1), rate TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE rates (
    key  TEXT PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 128),  -- * stands for each key without a rate of its own
    rate TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE recoveries (
    epoch       INTEGER PRIMARY KEY,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    plan        TEXT NOT NULL,
    settled     INTEGER NOT NULL DEFAULT 0,
    adopted     INTEGER NOT NULL DEFAULT 0,
    stopped     INTEGER NOT NULL DEFAULT 0,
    requeued    INTEGER NOT NULL DEFAULT 0,
    unseen      INTEGER NOT NULL DEFAULT 0,
    stuck       INTEGER NOT NULL DEFAULT 0,
    swept       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE resources (
    name     TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    capacity INTEGER NOT NULL CHECK (capacity >= 0)
) STRICT, WITHOUT ROWID;
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
    last_workflow INTEGER, part TEXT CHECK (part IS NULL OR flow IS NOT NULL),
    CHECK ((job IS NULL) <> (flow IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TABLE secrets (
    job_id  INTEGER NOT NULL,
    name    TEXT NOT NULL,
    sealed  BLOB NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE sqlite_sequence(name,seq);
CREATE TABLE workflows (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state = 'running' OR state = 'paused' OR state = 'succeeded' OR state = 'failed'
                    OR state = 'cancelled' OR state = 'rolling_back'),
    intent      TEXT NOT NULL CHECK (intent = 'run' OR intent = 'pause' OR intent = 'cancel' OR intent = 'rollback' OR intent = 'abort'),
    target      TEXT,                      -- JSON: what a rollback does once nothing of the workflow runs
    owner_uid   INTEGER NOT NULL,
    trace_id    TEXT NOT NULL,
    flow        TEXT NOT NULL,             -- JSON: the flow as sent, its parameters filled in
    flow_hash   BLOB NOT NULL CHECK (length(flow_hash) = 16),
    created_at  INTEGER NOT NULL,
    finished_at INTEGER, deadline INTEGER, expires_at INTEGER, cut TEXT, concurrency_key TEXT, place INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}',
    CHECK ((state = 'succeeded' OR state = 'failed' OR state = 'cancelled') = (finished_at IS NOT NULL))
) STRICT;
CREATE TRIGGER changes_are_gapless BEFORE INSERT ON changes
WHEN NEW.seq <> 1 + coalesce((SELECT max(seq) FROM changes), (SELECT value FROM meta WHERE key = 'changes_purged'), 0)
BEGIN
    SELECT raise(ABORT, 'changes must be gapless');
END;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
CREATE TRIGGER changes_keep_their_tail BEFORE DELETE ON changes
WHEN OLD.seq > coalesce((SELECT value FROM meta WHERE key = 'changes_purged'), 0)
BEGIN
    SELECT raise(ABORT, 'changes are append-only: purge removes a recorded prefix');
END;
CREATE TRIGGER checkpoints_are_gapless BEFORE INSERT ON checkpoints
WHEN NEW.seq > 1 AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE chain = NEW.chain AND seq = NEW.seq - 1)
BEGIN
    SELECT raise(ABORT, 'checkpoints of a chain must be gapless');
END;
CREATE TRIGGER checkpoints_are_immutable BEFORE UPDATE ON checkpoints
BEGIN
    SELECT raise(ABORT, 'checkpoints are immutable');
END;
CREATE TRIGGER checkpoints_are_not_replaced BEFORE INSERT ON checkpoints
WHEN EXISTS (SELECT 1 FROM checkpoints WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM checkpoints WHERE chain = NEW.chain AND seq = NEW.seq)
BEGIN
    SELECT raise(ABORT, 'checkpoints are immutable');
END;
CREATE TRIGGER checkpoints_keep_their_tail BEFORE DELETE ON checkpoints
WHEN OLD.seq > coalesce((SELECT seq FROM checkpoint_purges WHERE chain = OLD.chain), 0)
BEGIN
    SELECT raise(ABORT, 'checkpoints are kept: purge removes a recorded prefix of a chain');
END;
