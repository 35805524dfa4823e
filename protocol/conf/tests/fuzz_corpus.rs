//! Replays the committed corpus of the fuzz target, and seeded mutations of it, without a fuzzer.

use std::fs;
use std::path::Path;

use shoal_conf::fuzzing::{Random, conf};

/// Mutations tried on each run.
const MUTATIONS: u64 = 20_000;

#[test]
fn conf_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/conf");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 24, "{} has {} files; a corpus is more than that", folder.display(), files.len());
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a corpus file can be read")).collect();
    for (seed, file) in seeds.iter().zip(&files) {
        println!("{}", file.display());
        conf(seed);
    }
    let mut random = Random::new(1);
    for number in 0..MUTATIONS {
        println!("mutation {number}");
        let mut bytes = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64 + 1) as usize;
            match random.below(4) {
                0 => bytes.insert(at, random.below(256) as u8),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"*.\n=-"[random.below(5) as usize]),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            }
        }
        conf(&bytes);
    }
}
