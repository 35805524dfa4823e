//! Raw reports as Parquet: each finished segment of the spool becomes one file under `date=…/hour=…` of its first report.
//!
//! A file holds what was acknowledged, so a report that was sent again is in it again; `tenant`, `channel`, `session`, `stream`
//! and `seq` tell. It is there whole or not at all, and written again after a kill it replaces itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;
use shoal_report::Report;

use super::entry::Entry;
use super::spool::{Position, Spool};

/// Reports of a row group; what is in memory at a time.
const ROW_GROUP: usize = 50_000;
/// Bytes of the spool read at a time.
const READ: usize = 4 << 20;

/// The columns. Times are Unix milliseconds, UTC.
const SCHEMA: &str = "message report {
    required int64 received (TIMESTAMP(MILLIS, true));
    required int64 at (TIMESTAMP(MILLIS, true));
    required binary source (STRING);
    required binary tenant (STRING);
    required binary app (STRING);
    required binary channel (STRING);
    required binary session (STRING);
    required binary stream (STRING);
    required int64 seq;
    required binary event (STRING);
    required binary region (STRING);
    required binary isp (STRING);
    required binary platform (STRING);
    required binary sdk (STRING);
    required binary asset (STRING);
    required int64 edge_bytes;
    required int64 direct_bytes;
    required binary direct (JSON);
    required int64 p2p_in_bytes;
    required int64 p2p_out_bytes;
    required int64 connections;
    required int64 connection_failures;
    required int64 stalls;
    required int64 stall_ms;
    required int64 errors;
    optional int64 first_frame_ms;
    required int64 playing_ms;
    optional binary unknown (JSON);
    optional binary unknown_batch (JSON);
}";

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The disk.
    #[error("{}: {source}; reports.parquet_dir must be writable and have room", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The format.
    #[error("a Parquet file cannot be written: {0}")]
    Parquet(#[from] ParquetError),
}

/// Writes segment `number` of `spool` below `dir`; where it is then. None: it has no report.
pub(super) fn export(spool: &Spool, number: u64, dir: &Path) -> Result<Option<PathBuf>, ExportError> {
    let mut position = Position { segment: number, offset: 0 };
    let mut rows = Rows { entries: Vec::new(), reports: 0 };
    let mut writer: Option<(SerializedFileWriter<File>, PathBuf, PathBuf)> = None;
    loop {
        let failed = |source| ExportError::Io { path: dir.to_owned(), source };
        let chunk = spool.read(position, READ).map_err(failed)?;
        let ours = !chunk.is_empty() && chunk.next.segment == number;
        if ours {
            position = chunk.next;
            chunk.records().filter_map(Entry::decode).for_each(|entry| rows.add(entry));
        }
        if rows.reports >= ROW_GROUP || !ours && rows.reports > 0 {
            let first = rows.entries.first().map_or(0, |entry| entry.received_ms);
            let (file, ..) = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(create(spool.id(), number, first, dir)?),
            };
            let mut group = file.next_row_group()?;
            rows.write(&mut group)?;
            group.close()?;
            rows = Rows { entries: Vec::new(), reports: 0 };
        }
        if !ours {
            break;
        }
    }
    let Some((writer, temporary, path)) = writer else { return Ok(None) };
    let file = writer.into_inner()?;
    let failed = |source| ExportError::Io { path: path.clone(), source };
    file.sync_all().and_then(|()| fs::rename(&temporary, &path)).map_err(failed)?;
    path.parent().map_or(Ok(()), super::spool::sync_dir).map_err(failed)?;
    Ok(Some(path))
}

/// Deletes the files of all days before that of `before_ms`, and their folders where nothing else is in them. How many files.
/// What another instance that shares the folder has deleted meanwhile is an error, and no harm: the next turn goes on.
pub(super) fn forget(dir: &Path, before_ms: u64) -> io::Result<u64> {
    let (oldest, _) = date_and_hour(before_ms);
    let oldest = format!("date={oldest}");
    let mut deleted = 0;
    if !dir.exists() {
        return Ok(0);
    }
    for day in folders(dir, "date=")? {
        // Dates of one length are in the order of their bytes.
        if day.file_name().is_none_or(|name| name.len() != oldest.len() || *name >= *oldest) {
            continue;
        }
        for hour in folders(&day, "hour=")? {
            for file in fs::read_dir(&hour)? {
                let file = file?.path();
                if file.extension().is_some_and(|ending| ending == "parquet" || ending == "writing") {
                    fs::remove_file(file)?;
                    deleted += 1;
                }
            }
            remove_empty(&hour)?;
        }
        remove_empty(&day)?;
    }
    Ok(deleted)
}

