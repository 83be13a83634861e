-- The events that are kept for later jobs, by name and by owner: each is counted before another one is kept, and read
-- for each job that begins to wait, however many events there were.
DROP INDEX events_named;
CREATE INDEX events_kept ON events (owner_uid, name, keep_until)
    WHERE keep_until > 0 AND NOT (one = 1 AND reached > 0);
CREATE INDEX events_kept_of_owner ON events (owner_uid, keep_until)
    WHERE keep_until > 0 AND NOT (one = 1 AND reached > 0);
