//! Replays the committed corpus of the fuzz target, and seeded mutations of it, without a fuzzer.

use std::fs;
use std::path::Path;

use shoal_frame::fuzzing;

/// Mutations tried on each run.
const MUTATIONS: u64 = 20_000;

#[test]
fn frame() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/frame");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 16, "{} has {} files; a corpus is more than that", folder.display(), files.len());
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a corpus file can be read")).collect();
    let understood = seeds.iter().filter(|seed| shoal_frame::parse(seed).is_ok()).count();
    assert!(understood >= 6, "{understood} of the corpus are frames");
    for (seed, file) in seeds.iter().zip(&files) {
        println!("{}", file.display());
        fuzzing::frame(seed);
    }
    let mut random = Random(1);
    for number in 0..MUTATIONS {
        println!("mutation {number}");
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() + 1);
            match random.below(4) {
                0 => bytes.insert(at, random.next() as u8),
                1 => bytes.truncate(at),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            }
        }
        fuzzing::frame(&bytes);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}