fn folders(dir: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn create(
    instance: &str,
    number: u64,
    first_ms: u64,
    dir: &Path,
) -> Result<(SerializedFileWriter<File>, PathBuf, PathBuf), ExportError> {
    static PARSED: LazyLock<Result<TypePtr, String>> =
        LazyLock::new(|| parse_message_type(SCHEMA).map(Arc::new).map_err(|error| error.to_string()));
    let schema = PARSED.as_ref().map_err(|error| ParquetError::General(error.clone()))?;
    let (date, hour) = date_and_hour(first_ms);
    let folder = dir.join(format!("date={date}")).join(format!("hour={hour:02}"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    };
    super::spool::create_dir(&folder).map_err(failed(&folder))?;
    let path = folder.join(format!("{instance}-{number:020}.parquet"));
    let temporary = path.with_extension("writing");
    let file = File::create(&temporary).map_err(failed(&temporary))?;
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    Ok((SerializedFileWriter::new(file, Arc::clone(schema), properties)?, temporary, path))
}

struct Rows {
    entries: Vec<Entry>,
    reports: usize,
}

impl Rows {
    fn add(&mut self, entry: Entry) {
        self.reports += entry.reports.len();
        self.entries.push(entry);
    }

    fn each(&self) -> impl Iterator<Item = (&Entry, &Report)> {
        self.entries.iter().flat_map(|entry| entry.reports.iter().map(move |report| (entry, report)))
    }

    /// One column after the other, in the order of the schema.
    fn write<W: io::Write + Send>(&self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        self.numbers(group, |entry, _| entry.received_ms)?;
        self.numbers(group, |_, report| report.at_ms)?;
        self.texts(group, |entry, _| entry.source.name())?;
        self.texts(group, |entry, _| &entry.tenant)?;
        self.texts(group, |entry, _| &entry.app)?;
        self.texts(group, |entry, _| &entry.channel)?;
        self.texts(group, |entry, _| &entry.session)?;
        self.texts(group, |entry, _| &entry.stream)?;
        self.numbers(group, |_, report| report.seq)?;
        self.texts(group, |_, report| &report.event)?;
        self.texts(group, |entry, _| &entry.region)?;
        self.texts(group, |entry, _| &entry.isp)?;
        self.texts(group, |entry, report| Entry::own(&report.platform, &entry.platform))?;
        self.texts(group, |entry, report| Entry::own(&report.sdk, &entry.sdk))?;
        self.texts(group, |entry, report| Entry::own(&report.asset, &entry.asset))?;
        self.numbers(group, |_, report| report.edge_bytes)?;
        self.numbers(group, |_, report| report.direct_bytes)?;
        let direct: Vec<ByteArray> = self.each().map(|(_, report)| providers(report).into_bytes().into()).collect();
        texts(group, &direct, None)?;
        self.numbers(group, |_, report| report.p2p_in_bytes)?;
        self.numbers(group, |_, report| report.p2p_out_bytes)?;
        self.numbers(group, |_, report| report.connections)?;
        self.numbers(group, |_, report| report.connection_failures)?;
        self.numbers(group, |_, report| report.stalls)?;
        self.numbers(group, |_, report| report.stall_ms)?;
        self.numbers(group, |_, report| report.errors)?;
        let levels: Vec<i16> = self.each().map(|(_, report)| report.first_frame_ms.is_some().into()).collect();
        let first: Vec<i64> =
            self.each().filter_map(|(_, report)| report.first_frame_ms.map(u64::cast_signed)).collect();
        numbers(group, &first, Some(&levels))?;
        self.numbers(group, |_, report| report.playing_ms)?;
        self.json(group, |_, report| &report.unknown)?;
        self.json(group, |entry, _| &entry.unknown)
    }

    fn numbers<W: io::Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        value: impl Fn(&Entry, &Report) -> u64,
    ) -> Result<(), ParquetError> {
        let values: Vec<i64> = self.each().map(|(entry, report)| value(entry, report).cast_signed()).collect();
        numbers(group, &values, None)
    }

    fn texts<W: io::Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        value: impl for<'a> Fn(&'a Entry, &'a Report) -> &'a str,
    ) -> Result<(), ParquetError> {
        let values: Vec<ByteArray> = self.each().map(|(entry, report)| value(entry, report).into()).collect();
        texts(group, &values, None)
    }

    /// Empty is null.
    fn json<W: io::Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        value: impl for<'a> Fn(&'a Entry, &'a Report) -> &'a str,
    ) -> Result<(), ParquetError> {
        let all = || self.each().map(|(entry, report)| value(entry, report));
        let levels: Vec<i16> = all().map(|text| i16::from(!text.is_empty())).collect();
        let values: Vec<ByteArray> = all().filter(|text| !text.is_empty()).map(ByteArray::from).collect();
        texts(group, &values, Some(&levels))
    }
}

fn numbers<W: io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[i64],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(too_many)?;
    column.typed::<Int64Type>().write_batch(values, levels, None)?;
    column.close()
}

fn texts<W: io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[ByteArray],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(too_many)?;
    column.typed::<ByteArrayType>().write_batch(values, levels, None)?;
    column.close()
}

fn too_many() -> ParquetError {
    ParquetError::General("more columns are written than the schema has; this is a defect of this release".to_owned())
}

fn providers(report: &Report) -> String {
    let direct = report.direct.iter().map(|provider| (provider.name.clone(), provider.bytes.into()));
    serde_json::Value::Object(direct.collect()).to_string()
}

/// Date (as in `2026-11-27`) and hour of a time in UTC, by the proleptic Gregorian calendar (days to civil, as in
/// Hinnant's "chrono-compatible low-level date algorithms").
fn date_and_hour(unix_ms: u64) -> (String, u64) {
    let (days, hour) = (unix_ms / 86_400_000, unix_ms / 3_600_000 % 24);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (format!("{year:04}-{month:02}-{day:02}"), hour)
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
