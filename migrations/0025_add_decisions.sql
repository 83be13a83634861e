-- The `if` of a step: until it is decided the step waits, and the index finds those that a crash left undecided. One more
-- reason why a job is final, `condition`, as its `if` has no value. As in 0007 the list of the CHECK is edited in place.
ALTER TABLE jobs ADD COLUMN undecided INTEGER NOT NULL DEFAULT 0 CHECK (undecided = 0 OR undecided = 1);

CREATE INDEX jobs_undecided ON jobs (id)
WHERE undecided = 1 AND needs_open = 0 AND (state = 'waiting' OR state = 'held');

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'OR reason = ''reused'')', 'OR reason = ''reused'' OR reason = ''condition'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;

-- SQLite reads a changed schema again once a statement changes it.
DROP TRIGGER changes_are_immutable;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
