//! Bound channels that the program relays: told, counted, and taken back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use aya::maps::{Array, HashMap, MapData};
use thiserror::Error;

use crate::address;
use crate::mapped::Mapped;
use crate::maps::{RelayKey, RelayOwner, RelayPath, RelayUsage, TENANT_MAX, USER_MAX, config};
use crate::{MapError, Probes};

/// A bound channel: its client, the server's address that it sends to, the relay's, and the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Its number.
    pub number: u16,
    /// As the server sees it.
    pub client: SocketAddr,
    /// Where it sends to: an endpoint that the program was told of.
    pub server: SocketAddr,
    /// From where to the peer: on an address that the program was told of.
    pub relayed: SocketAddr,
    /// Of the same family.
    pub peer: SocketAddr,
}

/// Whose the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The ledger's name of the tenant.
    pub tenant: &'a str,
    /// The ledger's name of the session.
    pub user: &'a str,
}

/// What a process before this one has left uncounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// As in [`Owner`].
    pub tenant: String,
    /// The same.
    pub user: String,
    /// What was relayed since that process took it into its books.
    pub usage: RelayUsage,
}

/// Why a channel is not relayed by the program.
#[derive(Debug, Error)]
pub enum BindError {
    /// Its server's or relay's address is none that the program was told of, or a name is too long: user space relays it.
    #[error("the program does not know its addresses, or its names are too long")]
    Unknown,
    /// The kernel's word: there is no room, mostly.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A hand on the channels of the program. Each place is to be used by one of all hands.
pub struct Relay {
    paths: HashMap<MapData, RelayKey, RelayPath>,
    owners: Array<MapData, RelayOwner>,
    usage: Arc<Mapped>,
    taken: Arc<Mapped>,
    /// Addresses by their numbers, a relay's with port 0.
    own: Arc<[SocketAddr]>,
    cpus: usize,
    channels: u32,
    generation: u32,
}

impl Probes {
    /// Makes what was bound until now, by a process before this one, be in force no longer; what it has counted stays.
    ///
    /// # Errors
    /// The kernel's, here and below.
    pub fn begin_anew(&mut self) -> Result<(), MapError> {
        self.now.generation = self.now.generation.wrapping_add(1);
        self.now.flags &= !config::FRAMES;
        self.xsks.clear()?;
        self.config.set(0, self.now, 0)
    }

    /// Hands on the relay's channels.
    ///
    /// # Errors
    /// The kernel's.
    pub fn relays(&mut self, count: usize) -> Result<Vec<Relay>, MapError> {
        let (cpus, channels) = (self.cpus_counted, self.now.channels);
        let all = cpus * channels as usize;
        let usage = Arc::new(Mapped::new(self.relay_usage.fd(), all)?);
        let taken = Arc::new(Mapped::new(self.relay_taken.fd(), channels as usize)?);
        let own: Arc<[SocketAddr]> = self.own.numbers().into();
        let again = |map: &MapData| MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?);
        (0..count)
            .map(|_| {
                Ok(Relay {
                    paths: aya::maps::Map::HashMap(again(&self.relay_paths)?).try_into()?,
                    owners: aya::maps::Map::Array(again(&self.relay_owners)?).try_into()?,
                    usage: usage.clone(),
                    taken: taken.clone(),
                    own: own.clone(),
                    cpus,
                    channels,
                    generation: self.now.generation,
                })
            })
            .collect()
    }
}

impl Relay {
    /// Places for channels, of all hands.
    #[must_use]
    pub const fn channels(&self) -> u32 {
        self.channels
    }

    /// Says whose a place is. What it had counted before is taken.
    ///
    /// # Errors
    /// A name is too long, or the kernel's.
    pub fn own(&mut self, place: u32, allocation: u64, owner: Owner<'_>) -> Result<(), BindError> {
        let (tenant, tenant_length) = bytes::<TENANT_MAX>(owner.tenant).ok_or(BindError::Unknown)?;
        let (user, user_length) = bytes::<USER_MAX>(owner.user).ok_or(BindError::Unknown)?;
        self.taken.set(place as usize, &self.counted(place));
        let generation = self.generation;
        let owner = RelayOwner { allocation, generation, tenant_length, user_length, tenant, user };
        Ok(self.owners.set(place, owner, 0)?)
    }

