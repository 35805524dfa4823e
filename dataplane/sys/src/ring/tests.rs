//! The ring against real sockets, driven by hand.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::*;
use crate::arena::{Arena, PAGE};
use crate::net::{local_address, shard_listener};

const PATIENCE: Duration = Duration::from_secs(20);

/// Turns the ring until the future is done.
fn drive<F: Future>(ring: &Ring, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        ring.turn().unwrap();
        assert!(start.elapsed() < PATIENCE, "nothing happened");
    }
}

/// Turns the ring until everything given to the kernel has come back.
fn settle(ring: &Ring) {
    let start = Instant::now();
    while ring.in_flight() > 0 {
        ring.turn().unwrap();
        assert!(start.elapsed() < PATIENCE, "{} entries never came back", ring.in_flight());
    }
    assert_eq!(ring.buffers_taken(), 0);
}

fn small() -> Ring {
    Ring::new(RingConfig { entries: 8, buffers: 4, buffer_bytes: 1024 }).unwrap()
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = shard_listener("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = local_address(&listener).unwrap();
    (listener, address)
}

fn pair(ring: &Ring) -> (Stream, TcpStream) {
    let (listener, address) = listener();
    let client = TcpStream::connect(address).unwrap();
    let acceptor = ring.accept(listener);
    let socket = drive(ring, acceptor.next()).unwrap();
    (ring.stream(socket), client)
}

#[test]
fn bytes_come_in_order_through_a_pool_smaller_than_the_burst() {
    let ring = small();
    let (stream, mut client) = pair(&ring);
    let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || client.write_all(&copy).map(|()| client));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend_from_slice(&drive(&ring, stream.recv()).unwrap());
    }
    assert!(got == sent);
    drop(writer.join().unwrap());
    assert!(drive(&ring, stream.recv()).unwrap().is_empty(), "the end of the stream");
    drop(stream);
    settle(&ring);
}

#[test]
fn a_burst_that_nobody_reads_neither_grows_nor_takes_the_pool() {
    let ring = small();
    let (greedy, mut pusher) = pair(&ring);
    let (modest, mut asker) = pair(&ring);
    pusher.write_all(b"first").unwrap();
    assert_eq!(&*drive(&ring, greedy.recv()).unwrap(), b"first");
    pusher.set_nonblocking(true).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        let _ = pusher.write(&[7; 4096]);
        ring.turn().unwrap();
    }
    let aside = greedy.aside_len();
    assert!(aside <= 64 << 10, "{aside} bytes were taken from a client that should wait");
    asker.write_all(b"hello").unwrap();
    assert_eq!(&*drive(&ring, modest.recv()).unwrap(), b"hello");
    // Read at last, the burst goes on where it was.
    for _ in 0..100 {
        assert!(drive(&ring, greedy.recv()).unwrap().iter().all(|&byte| byte == 7));
    }
    drop((greedy, modest));
    settle(&ring);
}

#[test]
fn head_and_block_go_out_as_one_stream_by_copy_and_by_sendfile() {
    let ring = small();
    let arena = Arena::with_huge_max(8 << 20, 0).unwrap();
    let mut block = arena.alloc(1 << 20).unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(block.append(&bytes), bytes.len());
    let block = block.finish();
    for by_file in [false, true] {
        let (stream, mut client) = pair(&ring);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).map(|_| got)
        });
        let mut msg = SendMsg::new();
        msg.head.extend_from_slice(b"head:");
        msg.set_body(block.clone(), 100..bytes.len());
        assert!(msg.can_send_file());
        while !msg.is_sent() {
            if by_file {
                drive(&ring, stream.send_file(&mut msg)).unwrap();
            } else {
                let (back, sent) = drive(&ring, stream.send(msg, false));
                msg = back;
                assert!(sent.unwrap() > 0);
            }
        }
        drop(stream);
        settle(&ring);
        let got = reader.join().unwrap().unwrap();
        assert!(got.starts_with(b"head:") && got[5..] == bytes[100..], "by_file {by_file}");
    }
}

#[test]
fn a_receive_that_is_given_up_leaves_nothing_behind() {
    let ring = small();
    let arena = Arena::with_huge_max(4 << 20, 0).unwrap();
    let (stream, mut client) = pair(&ring);
    {
        let block = arena.alloc(4096).unwrap();
        let mut receive = stream.recv_into(block, 4096);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(&mut receive).poll(&mut cx).is_pending());
        ring.turn().unwrap();
        assert!(arena.in_use() > 0, "the kernel may still write to it");
    }
    settle(&ring);
    arena.reclaim();
    assert_eq!(arena.in_use(), 0);
    // The connection itself is none the worse.
    client.write_all(b"later").unwrap();
    let block = arena.alloc(4096).unwrap();
    let (block, received) = drive(&ring, stream.recv_into(block, 4096));
    assert_eq!((received.unwrap(), block.unwrap().finish().bytes()), (5, &b"later"[..]));
}

