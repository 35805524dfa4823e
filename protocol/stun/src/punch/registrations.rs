//! Who is registered: in slots, found by channel and peer id or by the secret that a peer was given.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashTable;
use subtle::ConstantTimeEq;

use super::connect::Reach;
use super::slots::{Id, Slots};
use crate::deadlines::Deadlines;
use crate::message::{self, Nat};
use crate::turn::address_key;

/// One peer.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) channel: Box<str>,
    pub(super) peer: [u8; 20],
    /// Where it is, as it has proven.
    pub(super) client: SocketAddr,
    /// Where it sent to last, and expects to hear from.
    pub(super) server: SocketAddr,
    pub(super) nat: Nat,
    /// Where it can be reached through a relay.
    pub(super) relayed: Option<SocketAddr>,
    pub(super) tenant: Arc<str>,
    pub(super) session: Option<Box<str>>,
    /// The unguessable part of its REGISTRATION.
    pub(super) secret: [u8; 10],
    pub(super) expires: u64,
    /// When its ticket ends.
    pub(super) ticket_ends: u64,
    /// Rates of the introductions that it asked for, and of those to it.
    pub(super) asked_us: u64,
    pub(super) introduced_us: u64,
    /// Whether its last state has been observed, and whether any has.
    pub(super) told: bool,
    pub(super) ever_told: bool,
}

impl Registration {
    pub(super) fn reach(&self) -> Reach {
        Reach { address: self.client, nat: self.nat, relayed: self.relayed }
    }
}

#[derive(Debug)]
pub(super) struct Registrations {
    shard: u16,
    seed: u64,
    slots: Slots<Registration>,
    /// Slots by the hash of channel and peer id; what else is known is in the slot.
    names: HashTable<u32>,
    /// Registrations of each address that has any.
    addresses: BTreeMap<u128, u32>,
    deadlines: Deadlines,
}

impl Registrations {
    pub(super) fn new(limit: usize, shard: u16, seed: u64) -> Self {
        Self {
            shard,
            seed,
            slots: Slots::new(limit),
            names: HashTable::new(),
            addresses: BTreeMap::new(),
            deadlines: Deadlines::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// How many an address has.
    pub(super) fn of_address(&self, client: IpAddr) -> u32 {
        self.addresses.get(&address_key(client)).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, id: Id) -> Option<&Registration> {
        self.slots.get(id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Registration> {
        self.slots.get_mut(id)
    }

    /// What is in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<Id> {
        self.slots.at(slot).map(|(id, _)| id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.slots.ids()
    }

    pub(super) fn find(&self, channel: &str, peer: &[u8; 20]) -> Option<Id> {
        let same = |slot: &u32| {
            self.slots.at(*slot).is_some_and(|(_, known)| known.peer == *peer && *known.channel == *channel)
        };
        let slot = self.names.find(hash(self.seed, channel, peer), same)?;
        self.slots.at(*slot).map(|(id, _)| id)
    }

    /// The registration that a REGISTRATION is the proof of. What was made by another shard or process is none.
    pub(super) fn find_secret(&self, registration: message::Registration) -> Option<Id> {
        let [a, b, s0, s1, s2, s3, secret @ ..] = registration.0;
        let (id, known) = self.slots.at(u32::from_be_bytes([s0, s1, s2, s3]))?;
        let right: bool = known.secret.ct_eq(&secret).into();
        (right && u16::from_be_bytes([a, b]) == self.shard).then_some(id)
    }

    /// What [`find_secret`](Self::find_secret) finds a registration by.
    pub(super) fn secret(&self, id: Id) -> Option<message::Registration> {
        let known = self.slots.get(id)?;
        let ([a, b], [s0, s1, s2, s3]) = (self.shard.to_be_bytes(), id.slot.to_be_bytes());
        let [c, d, e, f, g, h, i, j, k, l] = known.secret;
        Some(message::Registration([a, b, s0, s1, s2, s3, c, d, e, f, g, h, i, j, k, l]))
    }

    /// Adds one, unless there are too many. No other has its channel and peer id.
    pub(super) fn insert(&mut self, registration: Registration) -> Option<Id> {
        let (expires, address) = (registration.expires, address_key(registration.client.ip()));
        let key = hash(self.seed, &registration.channel, &registration.peer);
        let id = self.slots.insert(registration)?;
        let Self { seed, slots, names, .. } = self;
        names.insert_unique(key, id.slot, |slot| {
            slots.at(*slot).map_or(0, |(_, known)| hash(*seed, &known.channel, &known.peer))
        });
        *self.addresses.entry(address).or_default() += 1;
        self.deadlines.set(id.slot, expires);
        Some(id)
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Registration> {
        let registration = self.slots.remove(id)?;
        let key = hash(self.seed, &registration.channel, &registration.peer);
        if let Ok(entry) = self.names.find_entry(key, |slot| *slot == id.slot) {
            entry.remove();
        }
        let address = address_key(registration.client.ip());
        match self.addresses.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.addresses.remove(&address)),
        }
        self.deadlines.remove(id.slot);
        Some(registration)
    }

    /// Sets when one expires.
    pub(super) fn prolong(&mut self, id: Id, expires: u64) {
        if let Some(known) = self.slots.get_mut(id) {
            known.expires = expires;
            self.deadlines.set(id.slot, expires);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// One that has expired, if any has.
    pub(super) fn expired(&self, now_ms: u64) -> Option<Id> {
        let (at, slot) = self.deadlines.first()?;
        self.slots.at(slot).filter(|_| at <= now_ms).map(|(id, _)| id)
    }
}

fn hash(seed: u64, channel: &str, peer: &[u8; 20]) -> u64 {
    shoal_packet::hash_key(shoal_packet::hash_key(seed, channel.as_bytes()), peer)
}
