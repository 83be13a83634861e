-- Two more reasons why a job is final: `output` (what it handed on could not be taken) and `not_needed` (the failure
-- that it waited for did not come). And checkpoints refuse DELETE: a purge says first how far it goes in each chain.

-- SQLite cannot alter a CHECK. A copy of the table would take minutes for a million jobs and, as `attempts` refers to
-- it, their attempts with it; the list only grows, so no row has to be looked at: its text is edited in place, as
-- sqlite.org/lang_altertable.html has it for such changes. RESET makes this connection read the text again; that the
-- statements below change the schema makes every other connection do so.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'OR reason = ''shutdown'')', 'OR reason = ''shutdown'' OR reason = ''not_needed'' OR reason = ''output'')')
WHERE type = 'table' AND name = 'jobs';
PRAGMA writable_schema = RESET;

CREATE TABLE checkpoint_purges (
    chain TEXT PRIMARY KEY,
    seq   INTEGER NOT NULL CHECK (seq >= 1)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER checkpoints_keep_their_tail BEFORE DELETE ON checkpoints
WHEN OLD.seq > coalesce((SELECT seq FROM checkpoint_purges WHERE chain = OLD.chain), 0)
BEGIN
    SELECT raise(ABORT, 'checkpoints are kept: purge removes a recorded prefix of a chain');
END;
