-- One more reason why a job succeeded: `reused`, as it took over the end of an earlier one. As in 0007 the list of the
-- CHECK is edited in place.

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'OR reason = ''damaged'')', 'OR reason = ''damaged'' OR reason = ''reused'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;

DROP TRIGGER changes_are_immutable;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
