-- A need that can no longer be met, without harm, while other needs are open: these decide why the job is skipped.
ALTER TABLE jobs ADD COLUMN not_needed INTEGER NOT NULL DEFAULT 0 CHECK (not_needed = 0 OR not_needed = 1);
