-- Limits of whole workflows, `abort` as the intent of one that reached a limit, and the reason of the steps that end with
-- it. As in 0004 the lists of the CHECKs are edited in place.

PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'OR reason = ''condition'')', 'OR reason = ''condition'' OR reason = ''aborted'')')
WHERE type = 'table' AND name = 'jobs';
UPDATE sqlite_schema
SET sql = replace(sql, 'OR stop_reason = ''restart'')', 'OR stop_reason = ''restart'' OR stop_reason = ''aborted'')')
WHERE type = 'table' AND name = 'attempts';
UPDATE sqlite_schema SET sql = replace(sql, 'OR intent = ''rollback'')', 'OR intent = ''rollback'' OR intent = ''abort'')')
WHERE type = 'table' AND name = 'workflows';
PRAGMA writable_schema = RESET;

ALTER TABLE workflows ADD COLUMN deadline INTEGER;      -- wall time
ALTER TABLE workflows ADD COLUMN expires_at INTEGER;    -- steady time: the end of its timeout
ALTER TABLE workflows ADD COLUMN cut TEXT;              -- groups whose open steps are to be ended, one in each line
