//! Migrations are written in SQLite's words; PostgreSQL has others for the same.

/// The same statements for PostgreSQL. Texts compare by bytes, as in SQLite, whatever the database's locale.
pub(super) fn for_postgres(sql: &str) -> String {
    let mut result = String::with_capacity(sql.len() + sql.len() / 4);
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '\'' {
            // Of a doubled quote, the second begins the next text.
            rest.get(1..).and_then(|behind| behind.find('\'')).map_or(rest.len(), |at| at + 2)
        } else if first.is_ascii_alphabetic() || first == '_' {
            rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, behind) = rest.split_at(length);
        rest = behind;
        match word {
            "INTEGER" => result.push_str("BIGINT"),
            "REAL" => result.push_str("DOUBLE PRECISION"),
            "BLOB" => result.push_str("BYTEA"),
            "TEXT" => result.push_str("TEXT COLLATE \"C\""),
            // The last of a table's words, with WITHOUT ROWID behind it or not.
            "STRICT" => rest = rest.find(';').map_or("", |at| rest.split_at(at).1),
            other => result.push_str(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::for_postgres;

    #[test]
    fn types_and_options_are_translated_and_nothing_else() {
        let sql = "-- TEXT of INTEGER, it's so\nCREATE TABLE t (a TEXT NOT NULL, b_REAL REAL, c BLOB, PRIMARY KEY (a)) STRICT, WITHOUT ROWID;\n\
                   INSERT INTO t VALUES ('TEXT''s STRICT', 1); CREATE TABLE u (n INTEGER) STRICT;";
        let expected = "-- TEXT of INTEGER, it's so\nCREATE TABLE t (a TEXT COLLATE \"C\" NOT NULL, b_REAL DOUBLE PRECISION, c BYTEA, PRIMARY KEY (a)) ;\n\
                        INSERT INTO t VALUES ('TEXT''s STRICT', 1); CREATE TABLE u (n BIGINT) ;";
        assert_eq!(for_postgres(sql), expected);
        for cut in 0..sql.len() {
            // Whatever it is, it ends.
            for_postgres(&sql[..cut]);
        }
    }
}
