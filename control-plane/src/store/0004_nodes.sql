-- Which instance of the control plane a node is connected to, the number of that connection among all of the node's (a later one
-- counts, whatever an earlier one still says), and what the node said of itself, as JSON; NULL when it has gone.
ALTER TABLE nodes ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN connection INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN live TEXT;
