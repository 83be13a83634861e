-- The limits of time of nested workflows that count now: `outer` is what the names of its steps begin with, as `build/`.
-- `expires_at`, the end of its timeout, is steady time, `deadline` wall time; `passed`: the one that was reached.
CREATE TABLE inner_limits (
    workflow_id  INTEGER NOT NULL,
    outer        TEXT NOT NULL,
    deadline     INTEGER,
    expires_at   INTEGER,
    passed       TEXT CHECK (passed = 'timeout' OR passed = 'deadline'),
    PRIMARY KEY (workflow_id, outer)
) STRICT, WITHOUT ROWID;
