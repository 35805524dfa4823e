//! Trains through real sockets: what is sent, segment by segment, is what arrives.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::*;
use crate::net::local_address;
use crate::ring::{Arrived, COPY_MAX, DatagramConfig, Datagrams, Ring, RingConfig};

const BUFFERS: Buffers = Buffers { receive: 4 << 20, send: 1 << 20 };

fn ring() -> Ring {
    Ring::new(RingConfig { entries: 16, buffers: 4, buffer_bytes: 1024 }).unwrap()
}

fn any(host: &str) -> SocketAddr {
    format!("{host}:0").parse().unwrap()
}

/// Turns the ring until `future` is done.
fn drive<F: Future>(ring: &Ring, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        ring.turn().unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "nothing arrived");
    }
}

fn next(ring: &Ring, datagrams: &Datagrams) -> Vec<Arrived> {
    drive(ring, datagrams.arrive());
    let mut batch = Vec::new();
    datagrams.take(&mut batch, usize::MAX);
    batch
}

/// All datagrams, until there are `count`.
fn collect(ring: &Ring, datagrams: &Datagrams, count: usize) -> Vec<(u64, SocketAddr, Vec<u8>)> {
    let mut got = Vec::new();
    while got.len() < count {
        for train in next(ring, datagrams) {
            assert!(!train.is_truncated());
            got.extend(train.datagrams().map(|one| (train.key(), train.source(), one.to_vec())));
        }
    }
    assert_eq!(got.len(), count);
    got
}

fn bytes(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n * 31 + i) as u8).collect()
}

#[test]
fn a_train_arrives_as_its_datagrams_over_both_families() {
    for host in ["127.0.0.1", "[::1]"] {
        let ring = ring();
        let datagrams = ring.datagrams(DatagramConfig { buffers: 8 }).unwrap();
        let receiver = datagrams.receive(own_socket(any(host), BUFFERS).unwrap(), 7);
        let to = local_address(&receiver).unwrap();
        let sender = own_socket(any(host), BUFFERS).unwrap();
        let from = local_address(&sender).unwrap();
        let wanted: Vec<Vec<u8>> = (0..20).map(|n| bytes(n, if n == 19 { 5 } else { 1000 })).collect();
        let mut batch = SendBatch::default();
        // Each of two parts, as a header and a payload are.
        batch.push(to, wanted.iter().flat_map(|one| [&one[..4], &one[4..]]), 1000);
        assert_eq!(batch.send(&sender), Sent { trains: 1, datagrams: 20, bytes: 19_005, ..Sent::default() });
        assert!(batch.is_empty());
        let got = collect(&ring, &datagrams, 20);
        assert!(
            got.iter()
                .zip(&wanted)
                .all(|((key, source, got), wanted)| { (*key, *source) == (7, from) && got == wanted })
        );
        drop(receiver);
    }
}

#[test]
fn a_train_on_loopback_takes_one_buffer() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 8 }).unwrap();
    let receiver = datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), 0);
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let payload = bytes(1, 64 * 160);
    let mut batch = SendBatch::default();
    batch.push(local_address(&receiver).unwrap(), [&payload[..]], 160);
    batch.send(&sender);
    let trains = next(&ring, &datagrams);
    assert_eq!((trains.len(), trains[0].segment(), trains[0].payload()), (1, 160, &payload[..]));
}

#[test]
fn messages_to_many_go_in_one_batch_and_empty_datagrams_count() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 256 }).unwrap();
    let receivers: Vec<_> =
        (0..100).map(|key| datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), key)).collect();
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let payloads: Vec<Vec<u8>> = (0..100).map(|n| bytes(n, n)).collect();
    let mut batch = SendBatch::default();
    for (receiver, payload) in receivers.iter().zip(&payloads) {
        batch.push(local_address(receiver).unwrap(), [&payload[..]], payload.len());
    }
    assert_eq!(batch.send(&sender).datagrams, 100);
    let mut got = collect(&ring, &datagrams, 100);
    got.sort();
    assert!(got.iter().zip(&payloads).enumerate().all(|(n, ((key, _, got), sent))| *key == n as u64 && got == sent));
}

#[test]
fn a_burst_larger_than_the_pool_arrives_whole_and_in_order() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 4 }).unwrap();
    let receiver = datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), 0);
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let to = local_address(&receiver).unwrap();
    let payloads: Vec<Vec<u8>> = (0..500).map(|n| bytes(n, 100 + n)).collect();
    let mut batch = SendBatch::default();
    for payload in &payloads {
        batch.push(to, [&payload[..]], payload.len());
    }
    assert_eq!(batch.send(&sender).datagrams, 500);
    let got = collect(&ring, &datagrams, 500);
    assert!(got.iter().map(|(_, _, got)| got).eq(&payloads));
    assert!(ring.stats().no_buffers > 0, "the pool was never empty, so this shows nothing");
    drop(receiver);
    let start = Instant::now();
    while ring.in_flight() > 0 {
        ring.turn().unwrap();
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(ring.buffers_taken(), 0);
}

