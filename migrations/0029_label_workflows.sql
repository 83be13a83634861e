-- The labels of a workflow, as JSON. The index holds few rows, so that a search reads no flow, which may be large.
ALTER TABLE workflows ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
CREATE INDEX workflows_labelled ON workflows (labels) WHERE labels <> '{}';
