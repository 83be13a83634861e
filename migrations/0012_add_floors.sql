-- While the host is under pressure a queue with a floor runs fewer jobs, but at least `min_running`.
ALTER TABLE queues ADD COLUMN min_running INTEGER CHECK (min_running >= 1);
