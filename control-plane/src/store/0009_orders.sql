-- Commands for nodes that are connected to another instance, and what the nodes answered; both as JSON. Numbers are given out in
-- settings, as are versions. They are deleted when they are done, or old.
CREATE TABLE orders (
    number INTEGER NOT NULL PRIMARY KEY,
    instance TEXT NOT NULL,
    made_ms INTEGER NOT NULL,
    wait_ms INTEGER NOT NULL,
    nodes TEXT NOT NULL,
    command TEXT NOT NULL
) STRICT;

CREATE TABLE order_answers (
    number INTEGER NOT NULL REFERENCES orders (number) ON DELETE CASCADE,
    node TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (number, node)
) STRICT, WITHOUT ROWID;

INSERT INTO settings (name, value) VALUES ('orders', 0);
