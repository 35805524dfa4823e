use std::collections::VecDeque;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The byte at `at` of the object named `name`.
fn byte(name: u64, at: usize) -> u8 {
    let mixed = (name ^ (at as u64 >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> (8 * (at % 8))) as u8
}

fn object(name: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte(name, at)).collect()
}

fn is_object(name: u64, bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, &found)| found == byte(name, at))
}

fn filled_block(arena: &Arena, name: u64, len: usize) -> Option<BlockRef> {
    let mut writer = arena.alloc(len)?;
    assert_eq!(writer.append(&object(name, len)), len);
    Some(writer.finish())
}

#[test]
fn a_block_grows_and_gives_its_tail_back() {
    let arena = Arena::with_huge_max(4 * CHUNK, 64 << 10).unwrap();
    let mut writer = arena.alloc(1 << 20).unwrap();
    assert_eq!((writer.capacity(), arena.in_use()), (1 << 20, 1 << 20));
    let reader = writer.share();
    assert_eq!((reader.progress(), reader.bytes().len()), (Progress::Filling, 0));
    assert_eq!(writer.append(b"shoal"), 5);
    assert_eq!((reader.bytes(), writer.filled()), (&b"shoal"[..], 5));
    assert_eq!(writer.append(&object(1, 20_475)), 20_475);
    let whole = writer.finish();
    assert_eq!((whole.progress(), whole.filled(), whole.footprint()), (Progress::Complete, 20 << 10, 5 * PAGE));
    assert_eq!((arena.in_use(), arena.capacity()), (5 * PAGE, 4 * CHUNK));
    drop((reader, whole));
    assert_eq!(arena.in_use(), 0);
}

#[test]
fn a_full_block_takes_no_more() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let mut writer = arena.alloc(100).unwrap();
    assert_eq!(writer.append(&[7; PAGE + 1]), PAGE);
    assert_eq!(writer.append(&[8]), 0);
    assert!(writer.share().bytes().iter().all(|&byte| byte == 7));
}

#[test]
fn an_abandoned_block_has_failed() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    for abandon in [drop as fn(BlockWriter), BlockWriter::fail] {
        let mut writer = arena.alloc(10).unwrap();
        writer.append(b"half");
        let reader = writer.share();
        abandon(writer);
        assert_eq!((reader.progress(), reader.bytes()), (Progress::Failed, &b"half"[..]));
    }
}

#[test]
fn an_empty_object_takes_no_memory() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let empty = arena.alloc(0).unwrap().finish();
    assert_eq!((empty.bytes().len(), empty.footprint(), arena.in_use()), (0, 0, 0));
}

#[test]
fn retired_is_seen_by_all_and_counted_once() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let block = filled_block(&arena, 1, 3 * PAGE).unwrap();
    let sender = block.clone();
    block.retire();
    sender.retire();
    drop(block);
    assert!(sender.is_retired());
    assert_eq!((arena.pinned(), arena.gauge().pinned()), (3 * PAGE, 3 * PAGE));
    drop(sender);
    assert_eq!((arena.pinned(), arena.gauge().in_use()), (0, 0));
}

#[test]
fn as_much_is_given_back_as_was_asked_for() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let blocks: Vec<_> = (0..4).map(|name| filled_block(&arena, name, 2 * PAGE).unwrap()).collect();
    assert_eq!((blocks[0].asked_below(), blocks[0].settle_asked()), (None, false));
    arena.ask_back(3 * PAGE, 1000);
    assert!(blocks.iter().all(|block| block.asked_below() == Some(1000)));
    assert_eq!(blocks.iter().filter(|block| block.settle_asked()).count(), 2, "one would be too little");
    assert_eq!(blocks[0].asked_below(), None);
}

#[test]
fn uses_saturate_and_are_taken_once() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let block = filled_block(&arena, 1, 1).unwrap();
    for uses in 0..=MAX_USES + 2 {
        (0..uses).for_each(|_| block.touch());
        assert_eq!(block.take_uses(), uses.min(MAX_USES));
    }
    assert_eq!(block.take_uses(), 0);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let error = Arena::with_huge_max(PAGE - 1, 64 << 10).unwrap_err();
    assert!(error.to_string().contains("4095"), "{error}");
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    assert!(arena.alloc(CHUNK + 1).is_none() && arena.alloc(usize::MAX).is_none());
    let all = arena.alloc(CHUNK).unwrap();
    assert!(arena.alloc(1).is_none());
    drop(all);
    assert!(arena.alloc(1).is_some());
}

#[test]
fn blocks_outlive_their_arena() {
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let block = filled_block(&arena, 9, 100_000).unwrap();
    let gauge = arena.gauge();
    drop(arena);
    let block = thread::spawn(move || is_object(9, block.bytes()).then_some(block).unwrap()).join().unwrap();
    assert!(gauge.in_use() > 0);
    drop(block);
    assert_eq!(gauge.in_use(), 0);
}

#[test]
fn only_plain_memory_goes_to_sendfile() {
    let arena = Arena::with_huge_max(2 * CHUNK, 64 << 10).unwrap();
    let large = filled_block(&arena, 1, 1 << 20).unwrap();
    let small = filled_block(&arena, 2, 64 << 10).unwrap();
    let (file, offset) = large.slice_for_sendfile().unwrap();
    let mut read = vec![0; 1 << 20];
    assert_eq!(rustix::io::pread(file, &mut read[..], offset).unwrap(), 1 << 20);
    assert!(is_object(1, &read));
    assert_eq!(small.slice_for_sendfile().is_none(), arena.huge_pages() == HugePages::Advised);
}

