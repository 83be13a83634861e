-- What was at the path of a condition `file-changed:PATH` when its job began to wait: time of the last change, size and
-- inode; empty: nothing was there. NULL: not known yet, so the first look of the daemon counts.
ALTER TABLE conditions ADD COLUMN seen TEXT;