#[test]
fn short_datagrams_wait_without_a_buffer_each() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 128 }).unwrap();
    let receiver = datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), 0);
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let to = local_address(&receiver).unwrap();
    let payloads: Vec<Vec<u8>> = (0..500).map(|n| bytes(n, if n == 250 { COPY_MAX + 1 } else { 160 })).collect();
    let mut batch = SendBatch::default();
    for payload in &payloads {
        batch.push(to, [&payload[..]], payload.len());
    }
    assert_eq!(batch.send(&sender).datagrams, 500);
    // Kept, not handled.
    let mut arrived = Vec::new();
    while arrived.len() < 500 {
        arrived.extend(next(&ring, &datagrams));
    }
    assert!(arrived.iter().map(Arrived::payload).eq(&payloads));
    assert_eq!(ring.buffers_taken(), 1, "the long one");
    assert!(!datagrams.is_short() && ring.stats().no_buffers == 0);
}

#[test]
fn what_arrives_at_a_socket_that_is_gone_is_forgotten() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 4 }).unwrap();
    let receiver = datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), 0);
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let to = local_address(&receiver).unwrap();
    ring.turn().unwrap();
    let mut batch = SendBatch::default();
    batch.push(to, [&b"late"[..]], 4);
    drop(receiver);
    batch.send(&sender);
    let start = Instant::now();
    while ring.in_flight() > 0 {
        ring.turn().unwrap();
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    let mut batch = Vec::new();
    datagrams.take(&mut batch, usize::MAX);
    assert!(batch.is_empty() && ring.buffers_taken() == 0);
}

#[test]
fn where_the_kernel_takes_no_trains_datagrams_go_one_by_one() {
    let ring = ring();
    let datagrams = ring.datagrams(DatagramConfig { buffers: 8 }).unwrap();
    let receiver = datagrams.receive(own_socket(any("127.0.0.1"), BUFFERS).unwrap(), 0);
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    // Without checksums it refuses them, as for a device that cannot make them.
    set_int(&sender, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let to = local_address(&receiver).unwrap();
    let payload = bytes(3, 2500);
    let mut batch = SendBatch::default();
    batch.push(to, [&payload[..700], &payload[700..]], 1000);
    batch.push(to, [&b"next"[..]], 4);
    assert_eq!(batch.send(&sender), Sent { trains: 4, datagrams: 4, bytes: 2504, ..Sent::default() });
    let got: Vec<Vec<u8>> = collect(&ring, &datagrams, 4).into_iter().map(|(_, _, got)| got).collect();
    assert_eq!(got, [&payload[..1000], &payload[1000..2000], &payload[2000..], b"next"]);
}

#[test]
fn a_full_queue_is_counted_and_seen() {
    let receiver = own_socket(any("127.0.0.1"), Buffers { receive: 1, send: 1 << 20 }).unwrap();
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let to = local_address(&receiver).unwrap();
    let payload = bytes(0, 1000);
    let mut batch = SendBatch::default();
    for _ in 0..50 {
        batch.push(to, [&payload[..]], 1000);
    }
    batch.send(&sender);
    let queues = queues(&receiver).unwrap();
    assert!(queues.drops > 0 && queues.drops < 50, "{queues:?}");
    assert!(queues.receive > 0 && queues.receive_max > 0, "{queues:?}");
}

#[test]
fn a_datagram_that_is_refused_does_not_keep_the_others() {
    let receiver = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let to = local_address(&receiver).unwrap();
    let sender = own_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let mut batch = SendBatch::default();
    batch.push(to, [&b"first"[..]], 5);
    batch.push("[::1]:9".parse().unwrap(), [&b"wrong family"[..]], 12);
    batch.push(to, [&b"last"[..]], 4);
    assert_eq!(batch.send(&sender), Sent { trains: 2, datagrams: 2, bytes: 9, no_room: 0, refused: 1 });
}

#[test]
fn shards_share_a_port_and_others_do_not() {
    let first = shard_socket(any("127.0.0.1"), BUFFERS).unwrap();
    let address = local_address(&first).unwrap();
    let second = shard_socket(address, BUFFERS).unwrap();
    assert_eq!(local_address(&second).unwrap(), address);
    assert_eq!(own_socket(address, BUFFERS).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
