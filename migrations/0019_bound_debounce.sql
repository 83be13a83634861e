-- Until when the newer jobs of a supersede_key may delay the start: the time that the first of those that wait was given.
ALTER TABLE jobs ADD COLUMN debounce_by INTEGER;
