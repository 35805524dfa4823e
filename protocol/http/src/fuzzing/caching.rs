use crate::{
    cache_control::{CacheControl, parse_age},
    caching::{Defaults, Facts, Vary, field, merge_lines, normal_value, parse_targeted, tags},
};

/// Header lines of a stored response; those of a newer one behind an empty line.
pub fn caching(bytes: &[u8]) {
    let split = bytes.windows(2).position(|pair| pair == b"\n\n").map_or(bytes.len(), |at| at + 1);
    let (stored, newer) = bytes.split_at(split);
    let merged = merge_lines(stored, newer).into_owned();
    assert_eq!(&*merge_lines(&merged, newer), merged, "once is enough");

    for name in ["vary", "accept-encoding", "x-any"] {
        if let Some(value) = normal_value(name, field(stored, name)) {
            assert_eq!(normal_value(name, [&*value]), Some(value), "a normal value is a fixed point");
        }
    }
    if let Vary::On(names) = Vary::parse(field(stored, "vary")) {
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
        let text = names.join(",");
        assert_eq!(Vary::parse([text.as_bytes()]), Vary::On(names));
    }
    let read = tags(field(stored, "surrogate-key"), field(stored, "cache-tag"));
    assert_eq!(tags([read.as_bytes()], []), read);

    let targeted = parse_targeted(field(stored, "cdn-cache-control"));
    let control = targeted.unwrap_or_else(|| CacheControl::parse(field(stored, "cache-control")));
    let age = field(stored, "age").next().and_then(parse_age).unwrap_or(0);
    assert!(age <= 1 << 31);
    let facts = Facts {
        status: 200,
        control: &control,
        expires: field(stored, "expires").next(),
        date: 1_000_000,
        last_modified: field(stored, "last-modified").next().and_then(crate::date::parse),
    };
    let lifetime_ms = facts.lifetime_ms(&Defaults { lifetime_ms: 5_000, heuristic_max_ms: 60_000 });
    let stale = facts.staleness();
    if control.no_cache {
        assert_eq!((lifetime_ms, stale.while_revalidate_ms, stale.if_error_ms), (0, 0, Some(0)));
    }
    if control.private || (control.no_store && !control.must_understand) {
        assert!(facts.barred(false).is_some());
    }
    assert!(facts.barred(false).is_none() || facts.barred(true).is_some(), "authorization opens no door");
}
