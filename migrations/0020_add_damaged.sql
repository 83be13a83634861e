-- One more reason why a job is held: `damaged`, as its row does not match its checksum. As in 0007 the list of the CHECK
-- is edited in place.

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'OR reason = ''restored'')', 'OR reason = ''restored'' OR reason = ''damaged'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;

DROP TRIGGER changes_are_immutable;
CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes
BEGIN
    SELECT raise(ABORT, 'changes are append-only');
END;