#[test]
fn a_racing_reader_sees_only_right_bytes() {
    let arena = Arena::with_huge_max(2 * CHUNK, 64 << 10).unwrap();
    let mut random = Random(11);
    for name in 0..20 {
        let len = 500_000 + random.below(500_000) as usize;
        let mut writer = arena.alloc(len).unwrap();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let block = writer.share();
                thread::spawn(move || {
                    let mut seen = 0;
                    loop {
                        let progress = block.progress();
                        let bytes = block.bytes();
                        assert!(bytes.len() >= seen);
                        assert!((seen..bytes.len()).all(|at| bytes[at] == byte(name, at)));
                        seen = bytes.len();
                        if progress != Progress::Filling {
                            return (progress, seen);
                        }
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let content = object(name, len);
        let mut rest = &content[..];
        while !rest.is_empty() {
            let n = (1 + random.below(20_000) as usize).min(rest.len());
            assert_eq!(writer.append(&rest[..n]), n);
            rest = &rest[n..];
        }
        drop(writer.finish());
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (Progress::Complete, len));
        }
    }
    assert_eq!(arena.in_use(), 0);
}

/// One owner allocates, evicts and retires; readers on other threads hold blocks for a while, check them, and are often
/// the last to let go.
#[test]
fn many_threads_never_see_another_objects_bytes() {
    let arena = Arena::with_huge_max(4 * CHUNK, 64 << 10).unwrap();
    let mut senders = Vec::new();
    let mut readers = Vec::new();
    for id in 0..3 {
        let (sender, receiver) = mpsc::sync_channel::<(u64, BlockRef)>(16);
        senders.push(sender);
        readers.push(thread::spawn(move || {
            let mut random = Random(id);
            let mut held = VecDeque::new();
            let mut checked = 0_u64;
            while let Ok((name, block)) = receiver.recv() {
                held.push_back((name, block));
                if held.len() > random.below(12) as usize {
                    let (name, block) = held.pop_front().unwrap();
                    while block.progress() == Progress::Filling {
                        thread::yield_now();
                    }
                    block.touch();
                    assert!(is_object(name, block.bytes()), "object {name} has foreign bytes");
                    checked += 1;
                }
            }
            assert!(held.iter().all(|(name, block)| is_object(*name, block.bytes())));
            checked
        }));
    }
    let mut random = Random(99);
    let mut index: VecDeque<(u64, BlockRef)> = VecDeque::new();
    let mut refused = 0;
    for name in 0..6_000 {
        let most = if random.below(8) == 0 { 600_000 } else { 40_000 };
        let len = 1 + random.below(most) as usize;
        let room = (len + random.below(100_000) as usize).min(CHUNK);
        let Some(mut writer) = arena.alloc(room) else {
            refused += 1;
            for _ in 0..1 + index.len() / 4 {
                if let Some((_, block)) = index.pop_front() {
                    block.retire();
                }
            }
            continue;
        };
        let block = writer.share();
        let content = object(name, len);
        let reader = &senders[random.below(3) as usize];
        reader.send((name, block.clone())).unwrap();
        for part in content.chunks(1 + len / 3) {
            assert_eq!(writer.append(part), part.len());
        }
        if random.below(4) == 0 {
            block.mark_shared_pages();
        }
        drop(writer.finish());
        reader.send((name, block.clone())).unwrap();
        index.push_back((name, block));
        assert!(arena.in_use() <= arena.capacity());
    }
    drop(senders);
    let checked: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(checked > 5_000 && refused > 50, "{checked} checked, {refused} refused: no pressure");
    drop(index);
    arena.reclaim();
    assert_eq!((arena.in_use(), arena.pinned()), (0, 0));
    // All came back and grew together again: the whole arena can be had in the longest extents.
    let all: Vec<_> = (0..4).map(|_| arena.alloc(CHUNK).unwrap()).collect();
    assert!(arena.alloc(1).is_none());
    drop(all);
}

/// A socket holds the pages of a block; the block goes, its memory is used again, and only then does the peer read.
#[test]
fn pages_queued_by_sendfile_survive_reuse() {
    const LEN: usize = 128 << 10;
    let arena = Arena::with_huge_max(CHUNK, 64 << 10).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Where there are huge pages the memory starts out with them, and must change sides.
    let small: Vec<_> = std::iter::from_fn(|| filled_block(&arena, 0, 10_000)).collect();
    assert!(small.len() > 100);
    drop(small);
    let mut peers = Vec::new();
    for name in 0..8 {
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let block = filled_block(&arena, name, LEN).unwrap();
        let (file, start) = block.slice_for_sendfile().unwrap();
        let mut offset = start;
        let mut queued = 0;
        while let Ok(sent @ 1..) = rustix::fs::sendfile(&socket, file, Some(&mut offset), LEN - queued) {
            queued += sent;
        }
        assert!(queued >= 16 << 10, "only {queued} bytes fitted the socket");
        peers.push((name, peer, queued));
        drop(socket);
    }
    assert_eq!(arena.in_use(), 0);
    for round in 0..4 {
        let blocks: Vec<_> = std::iter::from_fn(|| filled_block(&arena, 1000 + round, LEN)).collect();
        assert_eq!(blocks.len(), CHUNK / LEN, "all memory is written again");
    }
    for (name, mut peer, queued) in peers {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), queued);
        assert!(is_object(name, &got), "the slow reader of object {name} got rewritten bytes");
    }
}
