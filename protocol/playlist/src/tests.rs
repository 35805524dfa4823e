use std::time::{Duration, Instant};

use crate::{MAX_BODY, fuzzing};

/// Repeats `unit` up to the greatest body, behind `begin`.
fn filled(begin: &str, unit: &str) -> Vec<u8> {
    let mut body = begin.as_bytes().to_vec();
    while body.len() + unit.len() <= MAX_BODY {
        body.extend_from_slice(unit.as_bytes());
    }
    body
}

#[test]
fn time_is_linear() {
    // Each would take hours if something were searched for again from each place.
    let start = Instant::now();
    for (begin, unit) in [
        ("#EXTM3U\n#EXT-X-A:", "="),
        ("#EXTM3U\n#EXT-X-A:", ","),
        ("#EXTM3U\n#EXT-X-A:", "URI=\""),
        ("#EXTM3U\n#EXT-X-A:", "URI=\"\","),
        ("#EXTM3U\n", "?&"),
        ("#EXTM3U\n", "/"),
        ("#EXTM3U\n", "#EXT-X-A\n"),
        ("<MPD>", "<!--"),
        ("<MPD>", "<![CDATA["),
        ("<MPD>", "<?"),
        ("<MPD>", "<a "),
        ("<MPD>", "<"),
        ("<MPD>", "<a '>"),
        ("<MPD>", "</"),
        ("<MPD>", "<!"),
        ("<MPD><BaseURL>", "&"),
        ("<MPD><SegmentURL ", "media='&amp;' "),
        ("<MPD>", "<BaseURL>a<BaseURL>"),
    ] {
        fuzzing::playlist(&filled(begin, unit));
    }
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(60), "{taken:?}");
}

#[test]
fn corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/playlist");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        fuzzing::playlist(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 10, "{count} files in {folder}");
}

#[test]
fn mutated_corpus() {
    // splitmix64, so that the run is the same everywhere.
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) as usize % below
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/playlist");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let bodies: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    const PIECES: &[&[u8]] =
        &[b"<", b">", b"\"", b"'", b"&", b"?", b"#", b"=", b"ticket=", b"/", b"\n", b"&amp;", b";", b":"];
    for round in 0..ROUNDS {
        let mut body = bodies[round % bodies.len()].clone();
        for _ in 0..=random(4) {
            let at = random(body.len() + 1);
            let end = (at + random(4)).min(body.len());
            body.splice(at..end, PIECES[random(PIECES.len())].iter().copied());
        }
        fuzzing::playlist(&body);
    }
}

/// Mutations tried on each run.
const ROUNDS: usize = 20_000;
