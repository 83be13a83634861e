-- The rows that changed and are not yet in the journal, by their keys. Triggers on every table of the state write them;
-- the daemon makes these triggers from the schema (store/outbox.py), and only while it keeps a journal.
CREATE TABLE outbox (
    id    INTEGER PRIMARY KEY,
    place TEXT NOT NULL,                   -- the table
    key1  ANY NOT NULL,                    -- the primary key of the row
    key2  ANY
) STRICT;
