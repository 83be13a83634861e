-- INSERT OR REPLACE deletes the row that is in its way without the triggers for DELETE (sqlite.org/lang_conflict.html),
-- and so could change a checkpoint. `changes` needs no such trigger: the next free number is the only one it takes.
CREATE TRIGGER checkpoints_are_not_replaced BEFORE INSERT ON checkpoints
WHEN EXISTS (SELECT 1 FROM checkpoints WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM checkpoints WHERE chain = NEW.chain AND seq = NEW.seq)
BEGIN
    SELECT raise(ABORT, 'checkpoints are immutable');
END;