    /// Makes a place nobody's.
    ///
    /// # Errors
    /// The kernel's, here and below.
    pub fn disown(&mut self, place: u32) -> Result<(), MapError> {
        self.owners.set(place, NOBODY, 0)
    }

    /// Has a channel relayed, in both directions, until `expires_ns` of the kernel's monotonic clock, or for longer if it was
    /// already; counted at `place`.
    ///
    /// # Errors
    /// The kernel's, or it is none of the addresses that the program was told of.
    pub fn bind(&mut self, channel: &Channel, place: u32, allocation: u64, expires_ns: u64) -> Result<(), BindError> {
        let (from_client, from_peer) = self.keys(channel).ok_or(BindError::Unknown)?;
        let Channel { number, client, server, relayed, peer } = *channel;
        let path = |source: SocketAddr, destination: SocketAddr, number: u16, sum: u16| RelayPath {
            source: address(source.ip()),
            destination: address(destination.ip()),
            expires_ns,
            allocation,
            source_port: source.port().to_be(),
            destination_port: destination.port().to_be(),
            channel: number.to_be(),
            sum,
            place,
            generation: self.generation,
        };
        let to_peer =
            path(relayed, peer, 0, change([client, server], [relayed, peer], !8_u16.to_be(), !number.to_be()));
        let to_client =
            path(server, client, number, change([peer, relayed], [server, client], 8_u16.to_be(), number.to_be()));
        self.paths.insert(from_client, to_peer, 0)?;
        let inserted = self.paths.insert(from_peer, to_client, 0);
        if inserted.is_err() {
            // It was put there a moment ago.
            let _ = self.paths.remove(&from_client);
        }
        Ok(inserted?)
    }

    /// Has it relayed no longer. It is no error if it was not.
    pub fn unbind(&mut self, channel: &Channel) -> Result<(), MapError> {
        let Some((from_client, from_peer)) = self.keys(channel) else { return Ok(()) };
        let mut done = Ok(());
        for key in [from_client, from_peer] {
            match self.paths.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => done = Err(error),
            }
        }
        done
    }

    /// What was relayed at a place since it was last asked, which the books have from now on.
    pub fn take(&mut self, place: u32) -> RelayUsage {
        let counted = self.counted(place);
        let new = since(&counted, &self.taken.get(place as usize));
        if new != RelayUsage::default() {
            self.taken.set(place as usize, &counted);
        }
        new
    }

    /// What processes before this one have left uncounted, and deletes what they had bound. For one of the hands, before any binds
    /// something.
    pub fn take_left(&mut self) -> Result<Vec<Left>, MapError> {
        let mut gone = Vec::new();
        for entry in self.paths.iter() {
            let (key, path) = entry?;
            if path.generation != self.generation {
                gone.push(key);
            }
        }
        for key in gone {
            match self.paths.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let mut left = Vec::new();
        for place in 0..self.channels {
            let owner = self.owners.get(&place, 0)?;
            if owner.tenant_length == 0 && owner.user_length == 0 || owner.generation == self.generation {
                continue;
            }
            let usage = self.take(place);
            if usage != RelayUsage::default() {
                let tenant = text(&owner.tenant, owner.tenant_length);
                left.push(Left { tenant, user: text(&owner.user, owner.user_length), usage });
            }
            self.disown(place)?;
        }
        Ok(left)
    }

    fn counted(&self, place: u32) -> RelayUsage {
        let mut all = RelayUsage::default();
        for cpu in 0..self.cpus {
            let one = self.usage.get(cpu * self.channels as usize + place as usize);
            for way in 0..2 {
                all.datagrams[way] += one.datagrams[way];
                all.bytes[way] += one.bytes[way];
            }
        }
        all
    }

    /// From the client, and from the peer.
    fn keys(&self, channel: &Channel) -> Option<(RelayKey, RelayKey)> {
        let number = |at: SocketAddr| self.own.iter().position(|own| *own == at).map(|place| place as u32);
        let Channel { number: channel, client, server, relayed, peer } = *channel;
        let key =
            |from: SocketAddr, number, own| RelayKey { address: address(from.ip()), port: from.port(), number, own };
        let from_client = key(client, channel, number(server)?);
        let from_peer = key(peer, relayed.port(), number(SocketAddr::new(relayed.ip(), 0))?);
        Some((from_client, from_peer))
    }
}

