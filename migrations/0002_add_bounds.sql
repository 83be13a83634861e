-- Which of the limits that a job asked for are in force for an attempt, by which mechanism and how far. It cannot be
-- derived later: whether a cgroup was delegated, and how far an rlimit may go, is a matter of the daemon of that time.
-- JSON, {"cgroup": {...}, "rlimit": {...}}; NULL where no limit was asked for or nobody could tell.
ALTER TABLE attempts ADD COLUMN bounds TEXT;
