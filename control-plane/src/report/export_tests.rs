//! Files are read back, by the same library and, where it is there, by another one.

use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use shoal_report::Provider;

use super::*;
use crate::report::entry::Source;
use crate::report::metrics::Metrics;
use crate::report::spool::tests::{Folder, LIMITS};
use crate::report::spool::{Limits, identify};

fn entry(number: u64) -> Entry {
    let report = |seq: u64| Report {
        seq,
        at_ms: 1_700_000_000_000 + seq,
        event: "interval".into(),
        edge_bytes: number * 1000 + seq,
        first_frame_ms: (seq == 1).then_some(800),
        direct: vec![Provider { name: "cdn \"a\"".into(), bytes: 7 }],
        direct_bytes: 7,
        unknown: if seq == 2 { "{\"mood\":\"good\"}".into() } else { String::new() },
        platform: if seq == 2 { "tv".into() } else { String::new() },
        ..Report::default()
    };
    Entry {
        received_ms: 1_700_000_000_000 + number,
        source: Source::Sdk,
        tenant: "acme".into(),
        channel: "room".into(),
        session: format!("s{number}").into(),
        platform: "html5".into(),
        reports: vec![report(1), report(2)],
        ..Entry::default()
    }
}

#[test]
fn a_segment_becomes_one_file_that_others_can_read_and_replaces_itself() {
    let folder = Folder::new();
    let dir = folder.path().join("spool");
    let id = identify(&dir).unwrap();
    let limits = Limits { segment_bytes: 2000, ..LIMITS };
    let spool =
        Spool::open(&dir, id, 0, limits, Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for number in 0..30 {
        runtime.block_on(spool.append(entry(number).encode().unwrap())).unwrap();
    }
    let parquet = folder.path().join("parquet");
    let finished = spool.finished();
    assert!(finished.len() > 1, "{finished:?}");
    let (mut rows, mut bytes) = (0, 0);
    for (number, _) in finished {
        let path = export(&spool, number, &parquet).unwrap().unwrap();
        assert!(path.starts_with(parquet.join("date=2023-11-14/hour=22")), "{}", path.display());
        let first = fs::read(&path).unwrap();
        // A kill in the middle left something behind: it is written over.
        fs::write(path.with_extension("writing"), b"half").unwrap();
        assert_eq!(export(&spool, number, &parquet).unwrap().unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), first, "the same segment is the same file");
        assert!(!path.with_extension("writing").exists());
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let column = |name: &str| row.get_column_iter().position(|(column, _)| column == name).unwrap();
            let (session, seq) = (row.get_string(column("session")).unwrap(), row.get_long(column("seq")).unwrap());
            assert_eq!(session, &format!("s{}", rows / 2));
            assert_eq!(row.get_string(column("tenant")).unwrap(), "acme");
            assert_eq!(row.get_string(column("platform")).unwrap(), if seq == 2 { "tv" } else { "html5" });
            assert_eq!(row.get_string(column("direct")).unwrap(), "{\"cdn \\\"a\\\"\":7}");
            assert_eq!(row.get_string(column("unknown")).is_ok(), seq == 2);
            assert_eq!(row.get_long(column("first_frame_ms")).ok(), (seq == 1).then_some(800));
            bytes += row.get_long(column("edge_bytes")).unwrap();
            rows += 1;
        }
    }
    assert!(rows > 20 && rows % 2 == 0);
    pyarrow(&parquet, rows, bytes);
}

/// What pyarrow reads of all files together; skipped, and said, where it is not installed.
fn pyarrow(dir: &Path, rows: u64, bytes: i64) {
    let script = "import sys, pyarrow.parquet as q\nt = q.read_table(sys.argv[1])\nprint(t.num_rows, sum(t['edge_bytes'].to_pylist()), t.schema.field('received').type, set(t['hour'].to_pylist()))";
    let output = Command::new("python3").arg("-c").arg(script).arg(dir).output();
    match output {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.trim(), format!("{rows} {bytes} timestamp[ms, tz=UTC] {{22}}"));
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("No module named") => {
            println!("pyarrow is not there: the files were not read by it");
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("python3 is not there ({error}): the files were not read by pyarrow"),
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (ms, date, hour) in [
        (0, "1970-01-01", 0),
        (951_782_400_000, "2000-02-29", 0),
        (1_700_000_000_000, "2023-11-14", 22),
        (4_102_444_799_999, "2099-12-31", 23),
        (4_107_542_400_000, "2100-03-01", 0),
    ] {
        assert_eq!(date_and_hour(ms), (date.to_owned(), hour));
    }
}

#[test]
fn files_of_days_before_are_deleted_and_nothing_else() {
    const DAY: u64 = 86_400_000;
    let folder = Folder::new();
    let dir = folder.path().join("parquet");
    assert_eq!(forget(&dir, DAY).unwrap(), 0, "there is none yet");
    let names = [
        "date=2023-11-13/hour=23/a-1.parquet",
        "date=2023-11-14/hour=00/a-2.parquet",
        "date=2023-11-15/hour=22/a-3.parquet",
    ];
    let others = ["date=2023-11-13/hour=23/notes.txt", "date=old/hour=1/a.parquet", "other/hour=1/a.parquet"];
    for name in names.iter().chain(&others) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    fs::write(dir.join("date=2023-11-14/hour=00/b-1.writing"), b"").unwrap();
    // The 15th, at 22:13.
    assert_eq!(forget(&dir, 1_700_000_000_000 + DAY).unwrap(), 3);
    let left: Vec<&str> = names.into_iter().chain(others).filter(|name| dir.join(name).exists()).collect();
    assert_eq!(left, [names[2], others[0], others[1], others[2]]);
    assert!(!dir.join("date=2023-11-14").exists(), "empty folders go too");
}