/// A place without an owner.
const NOBODY: RelayOwner = RelayOwner {
    allocation: 0,
    generation: 0,
    tenant_length: 0,
    user_length: 0,
    tenant: [0; TENANT_MAX],
    user: [0; USER_MAX],
};

fn since(now: &RelayUsage, before: &RelayUsage) -> RelayUsage {
    let less = |a: [u64; 2], b: [u64; 2]| [a[0].wrapping_sub(b[0]), a[1].wrapping_sub(b[1])];
    RelayUsage { datagrams: less(now.datagrams, before.datagrams), bytes: less(now.bytes, before.bytes) }
}

fn bytes<const N: usize>(text: &str) -> Option<([u8; N], u16)> {
    let mut bytes = [0; N];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some((bytes, text.len() as u16))
}

fn text(bytes: &[u8], length: u16) -> String {
    String::from_utf8_lossy(bytes.get(..length.into()).unwrap_or_default()).into_owned()
}

/// What changes in the sum of a UDP packet's words when the addresses and ports `old` become `new`: words as they lie in memory, of
/// one's complement (RFC 1624). `length` and `head` are what else does.
fn change(old: [SocketAddr; 2], new: [SocketAddr; 2], length: u16, head: u16) -> u16 {
    let mut sum = u64::from(length) + u64::from(head);
    for at in old {
        words(at, |word| sum += u64::from(!word));
    }
    for at in new {
        words(at, |word| sum += u64::from(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn words(at: SocketAddr, mut each: impl FnMut(u16)) {
    each(at.port().to_be());
    let octets = match at.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    octets.as_chunks().0.iter().for_each(|word| each(u16::from_ne_bytes(*word)));
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::Map(MapError::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum of a datagram, from nothing (RFC 768).
    fn checksum(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> u16 {
        let length = (8 + payload.len() as u16).to_be();
        let mut sum = u64::from(17_u16.to_be()) + 2 * u64::from(length);
        words(from, |word| sum += u64::from(word));
        words(to, |word| sum += u64::from(word));
        for pair in payload.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn checksums_change_by_what_differs() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v4 = ["198.51.100.7:40000", "192.0.2.1:3478", "192.0.2.2:50001", "203.0.113.9:9"].map(at);
        let v6 = ["[2001:db8:7::7]:40000", "[2001:db8::1]:3478", "[2001:db8::2]:50001", "[2001:db8:9::9]:9"].map(at);
        for (client, server) in [(v4[0], v4[1]), (v6[0], v6[1])] {
            for (relayed, peer) in [(v4[2], v4[3]), (v6[2], v6[3])] {
                for length in 0..40_u8 {
                    let payload: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37) ^ length).collect();
                    let framed = [&[0x40, 0x07, 0, length][..], &payload].concat();
                    let (number, said) = (0x4007_u16.to_be(), u16::from(length).to_be());
                    let fold = |old: u16, change: u16, said: u16| {
                        let mut sum = u64::from(!old) + u64::from(change) + u64::from(said);
                        while sum > 0xffff {
                            sum = (sum & 0xffff) + (sum >> 16);
                        }
                        !(sum as u16)
                    };
                    // Zero and all ones are the same number in such sums.
                    let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
                    let to_peer = change([client, server], [relayed, peer], !8_u16.to_be(), !number);
                    let old = checksum(client, server, &framed);
                    assert!(same(fold(old, to_peer, !said), checksum(relayed, peer, &payload)));
                    let to_client = change([peer, relayed], [server, client], 8_u16.to_be(), number);
                    let old = checksum(peer, relayed, &payload);
                    assert!(same(fold(old, to_client, said), checksum(server, client, &framed)));
                }
            }
        }
    }

    #[test]
    fn names_are_kept_whole_or_not_at_all() {
        assert_eq!(bytes::<4>("abc"), Some(([b'a', b'b', b'c', 0], 3)));
        assert_eq!(bytes::<4>("abcde"), None);
        assert_eq!(text(&[b'a', b'b', 0], 2), "ab");
    }
}
