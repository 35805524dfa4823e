//! Objects of all kinds: good, broken, and such as change.

use std::time::Duration;

use crate::origin::{Change, Etag, Fault, Framing, Object, When};

/// Well-behaved ones of every kind, at the edges of blocks of `block` bytes.
pub fn good(block: u64) -> Vec<Object> {
    let mut objects = Vec::new();
    let edges = [0, 1, 2, block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1, 5 * block + 123];
    for (name, framing, ranges, etag, last_modified) in [
        ("plain", Framing::Length, true, Etag::Strong, true),
        ("weak", Framing::Length, true, Etag::Weak, true),
        ("dated", Framing::Length, true, Etag::None, true),
        ("bare", Framing::Length, true, Etag::None, false),
        ("rangeless", Framing::Length, false, Etag::Strong, false),
        ("chunked", Framing::Chunked, false, Etag::Strong, true),
        ("chunked-ranges", Framing::Chunked, true, Etag::Strong, true),
        ("close", Framing::Close, false, Etag::None, true),
    ] {
        for size in edges.into_iter().chain([3 << 20]) {
            let path = format!("/{name}/{size}.bin");
            objects.push(Object { framing, ranges, etag, last_modified, ..Object::new(&path, size) });
        }
    }
    for nth in 0..4 {
        objects.push(Object::new(&format!("/large/{nth}.mp4"), (4 << 20) + 77 * nth));
    }
    objects
}

/// Objects of which every third answer is broken in its own way.
pub fn broken(block: u64) -> Vec<Object> {
    let mut objects = Vec::new();
    let half = block / 2;
    for (name, fault) in [
        ("truncates-at-once", Fault::Truncate(0)),
        ("truncates", Fault::Truncate(half + 7)),
        ("resets", Fault::Reset(half + 9)),
        ("stalls", Fault::Stall(half, Duration::from_millis(1500))),
        ("slow-head", Fault::SlowHead(Duration::from_millis(1200))),
        ("fails", Fault::Status(500)),
        ("overloaded", Fault::Status(503)),
        ("mute", Fault::NoAnswer),
        ("garbage", Fault::Garbage),
        ("long", Fault::LongLength(10)),
        ("elsewhere", Fault::WrongRange(1)),
        ("short", Fault::ShortLength(3)),
    ] {
        let object = Object::new(&format!("/{name}.bin"), 4 * block + 99);
        objects.push(object.fault(When::OneIn(3), fault));
    }
    for (name, framing) in [("chunked", Framing::Chunked), ("whole", Framing::Length)] {
        let object = Object { framing, ranges: false, ..Object::new(&format!("/{name}-cut.bin"), 3 * block) };
        objects.push(object.fault(When::OneIn(3), Fault::Reset(block + 1)));
    }
    objects
}

/// Objects that change all the time.
pub fn changing(block: u64) -> Vec<Object> {
    let mut objects = Vec::new();
    for (name, etag, last_modified, growth) in [
        ("strong", Etag::Strong, true, 0),
        ("strong-only", Etag::Strong, false, 0),
        ("weak", Etag::Weak, false, 0),
        ("dated", Etag::None, true, 0),
        ("growing", Etag::Strong, true, 1000),
        ("growing-bare", Etag::None, false, 1000),
    ] {
        for (ranges, mode) in [(true, "ranges"), (false, "whole")] {
            let object = Object::new(&format!("/changing/{name}-{mode}.bin"), 5 * block + 5);
            let object = Object { etag, last_modified, growth, ranges, ..object };
            // Short freshness, so that new versions are seen at all.
            let object = object.header("Cache-Control", "max-age=1");
            objects.push(Object { change: Change::EveryRequests(4), ..object });
        }
    }
    objects
}

/// Whether all of its blocks can be fetched again, one by one: under a strong validator, and of a known length. Without, an
/// answer that has begun may have to break off when what it needs was evicted.
pub fn is_repeatable(object: &Object) -> bool {
    let strong = object.etag == Etag::Strong || object.etag == Etag::None && object.last_modified;
    strong && object.framing == Framing::Length
}

/// Whether a viewer can be helped by another origin that has the same object whole: not one who was told a wrong length, or
/// none.
pub fn can_be_helped(object: &Object) -> bool {
    let told_wrong = |fault: &Fault| matches!(fault, Fault::LongLength(_) | Fault::ShortLength(_));
    object.framing == Framing::Length && !object.faults.iter().any(|(_, fault)| told_wrong(fault))
}
