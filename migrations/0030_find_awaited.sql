-- Open jobs that name others in their policy, by needs or by wait_for: a purge keeps the jobs and workflows that they
-- name.
DROP INDEX jobs_with_needs;
CREATE INDEX jobs_with_needs ON jobs (id)
WHERE finished_at IS NULL AND (instr(policy, '"needs":') OR instr(policy, '"wait_for":'));
