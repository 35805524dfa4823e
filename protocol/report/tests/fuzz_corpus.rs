//! Replays the committed corpus of the fuzz targets, and seeded mutations of it, without a fuzzer.

use std::fs;
use std::path::Path;

use shoal_report::fuzzing;

/// Mutations of each file.
const MUTATIONS: u64 = 400;

/// A target, and what it is given between the bytes of its corpus.
const PIECES: &[&[u8]] = &[
    b"\"",
    b",",
    b"=",
    b"(",
    b")",
    b";",
    b"?1",
    b"\\",
    b"%",
    b"-",
    b".",
    b"9",
    b"\n",
    b" ",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"1e9",
    b"\xff",
    b"sid",
    b"seq",
    b"$uri",
    b"#Fields: ",
    b"\t",
    b"18446744073709551616",
];

fn replay(target: &str, run: fn(&[u8]) -> bool, understood_at_least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("a corpus file can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{} has {} files; a corpus is more than that", folder.display(), files.len());
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a corpus file can be read")).collect();
    let understood = seeds.iter().filter(|seed| run(seed)).count();
    assert!(understood >= understood_at_least, "{understood} of {target} are understood");
    // splitmix64, so that the run is the same everywhere.
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) as usize % below
    };
    for seed in &seeds {
        for _ in 0..MUTATIONS {
            let mut bytes = seed.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len() + 1);
                let end = (at + random(4)).min(bytes.len());
                bytes.splice(at..end, PIECES[random(PIECES.len())].iter().copied());
            }
            run(&bytes);
        }
    }
}

#[test]
fn report_batch() {
    replay("report_batch", fuzzing::report_batch, 5);
}

#[test]
fn cmcd() {
    replay("cmcd", fuzzing::cmcd, 6);
}

#[test]
fn cmcd_events() {
    replay("cmcd_events", fuzzing::cmcd_events, 5);
}

#[test]
fn cdn_log() {
    replay("cdn_log", fuzzing::cdn_log, 8);
}
