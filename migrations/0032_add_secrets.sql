-- The secrets of jobs, encrypted (store/secret_box.py). They are in no journal and no backup; a job whose secrets are gone
-- is held (`secrets`). As in 0007 the list of the CHECK is edited in place.
CREATE TABLE secrets (
    job_id  INTEGER NOT NULL,
    name    TEXT NOT NULL,
    sealed  BLOB NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'OR reason = ''aborted'')', 'OR reason = ''aborted'' OR reason = ''secrets'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;
