//! Everything in one file, from either engine and into either.
//!
//! A line of JSON each: a head with the numbers of the migrations that the database had; for each table a line with its name and
//! columns, then its rows as arrays; and an end with the number of rows and the SHA-256 of all lines before. In rows, bytes are
//! `{"bytes": base64}` and numbers with a fraction `{"number": text}`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::documents::{SNAPSHOT_VERSION, next_version};
use super::engine::{MAINTENANCE, Tx, Value, values};
use super::{Database, Store, StoreError, conf, migrate, now_ms};

/// Of the format.
const FORMAT: u32 = 1;
/// Longest line that is read.
const MAX_LINE: u64 = 64 << 20;
/// Rows that are put in at once.
const ROWS: usize = 256;

/// Why there is no backup, or nothing was restored; in either case all is as before.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("{}: {source}; name a file that this user can read, or write", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is none, or not whole.
    #[error("{}, line {line}: {why}; nothing was restored", path.display())]
    Refused {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Instances are at work.
    #[error("{0} connections of running shoal-control use the database; stop them first")]
    InUse(u64),
}

/// What was written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    shoal_control_backup: u32,
    migrations: Vec<u32>,
    made_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    table: String,
    columns: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: bool,
    rows: u64,
    sha256: String,
}

impl Store {
    /// Writes all that the database has, as of one moment, to `file`, which is replaced when it is whole. Instances may be at work;
    /// the schema is left as it is.
    pub fn backup(config: &Database, state_dir: &Path, file: &Path) -> Result<Summary, BackupError> {
        let store = Self::existing(config, state_dir)?;
        let failed = |source| BackupError::File { path: file.to_owned(), source };
        let unfinished = file.with_added_extension("unfinished");
        let mut trouble = None;
        let written = store.report(|tx| {
            let mut write = || -> Result<Result<Summary, io::Error>, StoreError> {
                // Keys are in it: for this user only.
                let opened = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&unfinished);
                match opened {
                    Ok(opened) => dump(tx, opened),
                    Err(error) => Ok(Err(error)),
                }
            };
            match write()? {
                Ok(summary) => Ok(summary),
                Err(error) => {
                    let told = StoreError::io(&unfinished.display().to_string(), &error);
                    trouble = Some(error);
                    Err(told)
                }
            }
        });
        let summary = match (written, trouble) {
            (Ok(summary), _) => summary,
            (Err(error), trouble) => {
                // What is there of it helps nobody.
                let _ = std::fs::remove_file(&unfinished);
                return Err(trouble.map_or(BackupError::Store(error), failed));
            }
        };
        std::fs::rename(&unfinished, file).map_err(failed)?;
        Ok(summary)
    }

    /// Puts what `file` has in place of all that the database has, all or nothing; then brings it up to this release. No instance
    /// may be at work, and with SQLite the caller must hold the lock of `state_dir`.
    pub fn restore(config: &Database, state_dir: &Path, file: &Path) -> Result<Summary, BackupError> {
        let failed = |source| BackupError::File { path: file.to_owned(), source };
        let mut opened = File::open(file).map_err(failed)?;
        // All of it before anything is changed.
        let mut summary = Summary::default();
        let head = read(file, &mut opened, &mut |part| {
            match part {
                Part::Table(_) => summary.tables += 1,
                Part::Row(_) => summary.rows += 1,
            }
            Ok(())
        })?;
        let store = Self::existing(config, state_dir)?;
        store.engine.maintain(&mut |tx| {
            migrate::lock(tx)?;
            in_use(tx)?;
            let there = migrate::done(tx)?;
            for table in migrate::tables(&there).iter().rev() {
                tx.script(&format!("DROP TABLE {table}"))?;
            }
            tx.execute("DELETE FROM migrations", &[])?;
            let mut done = Vec::new();
            migrate::apply(tx, &mut done, &head.migrations)?;
            // What migrations put in is in the file, too, and may have changed since.
            for table in migrate::tables(&done).iter().rev() {
                tx.execute(&format!("DELETE FROM {table}"), &[])?;
            }
            let mut loader = Loader { head: String::new(), columns: 0, waiting: Vec::new() };
            opened.rewind().map_err(failed)?;
            read(file, &mut opened, &mut |part| loader.take(tx, part))?;
            loader.flush(tx)?;
            migrate::apply(tx, &mut done, &migrate::numbers())?;
            // Nodes and instances that saw later versions are told again.
            next_version(tx, SNAPSHOT_VERSION)?;
            next_version(tx, conf::VERSION)?;
            Ok::<_, BackupError>(())
        })?;
        Ok(summary)
    }
}

