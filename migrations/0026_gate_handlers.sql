-- A handler of a workflow waits for the end of all steps: it has a need of its own job, which the workflow meets. As in
-- 0007 the CHECK is edited in place.

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'PRIMARY KEY (job_id, needed),
    CHECK (job_id <> needed)', 'PRIMARY KEY (job_id, needed)')
WHERE type = 'table' AND name = 'needs';
PRAGMA writable_schema = RESET;

DROP TRIGGER changes_are_immutable;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
