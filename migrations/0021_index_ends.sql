-- Overviews at a million ended jobs: the newest ends, those that failed, and the attempts that ran in a time. These indexes
-- have only what has ended: a submit and a start cost nothing more, an end some microseconds.
CREATE INDEX jobs_by_end ON jobs (finished_at, state) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_failed ON jobs (finished_at) WHERE state IN ('failed', 'expired');

-- Ended attempts by the number of digits of their milliseconds, then by their beginning. Those that touch a time began at
-- most 10 to the power of that number before it: few others are looked at, although some attempts ran for days.
CREATE INDEX attempts_touching ON attempts (
    length(ended_at - created_at), created_at, run_id, ended_at
) WHERE ended_at IS NOT NULL;