/// Refuses while other programs of ours are connected to a server.
fn in_use(tx: &mut Tx<'_>) -> Result<(), BackupError> {
    if !tx.is_postgres() {
        return Ok(());
    }
    let others = tx.query_one(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'shoal-control%' AND application_name <> $1",
        &values![MAINTENANCE],
    )?;
    match others.map_or(Ok(0), |row| row.get(0))? {
        0 => Ok(()),
        others => Err(BackupError::InUse(others)),
    }
}

/// Lines and what they add up to.
struct Lines<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.sum.update(&line);
        self.out.write_all(&line)
    }
}

/// The inner error is the file's.
fn dump(tx: &mut Tx<'_>, file: File) -> Result<io::Result<Summary>, StoreError> {
    if tx.is_postgres() {
        tx.execute("SET LOCAL statement_timeout = 0", &[])?;
    }
    let mut lines = Lines { out: BufWriter::new(file), sum: Sha256::new() };
    let migrations = migrate::done(tx)?;
    let tables = migrate::tables(&migrations);
    let mut summary = Summary::default();
    let mut trouble = lines.write(&Head { shoal_control_backup: FORMAT, migrations, made_ms: now_ms() });
    for table in tables {
        let columns = columns(tx, table)?;
        let sql = format!("SELECT {} FROM {table}", columns.join(", "));
        trouble = trouble.and_then(|()| lines.write(&Table { table: table.to_owned(), columns }));
        summary.tables += 1;
        tx.each(&sql, &[], |row| {
            if trouble.is_ok() {
                summary.rows += 1;
                trouble = lines.write(&row.into_values().into_iter().map(to_json).collect::<Vec<_>>());
            }
            Ok::<_, StoreError>(())
        })?;
        if trouble.is_err() {
            break;
        }
    }
    Ok(trouble.and_then(|()| {
        let sha256 = hex(lines.sum.clone());
        lines.write(&End { end: true, rows: summary.rows, sha256 })?;
        lines.out.flush()?;
        lines.out.get_ref().sync_all()?;
        Ok(summary)
    }))
}

fn columns(tx: &mut Tx<'_>, table: &str) -> Result<Vec<String>, StoreError> {
    let sql = if tx.is_postgres() {
        "SELECT CAST(column_name AS TEXT) FROM information_schema.columns
         WHERE CAST(table_schema AS TEXT) = CAST(current_schema() AS TEXT) AND CAST(table_name AS TEXT) = $1
         ORDER BY ordinal_position"
    } else {
        "SELECT name FROM pragma_table_info($1) ORDER BY cid"
    };
    tx.query(sql, &values![table])?.iter().map(|row| row.get(0)).collect()
}

enum Part<'a> {
    Table(&'a Table),
    Row(Vec<Value>),
}

