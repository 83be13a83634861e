-- The part of its workflow that a schedule submits, and the run that it reuses, as JSON; NULL: all of it, with no reuse.
ALTER TABLE schedules ADD COLUMN part TEXT CHECK (part IS NULL OR flow IS NOT NULL);