#[test]
fn a_flood_of_connections_waits_in_the_backlog_and_is_taken_to_the_last() {
    let ring = Ring::new(RingConfig::default()).unwrap();
    let (listener, address) = listener();
    let acceptor = ring.accept(listener);
    let first = TcpStream::connect(address).unwrap();
    drop(drive(&ring, acceptor.next()).unwrap());
    let mut clients = vec![first];
    let mut connect = |many: usize| {
        for _ in 0..many {
            clients.push(TcpStream::connect(address).unwrap());
            ring.turn().unwrap();
        }
    };
    connect(400);
    let held = acceptor.ready();
    assert!((256..300).contains(&held), "{held} accepted ahead");
    for _ in 0..400 {
        drop(drive(&ring, acceptor.next()).unwrap());
    }
    connect(1);
    drop(drive(&ring, acceptor.next()).unwrap());
    drop(acceptor);
    settle(&ring);
}

#[test]
fn connect_says_why_it_failed_and_interrupt_ends_a_wait() {
    let ring = small();
    let (listener, address) = listener();
    let stream = drive(&ring, ring.connect(address)).unwrap();
    stream.interrupt();
    let error = drive(&ring, stream.recv()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop((listener, stream));
    let error = drive(&ring, ring.connect(address)).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    settle(&ring);
}

#[test]
fn a_sleep_lasts_as_long_as_it_should_and_can_be_given_up() {
    let ring = small();
    let start = Instant::now();
    drive(&ring, ring.sleep(Duration::from_millis(30)));
    assert!(start.elapsed() >= Duration::from_millis(30));
    {
        let mut long = pin!(ring.sleep(Duration::from_secs(3600)));
        assert!(long.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        ring.turn().unwrap();
    }
    settle(&ring);
}

#[test]
fn the_bell_is_heard_by_a_sleeper_only() {
    let ring = small();
    let bell = crate::doorbell::Doorbell::new(&ring).unwrap();
    let signalled = |ring: &Ring| {
        let mut word = [0; 8];
        rustix::io::ioctl_fionbio(ring.eventfd(), true).unwrap();
        rustix::io::read(ring.eventfd(), &mut word).is_ok()
    };
    bell.ring();
    assert!(!signalled(&ring));
    bell.doze();
    bell.ring();
    bell.ring();
    assert!(signalled(&ring) && !signalled(&ring));
}

#[test]
fn who_lets_the_others_go_first_is_woken_by_the_next_turn() {
    let ring = small();
    let mut cx = Context::from_waker(Waker::noop());
    ring.set_driver(&cx);
    let mut first = pin!(ring.next_turn());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    assert!(!ring.prepare_sleep().unwrap(), "somebody waits for a turn");
    assert_eq!(ring.turn().unwrap(), 1);
    assert!(first.as_mut().poll(&mut cx).is_ready());
    assert_eq!(ring.turn().unwrap(), 0);
    assert!(ring.prepare_sleep().unwrap());
    ring.awake();
}

#[test]
fn a_block_is_read_from_a_file_and_readable_only_when_it_is_kept() {
    let ring = small();
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let bytes: Vec<u8> = (0..5 * PAGE).map(|at| (at / 7) as u8).collect();
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::pwrite(&file, &bytes, 0).unwrap();
    let file = Rc::new(file);
    let read = |offset: usize, len| ring.read_block(&file, offset as u64, len, arena.alloc_huge(3 * PAGE).unwrap());

    let (page, landed) = drive(&ring, read(PAGE, 2 * PAGE)).unwrap();
    assert_eq!((&page[..], &landed[..]), (&bytes[PAGE..2 * PAGE], &bytes[2 * PAGE..4 * PAGE]));
    let block = landed.keep(PAGE + 5);
    assert_eq!(block.filled(), PAGE + 5);
    assert_eq!(block.finish().bytes(), &bytes[2 * PAGE..3 * PAGE + 5]);

    let (_, landed) = drive(&ring, read(3 * PAGE, 9 * PAGE)).unwrap();
    assert_eq!(landed.len(), PAGE, "the file ends");
    assert_eq!(landed.keep(9 * PAGE).filled(), PAGE, "what has not come is not kept");
    let end = drive(&ring, read(5 * PAGE, PAGE)).map(drop);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);

    // One that nobody waits for keeps its memory until the kernel is done with it.
    drop(read(0, PAGE));
    settle(&ring);
    arena.reclaim();
    assert_eq!((arena.in_use(), Rc::strong_count(&file)), (0, 1));
}