/// Reads a whole file, and `each` part of it; or says what is wrong with it.
fn read(
    path: &Path,
    file: &mut File,
    each: &mut dyn FnMut(Part<'_>) -> Result<(), BackupError>,
) -> Result<Head, BackupError> {
    let failed = |source| BackupError::File { path: path.to_owned(), source };
    let refused = |line, why: String| BackupError::Refused { path: path.to_owned(), line, why };
    let mut input = BufReader::new(file);
    let (mut line, mut number) = (Vec::new(), 0);
    let (mut head, mut table): (Option<Head>, Option<Table>) = (None, None);
    let (mut sum, mut rows) = (Sha256::new(), 0);
    loop {
        line.clear();
        number += 1;
        let wrong = |why: String| refused(number, why);
        input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            return Err(wrong("the file ends early, or is no backup of shoal-control".to_owned()));
        }
        let Some(found) = &head else {
            let first: Head =
                serde_json::from_slice(&line).map_err(|_| wrong("this is no backup of shoal-control".to_owned()))?;
            let known = migrate::numbers();
            let unknown = first.migrations.iter().find(|number| !known.contains(number));
            if first.shoal_control_backup != FORMAT || unknown.is_some() {
                return Err(wrong("a later release wrote it; restore it with that one".to_owned()));
            }
            sum.update(&line);
            head = Some(first);
            continue;
        };
        if line.first() == Some(&b'[') {
            let cells: Vec<Json> = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
            let expected = table.as_ref().map_or(0, |table| table.columns.len());
            let values: Option<Vec<Value>> = cells.into_iter().map(from_json).collect();
            let values = values.filter(|values| values.len() == expected && expected > 0);
            each(Part::Row(values.ok_or_else(|| wrong("this is no row of its table".to_owned()))?))?;
            rows += 1;
        } else if let Ok(end) = serde_json::from_slice::<End>(&line) {
            if end.rows != rows || end.sha256 != hex(sum) {
                return Err(wrong("it is not as it was written: the sums differ".to_owned()));
            }
            if !input.fill_buf().map_err(failed)?.is_empty() {
                return Err(refused(number + 1, "something follows the end".to_owned()));
            }
            return head.ok_or_else(|| wrong("this is no backup of shoal-control".to_owned()));
        } else {
            let next: Table = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
            let name = |text: &String| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            };
            if !migrate::tables(&found.migrations).contains(&&*next.table) || !next.columns.iter().all(name) {
                return Err(wrong(format!("there is no table {:?}", next.table)));
            }
            each(Part::Table(&next))?;
            table = Some(next);
        }
        sum.update(&line);
    }
}

/// Puts rows in, many at once.
struct Loader {
    head: String,
    columns: usize,
    waiting: Vec<Value>,
}

impl Loader {
    fn take(&mut self, tx: &mut Tx<'_>, part: Part<'_>) -> Result<(), BackupError> {
        match part {
            Part::Table(table) => {
                self.flush(tx)?;
                self.head = format!("INSERT INTO {} ({}) VALUES", table.table, table.columns.join(", "));
                self.columns = table.columns.len();
            }
            Part::Row(values) => {
                self.waiting.extend(values);
                if self.waiting.len() >= ROWS * self.columns {
                    self.flush(tx)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, tx: &mut Tx<'_>) -> Result<(), BackupError> {
        tx.batch(&self.head, self.columns, "", &self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

fn to_json(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Int(number) => number.into(),
        Value::Text(text) => text.into(),
        // As text: all of them come back as they were, infinities too.
        Value::Float(number) => json!({"number": number.to_string()}),
        Value::Bytes(bytes) => json!({"bytes": STANDARD.encode(bytes)}),
    }
}

fn from_json(json: Json) -> Option<Value> {
    match json {
        Json::Null => Some(Value::Null),
        Json::Number(number) => number.as_i64().map(Value::Int),
        Json::String(text) => Some(text.into()),
        Json::Object(object) => match (object.get("number"), object.get("bytes")) {
            (Some(Json::String(number)), None) => number.parse().ok().map(Value::Float),
            (None, Some(Json::String(bytes))) => STANDARD.decode(bytes).ok().map(Value::Bytes),
            _ => None,
        },
        _ => None,
    }
}

fn hex(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_through_json() {
        for value in values![
            None::<i64>,
            i64::MIN,
            u64::MAX,
            "a\n\"",
            "",
            0.1,
            f64::INFINITY,
            -0.0,
            1e300,
            vec![0_u8, 255],
            Vec::<u8>::new()
        ] {
            let line = serde_json::to_string(&to_json(value.clone())).unwrap();
            assert_eq!(from_json(serde_json::from_str(&line).unwrap()), Some(value), "{line}");
        }
        for text in
            ["true", "1.5", "1e3", "18446744073709551615", "[]", "{}", "{\"bytes\":\"*\"}", "{\"number\":\"x\"}"]
        {
            assert_eq!(from_json(serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}
