-- Fewer pages in each commit. The attempts of a job lie together, in the order of their starts: new ones are at the end of
-- the table, and it needs no second index. A run id begins with the id of its job and the number of its attempt.
-- And without AUTOINCREMENT a new job no longer writes the page of `sqlite_sequence`. Ids are still never used twice: they
-- come from the daemon, which begins above the newest row and above what `meta` says (store/given_ids.py).
INSERT INTO meta (key, value)
SELECT 'last_' || name, seq FROM sqlite_sequence WHERE name IN ('jobs', 'workflows', 'checkpoints') AND seq > 0
ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value);
DELETE FROM sqlite_sequence;

-- As in 0004 the text of the tables is edited in place: no row changes.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'PRIMARY KEY AUTOINCREMENT', 'PRIMARY KEY')
WHERE type = 'table' AND name IN ('jobs', 'workflows', 'checkpoints');
PRAGMA writable_schema = RESET;

CREATE TABLE clustered_attempts (
    job_id        INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
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
                        OR stop_reason = 'unresponsive' OR stop_reason = 'orphaned' OR stop_reason = 'restart'),
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

INSERT INTO clustered_attempts (
    job_id, ordinal, run_id, launcher, created_at, pid, start_ticks, boot_id, pid_namespace, pidfs_inode, cgroup,
    stop_reason, adopted, holds, started_at, ended_at, outcome, exit_code, signal, stopped, error, user_ms, system_ms,
    max_rss_kib, log_bytes, bounds, output
)
SELECT job_id, ordinal, run_id, launcher, created_at, pid, start_ticks, boot_id, pid_namespace, pidfs_inode, cgroup,
    stop_reason, adopted, holds, started_at, ended_at, outcome, exit_code, signal, stopped, error, user_ms, system_ms,
    max_rss_kib, log_bytes, bounds, output
FROM attempts ORDER BY job_id, ordinal;

DROP TABLE attempts;
ALTER TABLE clustered_attempts RENAME TO attempts;

CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX attempts_touching ON attempts (
    length(ended_at - created_at), created_at, run_id, ended_at
) WHERE ended_at IS NOT NULL;
