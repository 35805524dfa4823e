extern crate std;

use std::{collections::HashSet, format, string::String, vec::Vec};

use super::*;

/// Keys that look like the real ones: they differ in a few digits.
fn keys(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!("/room{}/720p/segment-{:06}.m4s#{}", i % 7, i / 7, i % 3))
}

#[test]
fn the_hash_is_pinned() {
    // Owners are found from it on both sides of the kernel boundary, so it must not change by accident.
    // The values were computed by a second implementation.
    assert_eq!(hash_key(0, b""), 0x46b7_3e79_f0c3_7c00);
    assert_eq!(hash_key(1, b"/demo/a.ts"), 0xb4e0_49cc_e385_ecb6);
    assert_eq!(hash_ipv4(7, [192, 0, 2, 1], [198, 51, 100, 2], 12345, 3478, 17), 0x253c_5d77_3225_a8a8);
}

#[test]
fn every_shard_gets_its_share() {
    for shards in [1, 2, 3, 4, 7, 16, 64, 100] {
        let count = 64_000;
        let mut load = std::vec![0u32; shards as usize];
        for key in keys(count) {
            load[owner(hash_key(42, key.as_bytes()), shards) as usize] += 1;
        }
        let expected = count as f64 / f64::from(shards);
        // Five standard deviations of a fair share-out.
        let bound = 5.0 * expected.sqrt();
        for (shard, got) in load.iter().enumerate() {
            assert!((f64::from(*got) - expected).abs() <= bound.max(1.0), "{shards} shards: {shard} got {got}");
        }
    }
    assert_eq!(owner(u64::MAX, 0), 0);
    assert_eq!(owner(u64::MAX, u32::MAX), u32::MAX - 1);
    assert_eq!(owner(0, 64), 0);
}

#[test]
fn every_input_bit_changes_half_of_the_output_bits() {
    for length in [1, 7, 8, 9, 16, 40] {
        let base: Vec<u8> = (0..length).map(|i| (i * 37) as u8).collect();
        for bit in 0..length * 8 {
            let mut flipped_bits = [0u32; 64];
            let seeds = 512;
            for seed in 0..seeds {
                let mut changed = base.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let difference = hash_key(seed, &base) ^ hash_key(seed, &changed);
                for (i, count) in flipped_bits.iter_mut().enumerate() {
                    *count += (difference >> i & 1) as u32;
                }
            }
            // 512 fair coins: mean 256, standard deviation 11; six of them over 64 bits and all tries.
            for (i, count) in flipped_bits.iter().enumerate() {
                assert!((188..=324).contains(count), "length {length}, bit {bit} flips bit {i} {count} times of 512");
            }
        }
    }
}

#[test]
fn nothing_collides_that_is_alike() {
    let mut seen = HashSet::new();
    let mut tried = 0;
    for key in keys(50_000) {
        tried += usize::from(seen.insert(hash_key(3, key.as_bytes())));
    }
    // Runs of zeros of different length, and a last word short of them.
    for length in 0..100 {
        tried += usize::from(seen.insert(hash_key(3, &std::vec![0; length])));
    }
    assert_eq!(tried, 50_100);
    assert_ne!(hash_key(1, b"a"), hash_key(2, b"a"), "the seed counts");
}

#[test]
fn flows_hash_alike_wherever_they_are_seen() {
    let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
    let expected = hash_ipv4(9, [192, 0, 2, 1], [198, 51, 100, 2], 1000, 3478, 17);
    assert_eq!(hash_five_tuple(9, socket("192.0.2.1:1000"), socket("198.51.100.2:3478"), 17), expected);
    assert_eq!(
        hash_five_tuple(9, socket("[::ffff:192.0.2.1]:1000"), socket("[::ffff:198.51.100.2]:3478"), 17),
        expected
    );
    // The direction, each port and the protocol count.
    assert_ne!(hash_five_tuple(9, socket("198.51.100.2:3478"), socket("192.0.2.1:1000"), 17), expected);
    assert_ne!(hash_five_tuple(9, socket("192.0.2.1:1001"), socket("198.51.100.2:3478"), 17), expected);
    assert_ne!(hash_five_tuple(9, socket("192.0.2.1:1000"), socket("198.51.100.2:3479"), 17), expected);
    assert_ne!(hash_five_tuple(9, socket("192.0.2.1:1000"), socket("198.51.100.2:3478"), 6), expected);

    let (source, destination) = (socket("[2001:db8::1]:1000"), socket("[2001:db8::2]:3478"));
    let (IpAddr::V6(from), IpAddr::V6(to)) = (source.ip(), destination.ip()) else { panic!() };
    assert_eq!(hash_five_tuple(9, source, destination, 17), hash_ipv6(9, from.octets(), to.octets(), 1000, 3478, 17));
}

#[test]
fn flows_of_one_client_network_spread() {
    let shards = 4;
    let mut load = [0u32; 4];
    for host in 0..=255 {
        for port in 40_000..40_064 {
            load[owner(hash_ipv4(5, [203, 0, 113, host], [192, 0, 2, 1], port, 3478, 17), shards) as usize] += 1;
        }
    }
    for got in load {
        assert!((3_800..=4_400).contains(&got), "{load:?}");
    }
}
