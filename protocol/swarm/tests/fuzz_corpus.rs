//! Replays the committed corpus of the fuzz targets, and seeded mutations of it, without a fuzzer.

use std::{fs, panic, path::Path};

use shoal_swarm::fuzzing;

/// Mutations per target; a second or two in a debug build.
const MUTATIONS: u64 = 6_000;

#[test]
fn announce_query() {
    replay("announce_query", fuzzing::announce_query);
}

#[test]
fn web_message() {
    replay("web_message", fuzzing::web_message);
}

#[test]
fn json_announce() {
    replay("json_announce", fuzzing::json_announce);
}

#[test]
fn replica_batch() {
    replay("replica_batch", fuzzing::replica_batch);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 24, "{} has {} files; a corpus is more than that", folder.display(), files.len());
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a corpus file can be read")).collect();
    for (seed, file) in seeds.iter().zip(&files) {
        run(check, seed, &file.display().to_string());
    }
    for number in 0..MUTATIONS {
        run(check, &mutate(&seeds, &mut Random(number)), &format!("mutation {number} of {target}"));
    }
}

/// Says which input broke a property before the panic goes on.
fn run(check: fn(&[u8]), input: &[u8], name: &str) {
    if let Err(panic) = panic::catch_unwind(|| check(input)) {
        eprintln!("{name}: {}", input.escape_ascii());
        panic::resume_unwind(panic);
    }
}

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = b"&=%0aZ\"\\{}[]:,.-+e"[random.below(18)],
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(7),
            2 => bytes.truncate(at),
            3 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            4 => {
                let end = (at + random.below(32)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.insert(at, b"\x00\x7f09af%\""[random.below(8)]),
        }
    }
    bytes
}
