//! The allocations: in slots, found by five-tuple or by relay.

use std::net::SocketAddr;

use hashbrown::HashTable;

use super::allocation::Allocation;
use super::{FiveTuple, RelayId};
use crate::message::Family;

#[derive(Debug)]
struct Slot {
    /// One more with each allocation that was here, so that a relay's late datagrams reach nobody else.
    generation: u32,
    allocation: Option<Allocation>,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots by the hash of their five-tuple; what else is known of it is in the slot.
    flows: HashTable<u32>,
    seed: u64,
    limit: usize,
}

impl Table {
    /// Room for `limit` allocations is set aside at once: nothing moves later. The system gives memory as it is used.
    pub(super) fn new(limit: usize, seed: u64) -> Self {
        let limit = limit.min(RelayId::MAX_SLOTS);
        let flows = HashTable::with_capacity(limit);
        Self { slots: Vec::with_capacity(limit), free: Vec::with_capacity(limit), flows, seed, limit }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    #[inline]
    pub(super) fn find(&self, flow: &FiveTuple) -> Option<u32> {
        let same = |slot: &u32| self.get(*slot).is_some_and(|allocation| is_same(&allocation.flow, flow));
        self.flows.find(hash(self.seed, flow), same).copied()
    }

    /// The allocation that a relay belongs to.
    #[inline]
    pub(super) fn find_relay(&self, relay: RelayId) -> Option<u32> {
        let slot = self.slots.get(relay.slot() as usize)?;
        (slot.generation == relay.generation()).then_some(relay.slot())
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Allocation> {
        self.slots.get(slot as usize)?.allocation.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Allocation> {
        self.slots.get_mut(slot as usize)?.allocation.as_mut()
    }

    /// Where the next allocation goes; `None` when the table is full.
    pub(super) fn vacant(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.last() {
            return Some(*slot);
        }
        if self.slots.len() >= self.limit {
            return None;
        }
        self.slots.push(Slot { generation: 0, allocation: None });
        let slot = (self.slots.len() - 1) as u32;
        self.free.push(slot);
        Some(slot)
    }

    /// The relay of the allocation that is, or is about to be, in a slot.
    #[inline]
    pub(super) fn relay(&self, slot: u32, family: Family) -> Option<RelayId> {
        Some(RelayId::new(slot, family, self.slots.get(slot as usize)?.generation))
    }

    /// Puts an allocation into its [vacant](Self::vacant) slot.
    pub(super) fn insert(&mut self, slot: u32, allocation: Allocation) {
        let Self { slots, free, flows, seed, .. } = self;
        let hash_of = |slot: u32, slots: &[Slot]| {
            let allocation = slots.get(slot as usize).and_then(|slot| slot.allocation.as_ref());
            allocation.map_or(0, |allocation| hash(*seed, &allocation.flow))
        };
        if let Some(place) = slots.get_mut(slot as usize) {
            // Nothing came between, so it is the last one.
            free.pop_if(|free| *free == slot);
            place.allocation = Some(allocation);
            flows.insert_unique(hash_of(slot, slots), slot, |slot| hash_of(*slot, slots));
        }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Allocation> {
        let place = self.slots.get_mut(slot as usize)?;
        let allocation = place.allocation.take()?;
        place.generation = place.generation.wrapping_add(1);
        if let Ok(entry) = self.flows.find_entry(hash(self.seed, &allocation.flow), |known| *known == slot) {
            entry.remove();
        }
        self.free.push(slot);
        Some(allocation)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slots.iter_mut().filter_map(|slot| slot.allocation.as_mut())
    }

    /// Places in its slots, its list of free ones and its index.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; 3] {
        [self.slots.capacity(), self.free.capacity(), self.flows.capacity()]
    }

    /// Bytes of a place in the table, with what finds it: a table of slots that is half full at worst.
    #[cfg(test)]
    pub(super) const PLACE: usize = size_of::<Slot>() + 2 * (size_of::<u32>() + 1) + size_of::<u32>();
}

fn hash(seed: u64, flow: &FiveTuple) -> u64 {
    shoal_packet::hash_five_tuple(seed, flow.client, flow.server, flow.transport.protocol())
}

/// Whether they are the same five-tuple, however their addresses are written.
fn is_same(a: &FiveTuple, b: &FiveTuple) -> bool {
    let alike = |a: SocketAddr, b: SocketAddr| a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical();
    a.transport == b.transport && alike(a.client, b.client) && alike(a.server, b.server)
}
