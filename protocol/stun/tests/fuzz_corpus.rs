//! Replays the committed corpus of the fuzz targets, and seeded mutations of it, without a fuzzer.

use std::{fs, panic, path::Path};

use shoal_stun::fuzzing::{self, Random};

/// Mutations per target; a second or two in a debug build.
const MUTATIONS: u64 = 4_000;

#[test]
fn datagrams() {
    replay("stun_datagram", fuzzing::datagram);
}

#[test]
fn operations() {
    replay("turn_operations", fuzzing::operations);
}

#[test]
fn punch_operations() {
    replay("punch_operations", fuzzing::punch::operations);
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
        let mut random = Random::new(number);
        run(check, &mutate(&seeds, &mut random), &format!("mutation {number} of {target}"));
    }
}

/// Says which input broke a property before the panic goes on.
fn run(check: fn(&[u8]), input: &[u8], name: &str) {
    if let Err(panic) = panic::catch_unwind(|| check(input)) {
        eprintln!("{name}: {input:02x?}");
        panic::resume_unwind(panic);
    }
}

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| seeds[random.below(seeds.len() as u64) as usize].clone();
    let mut bytes = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = random.bits() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let end = (at + random.below(32) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                // As datagrams go, the header's length is worth being right.
                let length = (bytes.len().saturating_sub(20) as u16).to_be_bytes();
                bytes.iter_mut().skip(2).zip(length).for_each(|(place, byte)| *place = byte);
            }
        }
    }
    bytes
}
