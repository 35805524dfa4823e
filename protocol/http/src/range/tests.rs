use super::*;

fn parse(text: &str) -> Option<RangeSet> {
    RangeSet::parse(text.as_bytes(), 16).unwrap()
}

fn resolve(text: &str, total: u64) -> Resolved {
    parse(text).unwrap_or_else(|| panic!("{text} is valid")).resolve(total)
}

fn single(first: u64, last: u64) -> Resolved {
    Resolved::Single(ByteRange { first, last })
}

fn multiple(ranges: &[(u64, u64)]) -> Resolved {
    Resolved::Multiple(ranges.iter().map(|&(first, last)| ByteRange { first, last }).collect())
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 9110 section 14.1.2, of a representation of 10000 bytes.
    assert_eq!(resolve("bytes=0-499", 10_000), single(0, 499));
    assert_eq!(resolve("bytes=500-999", 10_000), single(500, 999));
    assert_eq!(resolve("bytes=-500", 10_000), single(9500, 9999));
    assert_eq!(resolve("bytes=9500-", 10_000), single(9500, 9999));
    assert_eq!(resolve("bytes=0-0,-1", 10_000), multiple(&[(0, 0), (9999, 9999)]));
    assert_eq!(resolve("bytes= 0-999, 4500-5499, -1000", 10_000), multiple(&[(0, 999), (4500, 5499), (9000, 9999)]));
    // Two ways to ask for the second 500 bytes.
    assert_eq!(resolve("bytes=500-600,601-999", 10_000), single(500, 999));
    assert_eq!(resolve("bytes=500-700,601-999", 10_000), single(500, 999));
}

#[test]
fn ends_of_the_representation() {
    assert_eq!(resolve("bytes=0-", 1), single(0, 0));
    assert_eq!(resolve("bytes=0-99999999999999999999999", 10), single(0, 9));
    assert_eq!(resolve("bytes=-99999999999999999999999", 10), single(0, 9));
    assert_eq!(resolve("bytes=9-9", 10), single(9, 9));
    assert_eq!(resolve("bytes=10-", 10), Resolved::Unsatisfiable);
    assert_eq!(resolve("bytes=10-20,99999999999999999999999-", 10), Resolved::Unsatisfiable);
    assert_eq!(resolve("bytes=-0", 10), Resolved::Unsatisfiable);
    assert_eq!(resolve("bytes=-0,0-0", 10), single(0, 0));
    assert_eq!(resolve("bytes=0-0", 0), Resolved::Unsatisfiable);
    assert_eq!(resolve("bytes=-5", 0), Resolved::Full);
    assert_eq!(resolve("bytes=-0", 0), Resolved::Unsatisfiable);
    assert_eq!(resolve("bytes=0-,-1", u64::MAX), single(0, u64::MAX - 1));
    assert_eq!(resolve("bytes=18446744073709551615-", u64::MAX), Resolved::Unsatisfiable);
}

#[test]
fn what_is_ignored() {
    for text in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=5",
        "bytes=5-4",
        "bytes=1-2,5-4",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=1- 2",
        "bytes =0-1",
        "items=0-1",
        "bytes:0-1",
        "bytes=0x1-2",
        "bytes=1-2;3-4",
    ] {
        assert_eq!(parse(text), None, "{text:?}");
    }
    assert!(parse("BYTES=0-1").is_some());
    assert!(parse("bytes=,, 0-1 ,\t, 2-3,").is_some());
}

#[test]
fn too_many_is_an_error() {
    let set = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
    assert!(RangeSet::parse(set(16).as_bytes(), 16).unwrap().is_some());
    assert_eq!(RangeSet::parse(set(17).as_bytes(), 16), Err(RangeError::TooMany { max: 16 }));
    assert_eq!(RangeSet::parse(set(2).as_bytes(), 1), Err(RangeError::TooMany { max: 1 }));
    // A single range is always allowed, and junk is ignored rather than an error.
    assert!(RangeSet::parse(set(1).as_bytes(), 0).unwrap().is_some());
    assert_eq!(RangeSet::parse(b"bytes=0-0,x", 1), Ok(None));
}

#[test]
fn sets_are_coalesced_and_bounded() {
    // Apache killer: all overlap.
    assert_eq!(resolve("bytes=0-,5-0005,5-5,5-6,5-7", 100_000), single(0, 99_999));
    // Gaps below the cost of a part are closed, wide ones are not.
    assert_eq!(resolve("bytes=0-9,20-29", 1000), single(0, 29));
    assert_eq!(resolve("bytes=0-9,89-99", 1000), single(0, 99));
    assert_eq!(resolve("bytes=0-9,90-99", 1000), multiple(&[(0, 9), (90, 99)]));
    // A few disjoint ranges keep the client's order, overlapping or many ones are sorted.
    assert_eq!(resolve("bytes=500-599,0-99", 1000), multiple(&[(500, 599), (0, 99)]));
    assert_eq!(resolve("bytes=500-599,0-99,550-650", 1000), multiple(&[(0, 99), (500, 650)]));
    let backwards: Vec<_> = (0..12u64).rev().map(|i| format!("{}-{}", i * 1000, i * 1000)).collect();
    let Resolved::Multiple(ranges) = resolve(&format!("bytes={}", backwards.join(",")), 100_000) else { panic!() };
    assert!(ranges.len() == 12 && ranges.is_sorted_by_key(|range| range.first));
    // Those that cannot be satisfied are left out.
    assert_eq!(resolve("bytes=500-599,2000-", 1000), single(500, 599));
}

#[test]
fn random_sets_keep_every_byte_asked_for() {
    let mut random = crate::fuzzing::Random::new(7);
    let mut outcomes = [0; 4];
    for _ in 0..20_000 {
        let total = random.below(3000);
        let count = 1 + random.below(12);
        let specs: Vec<String> = (0..count)
            .map(|_| {
                let (a, b) = (random.below(3200), random.below(400));
                match random.below(4) {
                    0 => format!("-{b}"),
                    1 => format!("{a}-"),
                    _ => format!("{a}-{}", a + b),
                }
            })
            .collect();
        let set = parse(&format!("bytes={}", specs.join(","))).unwrap();
        let mut asked = vec![false; total as usize];
        for range in set.specs().filter_map(|spec| spec.resolve(total)) {
            asked[range.first as usize..=range.last as usize].fill(true);
        }
        let resolved = set.resolve(total);
        let ranges = match &resolved {
            Resolved::Full => vec![],
            Resolved::Single(range) => vec![*range],
            Resolved::Multiple(ranges) => ranges.clone(),
            Resolved::Unsatisfiable => vec![],
        };
        outcomes[match resolved {
            Resolved::Full => 0,
            Resolved::Single(_) => 1,
            Resolved::Multiple(_) => 2,
            Resolved::Unsatisfiable => 3,
        }] += 1;
        let mut sent = vec![false; total as usize];
        for range in ranges {
            for byte in &mut sent[range.first as usize..=range.last as usize] {
                assert!(!std::mem::replace(byte, true), "a byte is sent twice");
            }
        }
        for (at, (asked, sent)) in asked.iter().zip(&sent).enumerate() {
            assert!(!asked || *sent, "byte {at} of {total} is missing: {specs:?}");
        }
    }
    assert!(outcomes[1..].iter().all(|count| *count > 300), "{outcomes:?}");
}
