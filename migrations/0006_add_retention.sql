-- Retention: what ended is found by the time of its end, and what its removal leaves behind is listed until that is
-- gone too.

-- The jobs of each queue that are no steps, by their end; a workflow goes as a whole, with its steps.
CREATE INDEX jobs_ended ON jobs (queue, finished_at, id, state) WHERE finished_at IS NOT NULL AND workflow_id IS NULL;
CREATE INDEX workflows_ended ON workflows (finished_at, id, name, state) WHERE finished_at IS NOT NULL;

-- Open jobs that name needs in their policy: the jobs that they need are kept, because their next attempt reads the
-- outputs of all needs, of those that are met too.
CREATE INDEX jobs_with_needs ON jobs (id) WHERE finished_at IS NULL AND instr(policy, '"needs":') > 0;

-- Jobs whose rows are gone and whose log directories are still to be removed. For checkpoints this list exists already:
-- checkpoint_purges says up to which seq the rows of a chain are to be removed.
CREATE TABLE purged_jobs (
    id INTEGER PRIMARY KEY
) STRICT;

-- A key outlives its job: the answer to it still says which job it was and how that ended.
ALTER TABLE idempotency ADD COLUMN purged_at INTEGER;
ALTER TABLE idempotency ADD COLUMN purged_state TEXT;
ALTER TABLE idempotency ADD COLUMN purged_workflow INTEGER;
CREATE INDEX idempotency_purged ON idempotency (purged_at) WHERE purged_at IS NOT NULL;
