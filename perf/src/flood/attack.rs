//! The flood: frames of spoofed sources to the node's STUN port, handed to the kernel as BPF_PROG_RUN's live frames.
//!
//! In turns, 1024 of each at once:
//!
//! 1. noise of 172 bytes, which is neither STUN nor ChannelData, each of another one of 65,536 sources (198.18.0.0/16), at random
//! 2. the same from a network that the node blocks (198.19.0.0/16)
//! 3. plain Binding requests of 64 hosts, so far above what an unknown source may send in an attack
//! 4. ChannelData of 160 bytes of 64 other hosts, which have no allocation, far above it as well
//!
//! Of the last two the node lets through so many of each host as of any unknown one in an attack (50 in a second, by default): they are answered,
//! or reach user space.
//!
//! The [forged](Flood::Forged) flood is ChannelData of 65,536 sources, none of which is above a limit by itself: what XDP, by default, does
//! not stop. `bench xdp` does not use it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shoal_probes::bench::Bench;
use shoal_probes::index;
use shoal_stun::message::channel_data_header;

use crate::frame::Frame;
use crate::veth::OUTER_END;

/// Frames that are handed over at once: so many that the call costs little, and so few that the kinds are mixed.
const BURST: u32 = 1024;

/// Hosts that send more than they may.
const HOSTS: u8 = 64;

/// The sources' port.
const PORT: u16 = 40_000;

/// Where a UDP header has its checksum.
const CHECKSUM: usize = 6;

/// A Binding request without attributes.
const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Of what it consists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flood {
    /// All that is told above.
    Mixed,
    /// ChannelData of so many sources that none is above any limit.
    Forged,
}

/// A frame, and whether each one sent has a source of its own.
struct Shot {
    bytes: Vec<u8>,
    random: bool,
}

impl Flood {
    /// What is sent in turn.
    fn shots(self, node: SocketAddr) -> Vec<Shot> {
        let shot = |source: [u8; 4], payload: &[u8], random: bool| {
            let frame = Frame::new((Ipv4Addr::from(source), PORT).into(), node, payload);
            let mut bytes = frame.bytes();
            if random {
                // Of any source it would be another one; IPv4 does without.
                let at = frame.transport() + CHECKSUM;
                bytes[at..at + 2].fill(0);
            }
            Shot { bytes, random }
        };
        let channel = [&channel_data_header(0x4000, 160)[..], &[7; 160]].concat();
        match self {
            Self::Forged => vec![shot([198, 18, 0, 0], &channel, true)],
            Self::Mixed => (0..HOSTS)
                .flat_map(|host| {
                    [
                        shot([198, 18, 0, 0], &[0x80; 172], true),
                        shot([198, 51, 100, host], &REQUEST, false),
                        shot([198, 19, 0, 0], &[0x80; 172], true),
                        shot([198, 51, 100, HOSTS + host], &channel, false),
                    ]
                })
                .collect(),
        }
    }

    /// Sends it until `stop`, so many frames in a second or as many as it can, out of the outer end of the veth.
    ///
    /// # Errors
    /// The programs cannot be loaded, or the kernel takes no frames.
    pub fn send(self, node: SocketAddr, per_second: u32, stop: &AtomicBool) -> anyhow::Result<()> {
        let shots = self.shots(node);
        let (mut bench, interface) = (Bench::load()?, index(OUTER_END)?);
        bench.stand_by("lo")?;
        let (mut frames, begin) = (0_u64, Instant::now());
        for shot in shots.iter().cycle() {
            loop {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let due = begin.elapsed().as_secs_f64() * f64::from(per_second);
                if due >= (frames + u64::from(BURST)) as f64 {
                    break;
                }
                thread::sleep(Duration::from_micros(50));
            }
            bench.feed(&shot.bytes, shot.random)?;
            bench.send(interface, &shot.bytes, BURST)?;
            frames += u64::from(BURST);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_source_has_no_checksum_and_the_others_are_whole() {
        let node: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        let shots = Flood::Mixed.shots(node);
        assert_eq!(shots.len(), 4 * usize::from(HOSTS));
        for shot in shots.iter().chain(&Flood::Forged.shots(node)) {
            // Ethernet, IPv4.
            let sum = &shot.bytes[14 + 20 + CHECKSUM..][..2];
            assert_eq!(sum == [0, 0], shot.random, "{:?}", &shot.bytes[..42]);
        }
        let of_hosts: std::collections::BTreeSet<_> =
            shots.iter().filter(|shot| !shot.random).map(|shot| shot.bytes[26..30].to_vec()).collect();
        assert_eq!(of_hosts.len(), 2 * usize::from(HOSTS));
    }
}
