-- The users of a queue start jobs in turn, so the queued jobs of each are read by themselves, and live jobs are counted for
-- each user. The indexes are built again with the owner in them: there are as many as before, and their entries are 1 to 5
-- bytes longer.
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (queue, owner_uid, demand, order_key, id) WHERE state = 'queued';

DROP INDEX jobs_idle;
CREATE INDEX jobs_idle ON jobs (queue, state, owner_uid) WHERE state IN ('waiting', 'held');
