-- One more reason why a job is held: `restored`, as a backup was put back and the job may have run since it was made.
-- As in 0004 the list of the CHECK is edited in place: it only grows, so no row has to be looked at. The trigger stays
-- as it was: other connections read an edited schema again only after a statement that changes it.

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'OR reason = ''output'')', 'OR reason = ''output'' OR reason = ''restored'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;

DROP TRIGGER changes_are_immutable;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
