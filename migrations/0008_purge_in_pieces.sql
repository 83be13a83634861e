-- A job may have a hundred thousand attempts, and a workflow ten thousand steps: to delete all of it in one commit would
-- keep every other commit waiting. The commit of a purge lists the jobs here, and from then on no query sees them. Their
-- rows are removed later, in pieces; after a crash the list says which are left.
CREATE TABLE purging_jobs (
    id INTEGER PRIMARY KEY
) STRICT;
