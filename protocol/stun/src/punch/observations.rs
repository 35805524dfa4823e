//! What is told of registrations: each as it is at last, however often it has changed since it was told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::registrations::Registration;
use crate::message::Nat;

/// A registration that began, changed, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation<'a> {
    /// Whose channel it is.
    pub tenant: &'a str,
    /// The channel's id.
    pub channel: &'a str,
    /// The peer's.
    pub peer: &'a [u8; 20],
    /// Where it is.
    pub address: SocketAddr,
    /// What it is behind.
    pub nat: Nat,
    /// False when it has ended: the rest is as it was last.
    pub registered: bool,
}

/// One that has ended, and had been told of.
#[derive(Debug)]
struct Ended {
    tenant: Arc<str>,
    channel: Box<str>,
    peer: [u8; 20],
    address: SocketAddr,
    nat: Nat,
}

#[derive(Debug, Default)]
pub(super) struct Observations {
    ended: VecDeque<Ended>,
    /// Slots with something to tell, each once.
    changed: VecDeque<u32>,
    /// Of each slot, whether it is among them.
    waits: Vec<bool>,
}

impl Observations {
    /// What is in a slot is not as it was told.
    pub(super) fn change(&mut self, slot: u32) {
        let index = slot as usize;
        if self.waits.len() <= index {
            self.waits.resize(index + 1, false);
        }
        if let Some(waits) = self.waits.get_mut(index)
            && !std::mem::replace(waits, true)
        {
            self.changed.push_back(slot);
        }
    }

    /// A slot with something to tell, or without: it may have become empty, or have been told already.
    pub(super) fn pop_changed(&mut self) -> Option<u32> {
        let slot = self.changed.pop_front()?;
        if let Some(waits) = self.waits.get_mut(slot as usize) {
            *waits = false;
        }
        Some(slot)
    }

    /// A registration has ended; false when there are too many of those, for `limit` in all.
    pub(super) fn end(&mut self, registration: Registration, limit: usize) -> bool {
        if !registration.ever_told {
            return true;
        }
        let Registration { tenant, channel, peer, client: address, nat, .. } = registration;
        let fits = self.ended.len() < limit;
        if fits {
            self.ended.push_back(Ended { tenant, channel, peer, address, nat });
        }
        fits
    }

    /// Hands out one that has ended, if any has.
    pub(super) fn take_ended(&mut self, each: &mut impl FnMut(&Observation<'_>)) -> bool {
        let Some(Ended { tenant, channel, peer, address, nat }) = self.ended.pop_front() else { return false };
        each(&Observation { tenant: &tenant, channel: &channel, peer: &peer, address, nat, registered: false });
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.changed.is_empty()
    }
}
