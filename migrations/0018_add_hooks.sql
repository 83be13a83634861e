-- Hooks: a change runs a command as a job. That a change has one job for each hook is kept by the index `jobs_of_hooks`:
-- the job is stored in the commit of its change. A job of `stoker hook test` is for no change.
-- What a hook could not submit, as its queue was full, is recorded. As in 0004 the list of the CHECK is edited in place.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'OR kind = ''rate''', 'OR kind = ''rate'' OR kind = ''hook''')
WHERE type = 'table' AND name = 'changes';
PRAGMA writable_schema = RESET;

ALTER TABLE jobs ADD COLUMN hook TEXT CHECK (length(hook) BETWEEN 1 AND 64);
ALTER TABLE jobs ADD COLUMN hook_change INTEGER CHECK (hook_change IS NULL OR (hook_change > 0 AND hook IS NOT NULL));

CREATE UNIQUE INDEX jobs_of_hooks ON jobs (hook, hook_change) WHERE hook IS NOT NULL;
CREATE INDEX jobs_by_hook ON jobs (hook) WHERE hook IS NOT NULL;
